(* G3, Theorem 4.6 of the Grams paper: along  w' = velocity(g, k) - Phi,  s' = g - Psi,  with g = grad L(w) and
   k = grad K(s), the loss L and the energy L + K fall, for the cautious and for Grams' velocity of Rules.v, given
   <g, Phi> >= 0 and <k, Psi> >= 0; and Grams' rates are the lowest. For every n, and on the surfaces g_i = 0 whatever
   Filippov allows there. *)
From Coq Require Import Reals Lra Lia.
From AdamLab Require Import Meaning Sums Rules Order.
Local Open Scope R_scope.

(* A coordinate's velocity: off g = 0 it is given, and on it any mean of the velocities on the two sides. *)
Definition filippov (velocity : R -> R -> R) (g k v : R) : Prop :=
  (g <> 0 /\ v = velocity g k)
  \/ (g = 0 /\ exists s, 0 <= s <= 1 /\ v = s * velocity 1 k + (1 - s) * velocity (-1) k).

(* That a side has one velocity, which 1 and -1 stand for. *)
Ltac signs := unfold plain_velocity, cautious_velocity, grams_velocity, sgn, Rabs.
Lemma sides_have_one_velocity : forall velocity,
  velocity = plain_velocity \/ velocity = cautious_velocity \/ velocity = grams_velocity ->
  forall g k, (0 < g -> velocity g k = velocity 1 k) /\ (g < 0 -> velocity g k = velocity (-1) k).
Proof.
  intros velocity [-> | [-> | ->]] g k; signs;
  repeat match goal with
         | |- context [Rlt_dec ?a ?b] => destruct (Rlt_dec a b)
         | |- context [Rle_dec ?a ?b] => destruct (Rle_dec a b)
         | |- context [Rcase_abs ?a] => destruct (Rcase_abs a)
         end; split; intros; try lra; exfalso; nra.
Qed.

(* The steps of Rules.v are steps of length lr along these velocities, at k = Adam's step. *)
Section Lines.
  Variables (lr beta1 beta2 eps : R) (t : nat) (w g m v : R).
  Hypotheses (Hb1 : 0 <= beta1 < 1) (Hb2 : 0 <= beta2 < 1) (Heps : 0 < eps).
  Let k := u beta1 beta2 eps t g m v.

  Lemma adam_follows : adam_w lr beta1 beta2 eps t w g m v = w + lr * plain_velocity g k.
  Proof. rewrite adam_w_is by assumption; unfold plain_velocity, k; ring. Qed.

  Lemma grams_follows : grams_w lr beta1 beta2 eps t w g m v = w + lr * grams_velocity g k.
  Proof. rewrite grams_w_is by assumption; unfold grams_velocity, k; ring. Qed.

  Lemma cautious_follows : g <> 0 -> cautious_w lr beta1 beta2 eps t w g m v = w + lr * cautious_velocity g k.
  Proof.
    intros H; rewrite cautious_w_is by assumption; unfold cautious_velocity; fold k.
    destruct (Rlt_dec 0 (g * k)), (Rle_dec 0 (g * k)); try lra.
    replace k with 0 by (apply Rmult_eq_reg_l with g; [lra | exact H]); ring.
  Qed.
End Lines.

Lemma coordinate_rate : forall velocity g k v,
  velocity = cautious_velocity \/ velocity = grams_velocity -> filippov velocity g k v -> g * v <= Rmin 0 (- (g * k)).
Proof.
  intros velocity g k v Hvel [[Hg ->] | [-> _]].
  2: { rewrite !Rmult_0_l, Ropp_0; unfold Rmin; destruct (Rle_dec 0 0); lra. }
  destruct Hvel as [-> | ->]; signs; unfold Rmin;
  repeat match goal with
         | |- context [Rlt_dec ?a ?b] => destruct (Rlt_dec a b)
         | |- context [Rle_dec ?a ?b] => destruct (Rle_dec a b)
         | |- context [Rcase_abs ?a] => destruct (Rcase_abs a)
         end; nra.
Qed.

Lemma grams_rate : forall g k v, filippov grams_velocity g k v -> g * v = - Rabs (g * k).
Proof.
  intros g k v [[Hg ->] | [-> _]]; [| rewrite !Rmult_0_l, Rabs_R0; ring].
  unfold grams_velocity; rewrite Rabs_mult, <- (times_sgn g); ring.
Qed.

Lemma cautious_rate : forall g k v, filippov cautious_velocity g k v -> g * v = Rmin 0 (- (g * k)).
Proof.
  intros g k v [[Hg ->] | [-> _]].
  - unfold cautious_velocity, Rmin; destruct (Rle_dec 0 (g * k)), (Rle_dec 0 (- (g * k))); lra.
  - rewrite !Rmult_0_l, Ropp_0; unfold Rmin; destruct (Rle_dec 0 0); ring.
Qed.

Section Rates.
  Variables (n : nat) (g k phi psi v : vector).
  (* v is the velocity without Phi, so that w' = v - phi and s' = g - psi *)
  Definition loss_rate : R := dot n g (fun i => v i - phi i).
  Definition energy_rate : R := loss_rate + dot n k (fun i => g i - psi i).

  Lemma loss_rate_is : loss_rate = dot n g v - dot n g phi.
  Proof.
    unfold loss_rate, dot, Rminus; rewrite <- (Rmult_1_l (sum n (fun i => g i * phi i))), Ropp_mult_distr_l.
    rewrite <- sum_scale, <- sum_plus; apply sum_ext; intros; ring.
  Qed.

  Lemma energy_rate_is : energy_rate = dot n g v + dot n g k - dot n g phi - dot n k psi.
  Proof.
    unfold energy_rate; rewrite loss_rate_is; unfold dot.
    replace (sum n (fun i => k i * (g i - psi i)))
      with (sum n (fun i => g i * k i) + -1 * sum n (fun i => k i * psi i)); [ring |].
    rewrite <- sum_scale, <- sum_plus; apply sum_ext; intros; ring.
  Qed.

  Theorem plain_energy_balance :
    (forall i, (i < n)%nat -> v i = plain_velocity (g i) (k i)) -> energy_rate = - dot n g phi - dot n k psi.
  Proof.
    intros H; rewrite energy_rate_is.
    replace (dot n g v) with (- dot n g k); [ring |].
    unfold dot; rewrite <- (Rmult_1_l (sum n (fun i => g i * k i))), Ropp_mult_distr_l, <- sum_scale.
    apply sum_ext; intros i Hi; rewrite (H i Hi); unfold plain_velocity; ring.
  Qed.

  Variable velocity : R -> R -> R.
  Hypothesis Hvelocity : velocity = cautious_velocity \/ velocity = grams_velocity.
  Hypothesis Hv : forall i, (i < n)%nat -> filippov velocity (g i) (k i) (v i).

  Theorem rates_are_bounded : loss_rate <= - dot n g phi /\ energy_rate <= - dot n g phi - dot n k psi.
  Proof.
    assert (H0 : dot n g v <= 0 /\ dot n g v + dot n g k <= 0).
    { unfold dot; rewrite <- sum_plus.
      split; rewrite <- (sum_zero n); apply sum_le; intros i Hi;
      pose proof (coordinate_rate velocity (g i) (k i) (v i) Hvelocity (Hv i Hi)) as H;
      unfold Rmin in H; destruct (Rle_dec 0 (- (g i * k i))); lra. }
    rewrite loss_rate_is, energy_rate_is; lra.
  Qed.

  Theorem both_rates_fall : 0 <= dot n g phi -> 0 <= dot n k psi -> loss_rate <= 0 /\ energy_rate <= 0.
  Proof. intros; pose proof rates_are_bounded; lra. Qed.
End Rates.

Theorem grams_falls_fastest : forall n g k phi psi v_grams v_cautious v_plain,
  (forall i, (i < n)%nat -> filippov grams_velocity (g i) (k i) (v_grams i)) ->
  (forall i, (i < n)%nat -> filippov cautious_velocity (g i) (k i) (v_cautious i)) ->
  (forall i, (i < n)%nat -> v_plain i = plain_velocity (g i) (k i)) ->
  loss_rate n g phi v_grams <= loss_rate n g phi v_cautious <= loss_rate n g phi v_plain
  /\ energy_rate n g k phi psi v_grams <= energy_rate n g k phi psi v_cautious <= energy_rate n g k phi psi v_plain.
Proof.
  intros n g k phi psi a b c Ha Hb Hc; rewrite !energy_rate_is, !loss_rate_is.
  assert (dot n g a <= dot n g b <= dot n g c); [| lra].
  split; apply sum_le; intros i Hi; rewrite (cautious_rate _ _ _ (Hb i Hi)).
  - rewrite (grams_rate _ _ _ (Ha i Hi)); unfold Rmin, Rabs.
    destruct (Rle_dec 0 (- (g i * k i))), (Rcase_abs (g i * k i)); lra.
  - rewrite (Hc i Hi); unfold plain_velocity, Rmin; destruct (Rle_dec 0 (- (g i * k i))); lra.
Qed.

Lemma falls : forall (f f' : R -> R) a b,
  (forall c, derivable_pt_lim f c (f' c)) -> (forall c, f' c <= 0) -> a <= b -> f b <= f a.
Proof.
  intros f f' a b Hd Hneg [Hab | ->]; [| lra].
  destruct (MVT_cor2 f f' a b Hab (fun c _ => Hd c)) as [c [Hc _]]; specialize (Hneg c); nra.
Qed.

(* Along a solution: L (w tau) and L (w tau) + K (s tau) never rise. Phi and Psi may see g and s, as Lion-K's Phi does.
   That their derivatives are <grad L, w'> and <grad K, s'> is the chain rule. *)
Section Solution.
  Variables (n : nat) (L K : vector -> R) (grad_L grad_K : vector -> vector) (Phi Psi : vector -> vector -> vector).
  Variables (w s v : R -> vector) (velocity : R -> R -> R).
  Hypothesis Hvelocity : velocity = cautious_velocity \/ velocity = grams_velocity.
  Hypothesis Hv : forall tau i, (i < n)%nat -> filippov velocity (grad_L (w tau) i) (grad_K (s tau) i) (v tau i).
  Hypothesis chain_L : forall tau, derivable_pt_lim (fun r => L (w r)) tau
    (dot n (grad_L (w tau)) (fun i => v tau i - Phi (grad_L (w tau)) (s tau) i)).
  Hypothesis chain_K : forall tau, derivable_pt_lim (fun r => K (s r)) tau
    (dot n (grad_K (s tau)) (fun i => grad_L (w tau) i - Psi (grad_L (w tau)) (s tau) i)).
  Hypothesis push : forall tau, 0 <= dot n (grad_L (w tau)) (Phi (grad_L (w tau)) (s tau)).
  Hypothesis friction : forall tau, 0 <= dot n (grad_K (s tau)) (Psi (grad_L (w tau)) (s tau)).

  Theorem loss_and_energy_fall : forall a b, a <= b ->
    L (w b) <= L (w a) /\ L (w b) + K (s b) <= L (w a) + K (s a).
  Proof.
    assert (rates : forall tau, _ <= 0 /\ _ <= 0) by
      exact (fun tau => both_rates_fall n (grad_L (w tau)) (grad_K (s tau)) (Phi (grad_L (w tau)) (s tau))
                          (Psi (grad_L (w tau)) (s tau)) (v tau) velocity Hvelocity (Hv tau) (push tau) (friction tau)).
    intros a b Hab; split.
    - refine (falls (fun r => L (w r)) _ a b chain_L _ Hab); intros c; exact (proj1 (rates c)).
    - refine (falls (fun r => L (w r) + K (s r)) _ a b
                (fun c => derivable_pt_lim_plus _ _ _ _ _ (chain_L c) (chain_K c)) _ Hab).
      intros c; exact (proj2 (rates c)).
  Qed.
End Solution.

(* Where the two conditions come from: a convex K whose least value is at 0, hence a gradient that is monotone and 0 at 0. *)
Section Convex.
  Variables (n : nat) (K : vector -> R) (grad_K : vector -> vector) (c gamma : R).
  Hypothesis convex : forall x y, K x + dot n (grad_K x) (fun i => y i - x i) <= K y.
  Hypothesis least : forall i, (i < n)%nat -> grad_K (fun _ => 0) i = 0.
  Hypotheses (Hc : 0 < c) (Hgamma : 0 <= gamma).

  Lemma monotone : forall x y, 0 <= dot n (fun i => grad_K x i - grad_K y i) (fun i => x i - y i).
  Proof.
    intros x y; pose proof (convex x y); pose proof (convex y x).
    replace (dot n (fun i => grad_K x i - grad_K y i) (fun i => x i - y i))
      with (- (dot n (grad_K x) (fun i => y i - x i) + dot n (grad_K y) (fun i => x i - y i))); [lra |].
    unfold dot; rewrite <- sum_plus, <- (Rmult_1_l (sum n _)), Ropp_mult_distr_l, <- sum_scale.
    apply sum_ext; intros; ring.
  Qed.

  Theorem friction_takes_energy : forall s, 0 <= dot n (grad_K s) (fun i => gamma * s i).
  Proof.
    intros s; replace (dot n (grad_K s) (fun i => gamma * s i)) with
      (gamma * dot n (fun i => grad_K s i - grad_K (fun _ => 0) i) (fun i => s i - 0)).
    - apply Rmult_le_pos; [exact Hgamma | exact (monotone s (fun _ => 0))].
    - unfold dot; rewrite <- sum_scale; apply sum_ext; intros i Hi; rewrite (least i Hi); ring.
  Qed.

  Theorem heavy_ball_pushes_down : forall g, 0 <= dot n g (fun i => c * g i).
  Proof. intros g; apply sum_nonneg; intros i _; replace (g i * (c * g i)) with (c * (g i * g i)) by ring; nra. Qed.

  Theorem lion_k_pushes_down : forall g s, 0 <= dot n g (fun i => grad_K (fun j => s j + c * g j) i - grad_K s i).
  Proof.
    intros g s; apply Rmult_le_reg_l with c; [exact Hc |]; rewrite Rmult_0_r.
    pose proof (monotone (fun j => s j + c * g j) s) as H.
    replace (c * dot n g (fun i => grad_K (fun j => s j + c * g j) i - grad_K s i)) with
      (dot n (fun i => grad_K (fun j => s j + c * g j) i - grad_K s i) (fun i => s i + c * g i - s i)); [exact H |].
    unfold dot; rewrite <- sum_scale; apply sum_ext; intros; ring.
  Qed.
End Convex.

(* So along every solution of Lion-K's flow, whose Phi sees s. *)
Corollary lion_k_falls : forall n (L K : vector -> R) grad_L grad_K c gamma (w s v : R -> vector) velocity,
  velocity = cautious_velocity \/ velocity = grams_velocity ->
  (forall x y, K x + dot n (grad_K x) (fun i => y i - x i) <= K y) ->
  (forall i, (i < n)%nat -> grad_K (fun _ => 0) i = 0) -> 0 < c -> 0 <= gamma ->
  (forall tau i, (i < n)%nat -> filippov velocity (grad_L (w tau) i) (grad_K (s tau) i) (v tau i)) ->
  (forall tau, derivable_pt_lim (fun r => L (w r)) tau (dot n (grad_L (w tau))
    (fun i => v tau i - (grad_K (fun j => s tau j + c * grad_L (w tau) j) i - grad_K (s tau) i)))) ->
  (forall tau, derivable_pt_lim (fun r => K (s r)) tau (dot n (grad_K (s tau))
    (fun i => grad_L (w tau) i - gamma * s tau i))) ->
  forall a b, a <= b -> L (w b) <= L (w a) /\ L (w b) + K (s b) <= L (w a) + K (s a).
Proof.
  intros n L K grad_L grad_K c gamma w s v velocity Hvelocity convex least Hc Hgamma Hv chain_L chain_K.
  apply (loss_and_energy_fall n L K grad_L grad_K
    (fun g x i => grad_K (fun j => x j + c * g j) i - grad_K x i) (fun _ x i => gamma * x i) w s v velocity
    Hvelocity Hv chain_L chain_K).
  - intros tau; apply lion_k_pushes_down with (K := K); assumption.
  - intros tau; apply friction_takes_energy with (K := K); assumption.
Qed.
