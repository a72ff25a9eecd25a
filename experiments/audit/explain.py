"""Which edits of the rule make a path, to 12 digits in every trial: documented ones first, then errors of one line.

    explanation = explain(paths, "cautious", claimed)     Explanation(edits, documented, digits), or None

Nothing is named that has not made every one of the paths to ENOUGH digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from experiments.audit.mutations import mutations, named
from experiments.audit.rules import DOCUMENTED, Edit, EditError, Rule, load
from experiments.audit.trials import ENOUGH, MOST, TRIALS, Path, agreement


@dataclass(frozen=True)
class Explanation:
    """The edits that make all paths; `digits` the fewest over the trials; `alike` what else makes them."""

    edits: tuple[Edit, ...]
    digits: float
    alike: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, self.edits))


def fits(paths: Mapping[str, Path], rule: Rule, enough: float = ENOUGH) -> float:
    """The fewest digits over the trials, 0 as soon as one has fewer than `enough`."""
    found = MOST
    for name, path in paths.items():
        found = min(found, agreement(path, rule, TRIALS[name], enough))
        if found < enough:
            return 0.0
    return found


STAGES = (("plain", "first step", "odd betas"), ("decay",), ("large eps",), ("zero gradient",), ("missing gradient",))
Group = Sequence[tuple[Edit, ...]]


def explain(
    paths: Mapping[str, Path], name: str, claimed: Sequence[Edit] = (), enough: float = ENOUGH
) -> Explanation | None:
    """What makes the paths of the rule `name` with the edits that its documentation claims and others; None where nothing does."""
    documented = DOCUMENTED[name]
    for n in (1, 2, 3):
        if found := _fitting(paths, name, claimed, list(combinations(documented, n)), enough):
            return found
    if found := _fitting(paths, name, claimed, [(edit,) for edit in mutations(name)], enough):
        return found
    return _by_stages(paths, name, claimed, enough)


def _by_stages(paths: Mapping[str, Path], name: str, claimed: Sequence[Edit], enough: float) -> Explanation | None:
    """Several edits, one after the other: each trial but the plain ones brings in one thing, which one edit must explain."""
    edits: tuple[Edit, ...] = ()
    known: dict[str, Path] = {}
    alike: tuple[str, ...] = ()
    for stage in STAGES:
        known |= {trial: paths[trial] for trial in stage if trial in paths}
        if fits(known, load(name, (*claimed, *edits)), enough):
            continue
        singles = [(edit,) for edit in (*DOCUMENTED[name], *mutations(name))]
        pairs = list(combinations((*DOCUMENTED[name], *named(name)), 2))
        found = _fitting(known, name, (*claimed, *edits), singles, enough)
        found = found or _fitting(known, name, (*claimed, *edits), pairs, enough)
        if found is None:
            return None
        edits, alike = (*edits, *found.edits), (*alike, *found.alike)
    digits = fits(paths, load(name, (*claimed, *edits)), enough)
    return Explanation(edits, digits, alike) if digits else None


def _fitting(
    paths: Mapping[str, Path], name: str, claimed: Sequence[Edit], group: Group, enough: float
) -> Explanation | None:
    """The first of the group that makes all paths to 12 digits, and what else of it does; below 12 the best of it."""
    # the trial that parts most edits from each other first, so that most candidates are left after a few steps
    order = [t for t in ("decay", "odd betas", "large eps", "missing gradient") if t in paths]
    paths = {t: paths[t] for t in (*order, *(t for t in paths if t not in order))}
    found: list[tuple[tuple[Edit, ...], float]] = []
    for edits in group:
        try:
            rule = load(name, (*claimed, *edits))
        except (EditError, SyntaxError):
            continue
        if digits := fits(paths, rule, enough):
            found.append((edits, digits))
    if not found:
        return None
    if enough < ENOUGH:
        found.sort(key=lambda pair: -round(pair[1], 1))
    edits, digits = found[0]
    return Explanation(edits, digits, tuple("; ".join(map(str, e)) for e, _ in found[1:4]))
