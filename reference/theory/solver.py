"""What z3 says of the lines that run: a claim is negated, and no numbers may satisfy the negation (G1, G3, F3, A1, A8).

A `Statement` is a claim about what a step returns when it is fed z3's reals: `counterexample` looks for numbers that meet
its assumptions and break it. None is a proof for all reals, by z3's decision procedure and not by cases of our own
making. The claims themselves are in `reference.theory.solver_claims`. z3 knows no square root, arctangent or power with an
unknown exponent; `_explained` gives each a fresh number and what is true of it:

    sqrt(a)       r with r >= 0 and r^2 = a; nothing where a < 0
    atan2(y, x)   an angle: its range by quadrant, its values on the axes and at the origin, and, for two of them, that
                  points of one ray have one angle and mirrored points opposite ones
    beta^(t+1)    beta times beta^t; and beta^t, for t = 0, 1, ..., a number in (0, 1] where 0 < beta < 1

Each is less than the whole truth, never more: what is then impossible is impossible. What is then possible need not be,
so a counterexample counts once the lines have been run on its numbers (tests/theory/test_solver.py does).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from typing import Any

z3: Any = import_module("z3")  # by its annotations every expression may be of every sort

# A right angle. All that z3 is told of pi / 2 is where it lies, which is enough for every claim.
RIGHT = z3.Real("pi/2")
_EFFORT = 200_000_000  # z3's own units of work, the same on every machine, where a time limit would not be


@dataclass(frozen=True)
class Statement:
    """`claimed` for all reals that meet every one of `given`."""

    given: tuple[Any, ...]
    claimed: Any


def counterexample(statement: Statement) -> dict[str, float] | None:
    """Numbers that meet the assumptions and break the claim; None where none can, which proves the claim.

    ValueError where nothing meets the assumptions (anything would follow from them), RuntimeError where z3 gives up.
    """
    given, (negation, *_), meaning = _explained([*statement.given], [z3.Not(statement.claimed)])
    if _solve([*given, *meaning]) is None:
        raise ValueError(f"no numbers meet the assumptions {list(statement.given)}: they would prove anything")
    model = _solve([*given, negation, *meaning])
    named = [d for d in (model or ()) if d.arity() == 0 and "!" not in d.name()]  # not the variables of `_explained`
    return None if model is None else {d.name(): _number(model[d]) for d in named}


def _solve(constraints: list[Any]) -> Any:
    for solver in (z3.Tactic("qfnra-nlsat").solver(), z3.Solver()):
        solver.set("rlimit", _EFFORT)
        solver.add(*constraints)
        answer = solver.check()
        if answer != z3.unknown:
            return solver.model() if answer == z3.sat else None
    raise RuntimeError(f"z3 found neither a proof nor a counterexample ({solver.reason_unknown()})")


def _number(value: Any) -> float:
    exact = value.approx(40) if z3.is_algebraic_value(value) else value
    return float(exact.as_fraction())


def _explained(given: list[Any], rest: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The expressions with a variable for each sqrt, atan2 and power, and the facts that define the variables."""
    known: dict[int, Any] = {}
    facts: list[Any] = []
    angles: list[tuple[Any, Any, Any]] = []

    def power(base: Any, exponent: Any) -> Any:
        step = z3.simplify(exponent)
        if z3.is_add(step) and z3.is_rational_value(step.arg(0)):  # z3 writes t + 1 as 1 + t
            return base ** z3.simplify(step.arg(0)) * power(base, z3.simplify(step - step.arg(0)))
        p = z3.Real(f"{base}^{step}")
        facts.append(z3.Implies(z3.And(base > 0, base < 1), z3.And(p > 0, p <= 1)))
        return p

    def visit(e: Any) -> Any:
        if e.get_id() in known:
            return known[e.get_id()]
        args = [visit(a) for a in e.children()]
        name, out = e.decl().name(), e
        if name == "sqrt" and len(args) == 1:
            out = z3.FreshReal("sqrt")
            facts.append(z3.Implies(args[0] >= 0, z3.And(out >= 0, out * out == args[0])))
        elif name == "atan2":
            out = z3.FreshReal("atan2")
            angles.append((*args, out))
        elif z3.is_app_of(e, z3.Z3_OP_POWER) and not z3.is_rational_value(z3.simplify(args[1])):
            out = power(*args)
        elif args:
            out = z3.substitute(e, *zip(e.children(), args, strict=True))
        known[e.get_id()] = out
        return out

    given, rest = [visit(e) for e in given], [visit(e) for e in rest]
    facts += [fact for angle in angles for fact in _one_angle(*angle)]
    facts += [fact for one, two in combinations(angles, 2) for fact in _two_angles(one, two)]
    return given, rest, list(_distinct(facts))


def _one_angle(y: Any, x: Any, angle: Any) -> Iterable[Any]:
    yield z3.And(RIGHT - z3.Q(157, 100) > 0, RIGHT - z3.Q(158, 100) < 0, angle >= -2 * RIGHT, angle <= 2 * RIGHT)
    yield z3.Implies(x > 0, z3.And(angle > -RIGHT, angle < RIGHT))
    yield z3.Implies(z3.And(x > 0, y == 0), angle == 0)
    yield z3.Implies(x == 0, angle == z3.If(y > 0, RIGHT, z3.If(y < 0, -RIGHT, z3.RealVal(0))))
    yield z3.Implies(x < 0, z3.Or(angle > RIGHT, angle < -RIGHT))
    yield z3.Implies(y > 0, angle > 0)
    yield z3.Implies(y < 0, angle < 0)


def _two_angles(one: tuple[Any, Any, Any], two: tuple[Any, Any, Any]) -> Iterable[Any]:
    (y, x, angle), (b, a, other) = one, two
    yield z3.Implies(z3.And(y * a == b * x, y * b + x * a > 0), angle == other)
    yield z3.Implies(z3.And(y * a == -b * x, x * a - y * b > 0, z3.Or(x > 0, y != 0)), angle == -other)


def _distinct(facts: Iterable[Any]) -> Iterable[Any]:
    return {fact.get_id(): fact for fact in facts}.values()
