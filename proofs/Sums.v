(* Finite sums and inner products of vectors, which are functions nat -> R of which the first n entries count. *)
From Coq Require Import Reals Lra Lia.
Local Open Scope R_scope.

Fixpoint sum (n : nat) (f : nat -> R) : R :=
  match n with
  | O => 0
  | S k => sum k f + f k
  end.

Definition vector := nat -> R.
Definition dot (n : nat) (x y : vector) : R := sum n (fun i => x i * y i).

Lemma sum_le : forall n f g, (forall i, (i < n)%nat -> f i <= g i) -> sum n f <= sum n g.
Proof.
  induction n as [| n IH]; intros f g H; simpl; [lra |].
  apply Rplus_le_compat; [apply IH; intros; apply H; lia | apply H; lia].
Qed.

Lemma sum_lt : forall n f g k, (k < n)%nat -> f k < g k -> (forall i, (i < n)%nat -> f i <= g i) -> sum n f < sum n g.
Proof.
  induction n as [| n IH]; intros f g k Hk Hlt H; simpl; [lia |].
  destruct (Nat.eq_dec k n) as [-> | Hne].
  - apply Rplus_le_lt_compat; [apply sum_le; intros; apply H; lia | exact Hlt].
  - apply Rplus_lt_le_compat; [apply IH with k; [lia | exact Hlt | intros; apply H; lia] | apply H; lia].
Qed.

Lemma sum_ext : forall n f g, (forall i, (i < n)%nat -> f i = g i) -> sum n f = sum n g.
Proof. intros n f g H; apply Rle_antisym; apply sum_le; intros i Hi; rewrite (H i Hi); lra. Qed.

Lemma sum_plus : forall n f g, sum n (fun i => f i + g i) = sum n f + sum n g.
Proof. induction n as [| n IH]; intros; simpl; [lra | rewrite IH; lra]. Qed.

Lemma sum_scale : forall n c f, sum n (fun i => c * f i) = c * sum n f.
Proof. induction n as [| n IH]; intros; simpl; [lra | rewrite IH; lra]. Qed.

Lemma sum_zero : forall n, sum n (fun _ => 0) = 0.
Proof. induction n as [| n IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma sum_nonneg : forall n f, (forall i, (i < n)%nat -> 0 <= f i) -> 0 <= sum n f.
Proof. intros n f H; rewrite <- (sum_zero n); apply sum_le; exact H. Qed.

Lemma dot_nonneg : forall n x, 0 <= dot n x x.
Proof. intros n x; apply sum_nonneg; intros i _; apply Rle_0_sqr. Qed.
