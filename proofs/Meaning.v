(* What the names mean that SymPy prints and Rocq's library lacks: the rest of Rules.v is the library's own. *)
From Coq Require Import Reals Lra.
Local Open Scope R_scope.

Definition sgn (x : R) : R := if Rlt_dec 0 x then 1 else if Rlt_dec x 0 then -1 else 0.

(* The angle of the point (x, y), with atan2 0 0 = 0 as in reference/ops.py. *)
Definition atan2 (y x : R) : R :=
  if Rlt_dec 0 x then atan (y / x)
  else if Rlt_dec x 0 then (if Rle_dec 0 y then atan (y / x) + PI else atan (y / x) - PI)
  else if Rlt_dec 0 y then PI / 2
  else if Rlt_dec y 0 then - (PI / 2)
  else 0.

Lemma times_sgn : forall x, x * sgn x = Rabs x.
Proof.
  intros x; unfold sgn, Rabs.
  destruct (Rlt_dec 0 x), (Rcase_abs x), (Rlt_dec x 0); lra.
Qed.

Lemma sgn_cases : forall x, sgn x = 1 \/ sgn x = -1 \/ x = 0 /\ sgn x = 0.
Proof. intros x; unfold sgn; destruct (Rlt_dec 0 x), (Rlt_dec x 0); lra. Qed.
