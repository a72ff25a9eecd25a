(* A1: the step of Adams (lines 8 to 12, without decay) is at most lr pi / 2 in every coordinate, or lr (pi / 2) /
   (1 - beta1^t) in the released package's form, less than that from every state that a run reaches; it is 0 where there
   was no gradient yet; and a run whose gradients are multiplied by c > 0 takes the same steps, by c < 0 the opposite. *)
From Coq Require Import Reals Lra Lia.
From AdamLab Require Import Meaning Rules Order.
Local Open Scope R_scope.

Lemma between : forall b, 0 < b < 1 -> 0 <= b < 1.
Proof. intros; lra. Qed.

(* atan2 on the half plane x >= 0, which is where a root puts x *)
Lemma atan2_zero : atan2 0 0 = 0.
Proof. unfold atan2; destruct (Rlt_dec 0 0); lra. Qed.

Ltac quadrant := repeat match goal with
  | |- context [Rlt_dec ?a ?b] => destruct (Rlt_dec a b)
  | |- context [Rle_dec ?a ?b] => destruct (Rle_dec a b)
  end.

Lemma atan2_bound : forall y x, 0 <= x -> - (PI / 2) <= atan2 y x <= PI / 2.
Proof.
  intros y x Hx; pose proof PI_RGT_0; pose proof (atan_bound (y / x)); unfold atan2; quadrant; lra.
Qed.

Lemma atan2_bound_strict : forall y x, 0 <= x -> (x = 0 -> y = 0) -> - (PI / 2) < atan2 y x < PI / 2.
Proof.
  intros y x Hx H0; pose proof PI_RGT_0; pose proof (atan_bound (y / x)); unfold atan2; quadrant; try lra;
  assert (y = 0) by (apply H0; lra); lra.
Qed.

Lemma atan2_scale : forall c y x, 0 < c -> 0 <= x -> atan2 (c * y) (c * x) = atan2 y x.
Proof.
  intros c y x Hc Hx; unfold atan2.
  destruct (Rlt_dec 0 x) as [H | H].
  - assert (0 < c * x) by nra; destruct (Rlt_dec 0 (c * x)); [f_equal; field; lra | lra].
  - replace x with 0 by lra; rewrite Rmult_0_r; destruct (Rlt_dec 0 0); [lra |].
    quadrant; try reflexivity; exfalso; nra.
Qed.

Lemma atan2_opp : forall y x, 0 <= x -> atan2 (- y) x = - atan2 y x.
Proof.
  intros y x Hx; unfold atan2; destruct (Rlt_dec 0 x) as [H | H].
  - rewrite <- atan_opp; f_equal; field; lra.
  - quadrant; lra.
Qed.

