(* G4, Theorem 4.15 of the Grams paper with the condition that mends it, without momentum (beta1 = 0): on every L-smooth
   function of n variables that meets the PL condition with mu, with gradients bounded by G along the run,

       lr L <= eps <= (4 e - 1) G   gives   f(w_T) - f* <= 4 G / (mu lr T) (f(w_0) - f* )   for every T >= 1,

   on the steps of Rules.v from m = v = 0. With beta1 = 0 Adam, Cautious without rescaling and Grams
   are one rule. *)
From Coq Require Import Reals Lra Lia FunctionalExtensionality.
From AdamLab Require Import Meaning Sums Rules Order.
Local Open Scope R_scope.

(* What is assumed of f. *)
Definition has_gradient (n : nat) (f : vector -> R) (grad : vector -> vector) : Prop :=
  forall x d s, derivable_pt_lim (fun r => f (fun i => x i + r * d i)) s (dot n (grad (fun i => x i + s * d i)) d).

Definition L_smooth (n : nat) (grad : vector -> vector) (L : R) : Prop := (* |grad y - grad x| <= L |y - x|, squared *)
  forall x y, dot n (fun i => grad y i - grad x i) (fun i => grad y i - grad x i)
              <= L ^ 2 * dot n (fun i => y i - x i) (fun i => y i - x i).

Definition PL (n : nat) (f : vector -> R) (grad : vector -> vector) (mu minimum : R) : Prop :=
  forall x, minimum <= f x /\ 2 * mu * (f x - minimum) <= dot n (grad x) (grad x).

Lemma derivative_of_a_parabola : forall a b s, derivable_pt_lim (fun r => a * r + b * r ^ 2) s (a + b * (2 * s)).
Proof.
  intros a b s; replace (a + b * (2 * s)) with (a * 1 + b * (INR 2 * s ^ 1)) by (simpl; ring).
  exact (derivable_pt_lim_plus _ _ _ _ _
           (derivable_pt_lim_scal id a s 1 (derivable_pt_lim_id s))
           (derivable_pt_lim_scal (fun r => r ^ 2) b s _ (derivable_pt_lim_pow s 2))).
Qed.

Lemma descent : forall n f grad L, 0 < L -> has_gradient n f grad -> L_smooth n grad L -> forall x d,
  f (fun i => x i + d i) <= f x + dot n (grad x) d + L / 2 * dot n d d.
Proof.
  intros n f grad L HL Hg Hs x d.
  set (a := dot n (grad x) d); set (D := dot n d d).
  pose (at_ := fun r : R => (fun i => x i + r * d i) : vector).
  destruct (MVT_cor2 (fun r => f (at_ r) - (a * r + L / 2 * D * r ^ 2))
              (fun s => dot n (grad (at_ s)) d - (a + L / 2 * D * (2 * s))) 0 1 Rlt_0_1) as [c [Hc [H0 _]]].
  { intros s _; exact (derivable_pt_lim_minus _ _ _ _ _ (Hg x d s) (derivative_of_a_parabola a (L / 2 * D) s)). }
  assert (E1 : at_ 1 = fun i => x i + d i) by (apply functional_extensionality; intros i; unfold at_; ring).
  assert (E0 : at_ 0 = x) by (apply functional_extensionality; intros i; unfold at_; ring).
  rewrite E1, E0 in Hc.
  assert (Hd : dot n (grad (at_ c)) d - a <= L * c * D); [| lra].
  (* |grad(x + c d) - grad x - L c d|^2 >= 0, and the square of the difference is at most (L c)^2 |d|^2 *)
  pose proof (Hs x (at_ c)) as Hsq.
  replace (dot n (fun i => at_ c i - x i) (fun i => at_ c i - x i)) with (c ^ 2 * D) in Hsq
    by (unfold D, dot; rewrite <- sum_scale; apply sum_ext; intros; unfold at_; ring).
  set (g := fun i => grad (at_ c) i - grad x i) in *; change (fun i => grad (at_ c) i - grad x i) with g in Hsq.
  assert (Ha : dot n (grad (at_ c)) d - a = dot n g d).
  { unfold a, dot, Rminus; rewrite <- (Rmult_1_l (sum n (fun i => grad x i * d i))), Ropp_mult_distr_l.
    rewrite <- sum_scale, <- sum_plus; apply sum_ext; intros; unfold g; ring. }
  assert (Hn : 0 <= dot n g g + (-2 * (L * c)) * dot n g d + (L * c) ^ 2 * D).
  { apply Rle_trans with (dot n (fun i => g i - L * c * d i) (fun i => g i - L * c * d i)); [apply dot_nonneg |].
    right; unfold D, dot; rewrite <- !sum_scale, <- !sum_plus; apply sum_ext; intros; ring. }
  rewrite Ha; assert (HLc : 0 < L * c) by nra.
  apply Rmult_le_reg_l with (2 * (L * c)); [lra |]; nra.
