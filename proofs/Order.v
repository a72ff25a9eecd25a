(* G1, Lemma 4.2 of the Grams paper: from one state the first-order change <g, w' - w> of a Grams step is at most a
   cautious step's, which is at most an Adam step's. The three are equal where no coordinate of Adam's step goes against
   its gradient, and both inequalities are strict where one does. For every n, on the steps of Rules.v. *)
From Coq Require Import Reals Lra Lia.
From AdamLab Require Import Meaning Sums Rules.
Local Open Scope R_scope.

Lemma power_below_one : forall b t, 0 <= b < 1 -> 0 <= b ^ (1 + t) < 1.
Proof.
  intros b t Hb; split; [apply pow_le; lra |].
  change (b * b ^ t < 1); apply Rle_lt_trans with (b * 1); [| lra].
  apply Rmult_le_compat_l; [lra | rewrite <- (pow1 t); apply pow_incr; lra].
Qed.

(* Adam's step over lr, lines 5 to 9. *)
Definition u (beta1 beta2 eps : R) (t : nat) (g m v : R) : R :=
  (beta1 * m + (1 - beta1) * g) / (1 - beta1 ^ (1 + t))
  / (sqrt ((beta2 * v + (1 - beta2) * g ^ 2) / (1 - beta2 ^ (1 + t))) + eps).

Section Step.
  Variables (beta1 beta2 eps : R) (t : nat).
  Hypotheses (Hb1 : 0 <= beta1 < 1) (Hb2 : 0 <= beta2 < 1) (Heps : 0 < eps).

  (* In whichever order SymPy prints the two denominators and the root, they are these and not 0. *)
  Ltac same_root g v :=
    match goal with
    | |- context [sqrt ?x] =>
        replace x with ((beta2 * v + (1 - beta2) * g ^ 2) / (1 - beta2 ^ (1 + t)))
          by (pose proof (power_below_one beta2 t Hb2); field; lra)
    end.
  Ltac same_fraction :=
    match goal with
    | |- context [sqrt ?x] => pose proof (sqrt_pos x)
    end; pose proof (power_below_one beta1 t Hb1); field; lra.

  Lemma adam_w_is : forall lr w g m v, adam_w lr beta1 beta2 eps t w g m v = w - lr * u beta1 beta2 eps t g m v.
  Proof. intros; unfold adam_w, u; same_root g v; same_fraction. Qed.

  Lemma grams_w_is : forall lr w g m v,
    grams_w lr beta1 beta2 eps t w g m v = w - lr * (sgn g * Rabs (u beta1 beta2 eps t g m v)).
  Proof.
    intros; unfold grams_w; same_root g v.
    match goal with
    | |- context [Rabs ?x] =>
        replace (Rabs x) with (Rabs (u beta1 beta2 eps t g m v))
          by (first [rewrite <- (Rabs_Ropp x); f_equal; unfold u; same_fraction | f_equal; unfold u; same_fraction])
    end; ring.
  Qed.

  Lemma cautious_w_is : forall lr w g m v,
    cautious_w lr beta1 beta2 eps t w g m v
    = w - lr * (if Rlt_dec 0 (g * u beta1 beta2 eps t g m v) then u beta1 beta2 eps t g m v else 0).
  Proof.
    intros; unfold cautious_w; repeat same_root g v.
    match goal with
    | |- context [Rlt_dec 0 ?x] =>
        replace x with (g * u beta1 beta2 eps t g m v) by (unfold u; same_fraction)
    end.
    destruct (Rlt_dec 0 (g * u beta1 beta2 eps t g m v)); unfold u; same_fraction.
  Qed.
End Step.

Section Order.
  Variables (n : nat) (lr beta1 beta2 eps : R) (t : nat) (w g m v : vector).
  Hypotheses (Hlr : 0 < lr) (Hb1 : 0 <= beta1 < 1) (Hb2 : 0 <= beta2 < 1) (Heps : 0 < eps).

  (* -eta <g, d>, what a step changes the loss by to first order *)
  Definition change (step : R -> R -> R -> R -> R) : R :=
    dot n g (fun i => step (w i) (g i) (m i) (v i) - w i).
  Definition adam_change := change (adam_w lr beta1 beta2 eps t).
  Definition cautious_change := change (cautious_w lr beta1 beta2 eps t).
  Definition grams_change := change (grams_w lr beta1 beta2 eps t).

  (* the same three, coordinate by coordinate, in x = g u *)
  Let x (i : nat) : R := g i * u beta1 beta2 eps t (g i) (m i) (v i).

  Lemma adam_change_is : adam_change = sum n (fun i => - lr * x i).
  Proof. apply sum_ext; intros i _; rewrite adam_w_is by assumption; unfold x; ring. Qed.

  Lemma cautious_change_is : cautious_change = sum n (fun i => - lr * (if Rlt_dec 0 (x i) then x i else 0)).
  Proof.
    apply sum_ext; intros i _; rewrite cautious_w_is by assumption; unfold x.
    destruct (Rlt_dec _ _); ring.
  Qed.

  Lemma grams_change_is : grams_change = sum n (fun i => - lr * Rabs (x i)).
  Proof.
    apply sum_ext; intros i _; rewrite grams_w_is by assumption; unfold x.
    rewrite Rabs_mult, <- (times_sgn (g i)); ring.
  Qed.

  Ltac by_sign i := unfold Rabs; destruct (Rcase_abs (x i)), (Rlt_dec 0 (x i)); nra.

  Theorem first_order_decrease_is_ordered : grams_change <= cautious_change <= adam_change.
  Proof.
    rewrite grams_change_is, cautious_change_is, adam_change_is.
    split; apply sum_le; intros i _; by_sign i.
  Qed.

  (* Adam's step in coordinate i goes along the descent or nowhere: g_i (w_i' - w_i) <= 0. *)
  Definition agrees (i : nat) : Prop := g i * (adam_w lr beta1 beta2 eps t (w i) (g i) (m i) (v i) - w i) <= 0.

  Lemma agrees_is : forall i, agrees i <-> 0 <= x i.
  Proof. intros i; unfold agrees; rewrite adam_w_is by assumption; unfold x; split; intros; nra. Qed.

  Theorem equal_where_all_agree :
    (forall i, (i < n)%nat -> agrees i) -> grams_change = cautious_change /\ cautious_change = adam_change.
  Proof.
    intros H; rewrite grams_change_is, cautious_change_is, adam_change_is.
    split; apply sum_ext; intros i Hi; pose proof (proj1 (agrees_is i) (H i Hi)) as Hx; clear H.
    - rewrite (Rabs_pos_eq (x i)) by exact Hx; destruct (Rlt_dec 0 (x i)); nra.
    - destruct (Rlt_dec 0 (x i)); nra.
  Qed.

  Theorem strict_where_one_does_not :
    (exists i, (i < n)%nat /\ ~ agrees i) -> grams_change < cautious_change < adam_change.
  Proof.
    intros [k [Hk H]]; assert (Hx : x k < 0) by (apply Rnot_le_lt; rewrite <- agrees_is; exact H).
    rewrite grams_change_is, cautious_change_is, adam_change_is.
    split; apply sum_lt with k; try exact Hk; try (intros i _; by_sign i); by_sign k.
  Qed.
End Order.