Section Step.
  Variables (lr beta1 beta2 : R) (t : nat).
  Hypotheses (Hlr : 0 < lr) (Hb1 : 0 <= beta1 < 1) (Hb2 : 0 < beta2 < 1).

  Definition y (g m : R) : R := (beta1 * m + (1 - beta1) * g) / (1 - beta1 ^ (1 + t)).
  Definition x (g v : R) : R := sqrt ((beta2 * v + (1 - beta2) * g ^ 2) / (1 - beta2 ^ (1 + t))).
  Definition released_y (g m : R) : R := beta1 * m + (1 - beta1) * g.

  Ltac same_root g v :=
    match goal with
    | |- context [sqrt ?a] =>
        replace a with ((beta2 * v + (1 - beta2) * g ^ 2) / (1 - beta2 ^ (1 + t)))
          by (pose proof (power_below_one beta2 t (between beta2 Hb2)); field; lra)
    end.

  Lemma adams_w_is : forall w g m v, adams_w lr beta1 beta2 t w g m v = w - lr * atan2 (y g m) (x g v).
  Proof.
    intros; unfold adams_w; same_root g v; fold (x g v).
    match goal with
    | |- context [atan2 ?a _] =>
        replace a with (y g m) by (unfold y; pose proof (power_below_one beta1 t Hb1); field; lra)
    end; ring.
  Qed.

  Lemma adams_released_w_is : forall w g m v,
    adams_released_w lr beta1 beta2 t w g m v = w - lr / (1 - beta1 ^ (1 + t)) * atan2 (released_y g m) (x g v).
  Proof.
    intros; unfold adams_released_w; same_root g v; fold (x g v).
    match goal with
    | |- context [atan2 ?a _] => replace a with (released_y g m) by (unfold released_y; ring)
    end; pose proof (power_below_one beta1 t Hb1); field; lra.
  Qed.

  Lemma x_nonneg : forall g v, 0 <= x g v.
  Proof. intros; apply sqrt_pos. Qed.

  (* n = 0 only where no gradient was ever other than 0, and then m = 0: kept by every step, and true at the start *)
  Definition reachable (m v : R) : Prop := 0 <= v /\ (v = 0 -> m = 0).

  Theorem reachable_stays : forall g m v, reachable m v -> reachable (adams_m beta1 g m) (adams_v beta2 g v).
  Proof.
    intros g m v [Hv Hm]; unfold reachable, adams_m, adams_v; assert (0 <= g ^ 2) by (simpl; nra); split; [nra |].
    intros H0; assert (Hz : v = 0 /\ g ^ 2 = 0) by nra; destruct Hz as [Hz Hg]; rewrite (Hm Hz).
    assert (g = 0) as -> by (simpl in Hg; nra); ring.
  Qed.

  Lemma on_the_axis : forall g m v, reachable m v -> x g v = 0 -> m = 0 /\ g = 0.
  Proof.
    intros g m v [Hv Hm] H; unfold x in H; pose proof (power_below_one beta2 t (between beta2 Hb2)).
    assert (Hg : 0 <= g ^ 2) by (simpl; nra).
    apply sqrt_eq_0 in H; [| apply Rmult_le_pos; [nra | apply Rlt_le, Rinv_0_lt_compat; lra]].
    apply Rmult_eq_compat_r with (r := 1 - beta2 ^ (1 + t)) in H.
    unfold Rdiv in H; rewrite Rmult_assoc, Rinv_l, Rmult_0_l, Rmult_1_r in H by lra.
    assert (Hz : v = 0 /\ g ^ 2 = 0) by nra; destruct Hz as [Hz Hg0]; split; [exact (Hm Hz) | simpl in Hg0; nra].
  Qed.

  Lemma x_zero_y_zero : forall g m v, reachable m v -> x g v = 0 -> y g m = 0 /\ released_y g m = 0.
  Proof.
    intros g m v H Hx; destruct (on_the_axis g m v H Hx) as [-> ->]; unfold y, released_y; split; [| ring].
    unfold Rdiv; ring.
  Qed.

  (* The bounds. v >= 0 is all that "at most" needs. *)
  Theorem step_is_at_most : forall w g m v,
    Rabs (adams_w lr beta1 beta2 t w g m v - w) <= lr * (PI / 2)
    /\ Rabs (adams_released_w lr beta1 beta2 t w g m v - w) <= lr * (PI / 2) / (1 - beta1 ^ (1 + t)).
  Proof.
    intros; rewrite adams_w_is, adams_released_w_is; pose proof (power_below_one beta1 t Hb1).
    pose proof (atan2_bound (y g m) (x g v) (x_nonneg g v)).
    pose proof (atan2_bound (released_y g m) (x g v) (x_nonneg g v)); split.
    - apply Rabs_le; nra.
    - replace (w - _ - w) with (- (lr * atan2 (released_y g m) (x g v)) / (1 - beta1 ^ (1 + t))) by (field; lra).
      unfold Rdiv; rewrite Rabs_mult, (Rabs_pos_eq (/ _)) by (apply Rlt_le, Rinv_0_lt_compat; lra).
      apply Rmult_le_compat_r; [apply Rlt_le, Rinv_0_lt_compat; lra | apply Rabs_le; nra].
  Qed.

  Theorem step_is_less_than : forall w g m v, reachable m v ->
    Rabs (adams_w lr beta1 beta2 t w g m v - w) < lr * (PI / 2)
    /\ Rabs (adams_released_w lr beta1 beta2 t w g m v - w) < lr * (PI / 2) / (1 - beta1 ^ (1 + t)).
  Proof.
    intros w g m v H; rewrite adams_w_is, adams_released_w_is; pose proof (power_below_one beta1 t Hb1).
    pose proof (atan2_bound_strict (y g m) (x g v) (x_nonneg g v) (fun e => proj1 (x_zero_y_zero g m v H e))).
    pose proof (atan2_bound_strict (released_y g m) (x g v) (x_nonneg g v) (fun e => proj2 (x_zero_y_zero g m v H e))).
    split.
    - apply Rabs_def1; nra.
    - replace (w - _ - w) with (- (lr * atan2 (released_y g m) (x g v)) / (1 - beta1 ^ (1 + t))) by (field; lra).
      unfold Rdiv; rewrite Rabs_mult, (Rabs_pos_eq (/ _)) by (apply Rlt_le, Rinv_0_lt_compat; lra).
      apply Rmult_lt_compat_r; [apply Rinv_0_lt_compat; lra | apply Rabs_def1; nra].
  Qed.

  Theorem no_step_without_a_gradient : forall w,
    adams_w lr beta1 beta2 t w 0 0 0 = w /\ adams_released_w lr beta1 beta2 t w 0 0 0 = w.
  Proof.
    intros w; rewrite adams_w_is, adams_released_w_is.
    replace (y 0 0) with 0 by (unfold y, Rdiv; ring); replace (released_y 0 0) with 0 by (unfold released_y; ring).
    replace (x 0 0) with 0; [rewrite atan2_zero; split; ring |].
    unfold x; replace (_ / _) with 0 by (unfold Rdiv; ring); symmetry; apply sqrt_0.
  Qed.

  (* What a gradient times c does from the state (c m, c^2 v). *)
  Lemma x_scales : forall c g v, 0 <= v -> x (c * g) (c ^ 2 * v) = Rabs c * x g v.
  Proof.
    intros c g v Hv; unfold x; pose proof (power_below_one beta2 t (between beta2 Hb2)).
    rewrite <- (sqrt_Rsqr_abs c), <- sqrt_mult_alt by apply Rle_0_sqr.
    f_equal; unfold Rsqr; field; lra.
  Qed.

  Lemma point_scales : forall c g m v, c <> 0 -> 0 <= v ->
    atan2 (y (c * g) (c * m)) (x (c * g) (c ^ 2 * v)) = sgn c * atan2 (y g m) (x g v)
    /\ atan2 (released_y (c * g) (c * m)) (x (c * g) (c ^ 2 * v)) = sgn c * atan2 (released_y g m) (x g v).
  Proof.
    intros c g m v Hc Hv; rewrite x_scales by exact Hv; pose proof (x_nonneg g v) as Hx.
    replace (y (c * g) (c * m)) with (c * y g m) by (unfold y, Rdiv; ring).
    replace (released_y (c * g) (c * m)) with (c * released_y g m) by (unfold released_y; ring).
    destruct (sgn_cases c) as [Hs | [Hs | [? _]]]; [| | lra]; rewrite Hs; pose proof (times_sgn c) as Ha; rewrite Hs in Ha.
    - assert (0 < c) by (pose proof (Rabs_pos_lt c Hc); lra); rewrite <- Ha, !Rmult_1_r, !Rmult_1_l.
      split; apply atan2_scale; assumption.
    - assert (0 < - c) by (pose proof (Rabs_pos_lt c Hc); lra); replace (Rabs c) with (- c) by lra.
      replace (c * y g m) with (- c * - y g m) by ring.
      replace (c * released_y g m) with (- c * - released_y g m) by ring.
      rewrite !atan2_scale, !atan2_opp by assumption; split; ring.
  Qed.