Qed.

(* With beta1 = 0 the three rules take one step: g over the denominator. *)
Section OneRule.
  Variables (lr beta2 eps : R) (t : nat) (w g m v : R).
  Hypotheses (Hb2 : 0 <= beta2 < 1) (Heps : 0 < eps).
  Let root := sqrt ((beta2 * v + (1 - beta2) * g ^ 2) / (1 - beta2 ^ (1 + t))).

  Lemma u_is : u 0 beta2 eps t g m v = g / (root + eps).
  Proof.
    unfold u; fold root; assert (0 <= root) by apply sqrt_pos.
    replace (0 ^ (1 + t)) with 0 by (simpl; ring); field; lra.
  Qed.

  Lemma zero_is_allowed : 0 <= 0 < 1.
  Proof. lra. Qed.

  Theorem without_momentum_the_three_are_one :
    grams_w lr 0 beta2 eps t w g m v = w - lr / (root + eps) * g
    /\ cautious_w lr 0 beta2 eps t w g m v = w - lr / (root + eps) * g
    /\ adam_w lr 0 beta2 eps t w g m v = w - lr / (root + eps) * g.
  Proof.
    pose proof zero_is_allowed as H0; rewrite grams_w_is, cautious_w_is, adam_w_is, u_is by assumption.
    assert (Hr : 0 < root + eps) by (pose proof (sqrt_pos ((beta2 * v + (1 - beta2) * g ^ 2) / (1 - beta2 ^ (1 + t))));
      unfold root; lra).
    assert (Hi : 0 < / (root + eps)) by (apply Rinv_0_lt_compat; exact Hr).
    assert (Hg : sgn g * Rabs g = g) by
      (unfold sgn, Rabs; destruct (Rlt_dec 0 g), (Rlt_dec g 0), (Rcase_abs g); lra).
    unfold Rdiv; rewrite Rabs_mult, (Rabs_pos_eq (/ (root + eps))) by lra; repeat split.
    - rewrite <- (Rmult_assoc (sgn g)), Hg; ring.
    - destruct (Rlt_dec 0 (g * (g * / (root + eps)))) as [H | H]; [ring |].
      destruct (Req_dec g 0) as [-> | H0']; [ring |]; exfalso; apply H; pose proof (Rsqr_pos_lt g H0') as Hp.
      unfold Rsqr in Hp; rewrite <- Rmult_assoc; apply Rmult_lt_0_compat; assumption.
    - ring.
  Qed.
End OneRule.

