(* What the theorems rest on; `make proofs` and a test hold it against axioms.txt. *)
From AdamLab Require Import Order Flow Arctan Convergence.

(* G1 *)
Print Assumptions first_order_decrease_is_ordered.
Print Assumptions equal_where_all_agree.
Print Assumptions strict_where_one_does_not.
(* G3 *)
Print Assumptions sides_have_one_velocity.
Print Assumptions adam_follows.
Print Assumptions grams_follows.
Print Assumptions cautious_follows.
Print Assumptions plain_energy_balance.
Print Assumptions rates_are_bounded.
Print Assumptions both_rates_fall.
Print Assumptions grams_falls_fastest.
Print Assumptions loss_and_energy_fall.
Print Assumptions friction_takes_energy.
Print Assumptions heavy_ball_pushes_down.
Print Assumptions lion_k_pushes_down.
Print Assumptions lion_k_falls.
(* A1 *)
Print Assumptions reachable_stays.
Print Assumptions step_is_at_most.
Print Assumptions step_is_less_than.
Print Assumptions no_step_without_a_gradient.
Print Assumptions a_run_does_not_see_the_gradients_scale.
(* G4 without momentum *)
Print Assumptions without_momentum_the_three_are_one.
Print Assumptions convergence.
Print Assumptions the_papers_bound_under_the_added_condition.
Print Assumptions a_bowl_meets_the_assumptions.