End Step.

(* A run: the state after T steps with the gradients g 0, g 1, ... of one coordinate, from m = v = 0. *)
Section Run.
  Variables (step : R -> R -> R -> nat -> R -> R -> R -> R -> R) (lr beta1 beta2 : R).
  Hypotheses (Hlr : 0 < lr) (Hb1 : 0 <= beta1 < 1) (Hb2 : 0 < beta2 < 1).
  Hypothesis form : step = adams_w \/ step = adams_released_w.

  Fixpoint run (g : nat -> R) (w0 : R) (T : nat) : R * R * R :=
    match T with
    | O => (w0, 0, 0)
    | S t => let '(w, m, v) := run g w0 t in
        (step lr beta1 beta2 t w (g t) m v, adams_m beta1 (g t) m, adams_v beta2 (g t) v)
    end.
  Definition w_of (state : R * R * R) : R := fst (fst state).

  Lemma run_reachable : forall g w0 T, let '(_, m, v) := run g w0 T in reachable m v.
  Proof.
    induction T as [| T IH]; simpl; [split; lra |].
    destruct (run g w0 T) as [[w m] v]; apply reachable_stays; assumption.
  Qed.

  Theorem a_run_does_not_see_the_gradients_scale : forall g c w0 T, c <> 0 ->
    w_of (run (fun t => c * g t) w0 T) - w0 = sgn c * (w_of (run g w0 T) - w0).
  Proof.
    intros g c w0 T Hc.
    assert (H : let '(w, m, v) := run g w0 T in
      exists w', run (fun t => c * g t) w0 T = (w', c * m, c ^ 2 * v) /\ w' - w0 = sgn c * (w - w0)).
    { induction T as [| T IH]; [exists w0; simpl; split; [repeat f_equal; ring | ring] |].
      pose proof (run_reachable g w0 T) as Hr; simpl; destruct (run g w0 T) as [[w m] v].
      destruct IH as [w' [-> Hw]]; destruct Hr as [Hv _].
      destruct (point_scales beta1 beta2 T Hb2 c (g T) m v Hc Hv) as [Hp Hq].
      exists (step lr beta1 beta2 T w' (c * g T) (c * m) (c ^ 2 * v)); split.
      - repeat f_equal; unfold adams_m, adams_v; ring.
      - destruct form as [-> | ->].
        + rewrite !adams_w_is, Hp by assumption; nra.
        + rewrite !adams_released_w_is, Hq by assumption; nra. }
    destruct (run g w0 T) as [[w m] v]; destruct H as [w' [-> H]]; exact H.
  Qed.
End Run.
