"""Runs between bounds: the lines of `reference` fed the balls of python-flint (Arb), a midpoint and a radius each.

A ball holds every value that the exact run could have there; each operation widens it by what it rounds. So a
comparison of two balls that comes out true is a fact about the exact run, whatever the processor; where two balls
overlap nothing is decided, `Undecided` is raised, and more bits are needed. Parameters are exact: 0.9 is nine tenths,
not the float next to it, which over some thousand steps is another run (G4).

Needs python-flint (the extra `test`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import ModuleType
from typing import Any, TypeVar

from flint import arb, ctx, fmpq

Answer = TypeVar("Answer")


class Undecided(ArithmeticError):
    """Two balls overlap where the argument needs to know which is larger: compute with more bits, or cut finer."""


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Balls are computed with this many bits inside the `with`; the precision before is put back."""
    if bits < 2:
        raise ValueError(f"bits must be a number of binary digits >= 2, got {bits}")
    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


def ball(value: str | int | Fraction) -> arb:
    """The smallest ball around an exact number: an integer, a fraction, or a decimal as text ("0.9", "1e-8")."""
    if isinstance(value, bool) or not isinstance(value, str | int | Fraction):
        raise TypeError(
            f"an exact number is an int, a Fraction or a decimal as text, got {value!r}: write 0.9 as '0.9', "
            "since the float 0.9 is another number"
        )
    exact = Fraction(value)
    return arb(fmpq(exact.numerator, exact.denominator))


def less(a: arb, b: Any) -> bool:
    """Whether a < b, for certain; `Undecided` where the balls overlap."""
    if a < b:
        return True
    if a >= b:
        return False
    raise Undecided(f"{a} and {b} overlap at {ctx.prec} bits")


def decide(question: Callable[[], Answer], *, bits: int, most: int) -> Answer:
    """question() at `bits` bits, and at twice as many as long as it raises `Undecided`, up to `most`."""
    while True:
        try:
            with precision(bits):
                return question()
        except Undecided:
            if 2 * bits > most:
                raise
            bits *= 2


def path(
    rule: ModuleType, gradient: Callable[[Any], Any], start: Any, steps: int, **hyper: Any
) -> Iterator[tuple[int, Any, Any, Any]]:
    """(t, w, g, state) for t = 1 ... steps of `rule`: g the gradient that step t was given, w and state after it.

    start: a ball or an array of balls; hyper: what the rule's step takes, in balls (a decimal as text becomes one).
    """
    given = {name: ball(x) if isinstance(x, str) and name != "rescale" else x for name, x in hyper.items()}
    w, state = start, rule.init(start)
    for t in range(1, steps + 1):
        g = gradient(w)
        w, state = rule.step(w, g, state, **given)
        yield t, w, g, state