Section Convergence.
  Variables (n : nat) (f : vector -> R) (grad : vector -> vector) (L mu minimum G lr beta2 eps : R) (w0 : vector).
  Hypotheses (Hgrad : has_gradient n f grad) (Hsmooth : L_smooth n grad L) (HPL : PL n f grad mu minimum).
  Hypotheses (HL : 0 < L) (Hmu : 0 < mu) (Hlr : 0 < lr) (Hb2 : 0 <= beta2 < 1) (Heps : 0 < eps).

  (* w, m and v after T steps of Grams *)
  Fixpoint run (T : nat) : vector * vector * vector :=
    match T with
    | O => (w0, fun _ => 0, fun _ => 0)
    | S t => let '(w, m, v) := run t in
        (fun i => grams_w lr 0 beta2 eps t (w i) (grad w i) (m i) (v i),
         fun i => grams_m 0 (grad w i) (m i), fun i => grams_v beta2 (grad w i) (v i))
    end.
  Definition w_after (T : nat) : vector := fst (fst (run T)).
  Definition v_after (T : nat) : vector := snd (run T).
  Definition gap (T : nat) : R := f (w_after T) - minimum.

  Hypothesis Hbound : forall T i, (i < n)%nat -> Rabs (grad (w_after T) i) <= G.

  (* (2) of the proof: F3's bound of v *)
  Lemma second_moment_bound : forall T i, (i < n)%nat -> 0 <= v_after T i <= (1 - beta2 ^ T) * G ^ 2.
  Proof.
    induction T as [| T IH]; intros i Hi; [unfold v_after; simpl; lra |].
    specialize (IH i Hi); pose proof (Hbound T i Hi) as Hg; unfold w_after in Hg; unfold v_after in *; simpl.
    destruct (run T) as [[w m] v]; simpl in *; unfold grams_v.
    assert (Hsq : 0 <= grad w i ^ 2 <= G ^ 2) by
      (rewrite <- (pow2_abs (grad w i)); pose proof (Rabs_pos (grad w i)); split; [nra | apply pow_incr; lra]).
    simpl in Hsq; nra.
  Qed.

  Definition rate : R := mu * lr / (G + eps).

  (* (1) of the proof: what one step lowers f by *)
  Lemma one_step : lr * L <= eps -> 0 <= G -> forall T, gap (S T) <= (1 - rate) * gap T.
  Proof.
    intros Hstep HG T; destruct (HPL (w_after T)) as [_ Hpl].
    pose (root := fun i : nat =>
      sqrt ((beta2 * v_after T i + (1 - beta2) * grad (w_after T) i ^ 2) / (1 - beta2 ^ (1 + T)))).
    pose (d := (fun i => - (lr / (root i + eps) * grad (w_after T) i)) : vector).
    assert (Hw : w_after (S T) = fun i => w_after T i + d i).
    { apply functional_extensionality; intros i; unfold d, root, v_after, w_after; cbn [run].
      destruct (run T) as [[w m] v]; cbn [fst snd].
      destruct (without_momentum_the_three_are_one lr beta2 eps T (w i) (grad w i) (m i) (v i) Hb2 Heps) as [-> _]; ring. }
    pose proof (descent n f grad L HL Hgrad Hsmooth (w_after T) d) as Hd; rewrite <- Hw in Hd.
    assert (Hsum : dot n (grad (w_after T)) d + L / 2 * dot n d d
                   <= - (lr / (G + eps) / 2) * dot n (grad (w_after T)) (grad (w_after T))).
    { unfold dot; rewrite <- !sum_scale, <- sum_plus; apply sum_le; intros i Hi; unfold d.
      set (g := grad (w_after T) i); set (a := lr / (root i + eps)).
      assert (Hroot : 0 <= root i <= G).
      { split; [apply sqrt_pos |]; unfold root.
        pose proof (power_below_one beta2 T Hb2) as Hp.
        pose proof (second_moment_bound (S T) i Hi) as Hv; unfold v_after in Hv; cbn [run] in Hv.
        unfold v_after, w_after; destruct (run T) as [[w m] v]; cbn [fst snd] in *; unfold grams_v in Hv.
        apply Rle_trans with (sqrt (G ^ 2)); [| rewrite sqrt_pow2; lra].
        apply sqrt_le_1_alt, Rmult_le_reg_r with (1 - beta2 ^ (1 + T)); [lra |].
        unfold Rdiv; rewrite Rmult_assoc, Rinv_l, Rmult_1_r by lra.
        change (S T) with (1 + T)%nat in Hv; lra. }
      assert (Ha : lr / (G + eps) <= a <= lr / eps).
      { unfold a, Rdiv; split; (apply Rmult_le_compat_l; [lra |]); apply Rinv_le_contravar; lra. }
      assert (HaL : a * L <= 1).
      { apply Rle_trans with (lr / eps * L); [apply Rmult_le_compat_r; lra |].
        apply Rmult_le_reg_r with eps; [exact Heps |].
        replace (lr / eps * L * eps) with (lr * L) by (field; lra); lra. }
      assert (0 <= a) by (apply Rle_trans with (lr / (G + eps)); [apply Rlt_le, Rdiv_lt_0_compat; lra | lra]).
      assert (0 <= g * g) by nra.
      assert (a * (a * L) <= a) by nra.
      assert (g * g * (a * (a * L)) <= g * g * a) by (apply Rmult_le_compat_l; lra).
      assert (g * g * (lr / (G + eps)) <= g * g * a) by (apply Rmult_le_compat_l; lra).
      replace (g * - (a * g) + L / 2 * (- (a * g) * - (a * g)))
        with (- (g * g * a) + g * g * (a * (a * L)) / 2) by field; lra. }
    assert (Hq : 0 < lr / (G + eps)) by (apply Rdiv_lt_0_compat; lra).
    unfold gap; replace rate with (lr / (G + eps) * mu) by (unfold rate, Rdiv; ring); nra.
  Qed.

  Lemma gap_nonneg : forall T, 0 <= gap T.
  Proof. intros T; destruct (HPL (w_after T)); unfold gap; lra. Qed.

  (* (3) of the proof, with exp for the power: T q (1 - q)^T <= 1 / e *)
  Lemma gap_decays : lr * L <= eps -> 0 <= G -> forall T, gap T <= exp (- (rate * INR T)) * gap 0.
  Proof.
    intros Hstep HG; induction T as [| T IH].
    - simpl; rewrite Rmult_0_r, Ropp_0, exp_0; lra.
    - apply Rle_trans with (1 := one_step Hstep HG T).
      apply Rle_trans with (exp (- rate) * gap T).
      + apply Rmult_le_compat_r; [apply gap_nonneg |]; pose proof (exp_ineq1_le (- rate)); lra.
      + rewrite S_INR; replace (- (rate * (INR T + 1))) with (- rate + - (rate * INR T)) by ring.
        rewrite exp_plus, Rmult_assoc; apply Rmult_le_compat_l; [apply Rlt_le, exp_pos | exact IH].
  Qed.

  Theorem convergence : lr * L <= eps -> 0 <= G -> forall T, (1 <= T)%nat ->
    gap T <= (G + eps) / (exp 1 * mu * lr * INR T) * gap 0.
  Proof.
    intros Hstep HG T HT; apply Rle_trans with (1 := gap_decays Hstep HG T).
    apply Rmult_le_compat_r; [apply gap_nonneg |].
    assert (HTpos : 0 < INR T) by (apply lt_0_INR; lia).
    assert (Hq : 0 < rate) by (unfold rate; apply Rdiv_lt_0_compat; nra).
    assert (Hx : 0 < rate * INR T) by nra.
    replace ((G + eps) / (exp 1 * mu * lr * INR T)) with (/ (exp 1 * (rate * INR T)))
      by (unfold rate; pose proof (exp_pos 1); field; repeat split; lra).
    rewrite exp_Ropp; apply Rinv_le_contravar; [pose proof (exp_pos 1); nra |].
    pose proof (exp_ineq1_le (rate * INR T - 1)).
    replace (exp (rate * INR T)) with (exp 1 * exp (rate * INR T - 1)) by (rewrite <- exp_plus; f_equal; ring).
    apply Rmult_le_compat_l; [apply Rlt_le, exp_pos | lra].
  Qed.

  Theorem the_papers_bound_under_the_added_condition :
    lr * L <= eps -> eps <= (4 * exp 1 - 1) * G -> forall T, (1 <= T)%nat ->
    f (w_after T) - minimum <= 4 * G / (mu * lr * INR T) * (f w0 - minimum).
  Proof.
    intros Hstep HepsG T HT; pose proof (exp_ineq1_le 1) as He.
    assert (HG : 0 < G) by nra.
    apply Rle_trans with (1 := convergence Hstep (Rlt_le _ _ HG) T HT).
    apply Rmult_le_compat_r; [exact (gap_nonneg 0) |].
    assert (HTpos : 0 < INR T) by (apply lt_0_INR; lia).
    assert (0 < mu * lr * INR T) by (apply Rmult_lt_0_compat; nra).
    apply Rmult_le_reg_r with (exp 1 * (mu * lr * INR T)); [nra |].
    replace ((G + eps) / (exp 1 * mu * lr * INR T) * (exp 1 * (mu * lr * INR T))) with (G + eps)
      by (field; repeat split; lra).
    replace (4 * G / (mu * lr * INR T) * (exp 1 * (mu * lr * INR T))) with (4 * G * exp 1)
      by (field; repeat split; lra); lra.
  Qed.
End Convergence.

(* The assumptions can be met: the bowl |x|^2 / 2 has L = mu = 1, and its gradients stay below those of the start. *)
Section Bowl.
  Variables (n : nat) (lr beta2 eps : R) (w0 : vector).
  Hypotheses (Hlr : 0 < lr) (Hb2 : 0 <= beta2 < 1) (Heps : lr <= eps).
  Let bowl (x : vector) : R := dot n x x / 2.
  Let grad (x : vector) : vector := x.

  Lemma bowl_has_gradient : has_gradient n bowl grad.
  Proof.
    intros x d s; unfold bowl, grad.
    assert (E : forall r, dot n (fun i => x i + r * d i) (fun i => x i + r * d i) / 2
                          = dot n x x / 2 + (dot n x d * r + dot n d d / 2 * r ^ 2)).
    { intros r; unfold dot; replace (sum n (fun i => (x i + r * d i) * (x i + r * d i)))
        with (sum n (fun i => x i * x i) + 2 * r * sum n (fun i => x i * d i) + r ^ 2 * sum n (fun i => d i * d i));
        [field |].
      rewrite <- !sum_scale, <- !sum_plus; apply sum_ext; intros; ring. }
    replace (fun r => dot n (fun i => x i + r * d i) (fun i => x i + r * d i) / 2)
      with (fun r => dot n x x / 2 + (dot n x d * r + dot n d d / 2 * r ^ 2))
      by (apply functional_extensionality; intros r; symmetry; apply E).
    replace (dot n (fun i => x i + s * d i) d) with (0 + (dot n x d + dot n d d / 2 * (2 * s))).
    - exact (derivable_pt_lim_plus _ _ _ _ _ (derivable_pt_lim_const _ s) (derivative_of_a_parabola _ _ s)).
    - replace (0 + (dot n x d + dot n d d / 2 * (2 * s))) with (dot n x d + s * dot n d d) by field.
      unfold dot; rewrite <- sum_scale, <- sum_plus; apply sum_ext; intros; ring.
  Qed.

  Lemma bowl_gradients_stay : forall T i, Rabs (grad (w_after grad lr beta2 eps w0 T) i) <= Rabs (w0 i).
  Proof.
    induction T as [| T IH]; intros i; [unfold grad, w_after; simpl; lra |].
    apply Rle_trans with (2 := IH i); unfold grad, w_after; cbn [run].
    destruct (run _ _ _ _ _ T) as [[w m] v]; cbn [fst snd].
    destruct (without_momentum_the_three_are_one lr beta2 eps T (w i) (w i) (m i) (v i) Hb2 ltac:(lra)) as [-> _].
    set (root := sqrt _); assert (Hr : 0 <= root) by apply sqrt_pos.
    assert (0 <= lr / (root + eps) <= 1) by
      (split; [apply Rlt_le, Rdiv_lt_0_compat | apply Rmult_le_reg_r with (root + eps)]; try lra;
       replace (lr / (root + eps) * (root + eps)) with lr by (field; lra); lra).
    replace (w i - lr / (root + eps) * w i) with ((1 - lr / (root + eps)) * w i) by ring.
    rewrite Rabs_mult, (Rabs_pos_eq (1 - _)) by lra; pose proof (Rabs_pos (w i)); nra.
  Qed.

  Theorem a_bowl_meets_the_assumptions : forall G, (forall i, (i < n)%nat -> Rabs (w0 i) <= G) ->
    has_gradient n bowl grad /\ L_smooth n grad 1 /\ PL n bowl grad 1 0
    /\ forall T i, (i < n)%nat -> Rabs (grad (w_after grad lr beta2 eps w0 T) i) <= G.
  Proof.
    intros G HG; repeat split.
    - exact bowl_has_gradient.
    - intros x y; unfold grad; lra.
    - unfold bowl; pose proof (dot_nonneg n x); lra.
    - unfold bowl, grad; lra.
    - intros T i Hi; apply Rle_trans with (1 := bowl_gradients_stay T i); exact (HG i Hi).
  Qed.
End Bowl.
