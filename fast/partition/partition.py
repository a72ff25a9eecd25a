"""Adam-mini's blocks, read off a module's structure: which entries of a model share one second moment.

    blocks = fast.partition(model)          # a table in a terminal and in Jupyter; blocks.draw() is a picture
    blocks["layers.0.self_attn.q_proj.weight"].blocks      # kind, axis, runs: see fast/partition/blocks.py

Algorithm 3 of Adam-mini (arXiv 2406.16793) for a module with attention in it, Algorithm 2 (each tensor one block) for
one without; `algorithm=2` or `3` decides otherwise. The rules for layers and adapters are in `layers`, for
attention in `attention`, for parameters that come without their module in `names`. Each line of
the table says which rule decided. Weight decay is not its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fast.partition.blocks import Blocks, Decision
from fast.partition.heads import Heads, check_heads
from fast.partition.layers import EVERYTHING_ELSE, whole
from fast.partition.names import decide_by_names
from fast.partition.rules import NeedsRule, Rules, advice, apply_rules
from fast.partition.structure import decide_by_structure, named_params, owned

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Entry:
    """One parameter's line of the table. `aliases` are the further names of a tied weight."""

    name: str
    param: Tensor = field(repr=False)
    blocks: Blocks
    why: str
    aliases: tuple[str, ...] = ()
    error: str = ""  # of a frozen parameter: the error that would have been raised had it needed its gradient

    @property
    def shape(self) -> tuple[int, ...]:
        return self.blocks.shape

    @property
    def kind(self) -> str:
        return self.blocks.kind

    @property
    def trains(self) -> bool:
        """Whether it has state: frozen parameters are listed, and count nothing in the totals."""
        return self.param.requires_grad


class Partition(Mapping[str, Entry]):
    """What `partition` found: a mapping from each parameter's name (a tied weight's any name) to its Entry.

    Iterates over the first names, in the module's order. `of(param)` finds an entry by the parameter itself.
    """

    def __init__(self, entries: Iterable[Entry], algorithm: int | None = None) -> None:
        self.entries = tuple(entries)
        self.algorithm = algorithm  # 2 or 3; None where nothing but bare parameters was given
        self._by_name = {name: entry for entry in self.entries for name in (entry.name, *entry.aliases)}
        self._by_id = {id(entry.param): entry for entry in self.entries}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made anew: entries are found by their parameters' identity."""
        return Partition, (self.entries, self.algorithm)

    def __getitem__(self, name: str) -> Entry:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def of(self, param: Tensor) -> Blocks:
        """The blocks of `param`, found by identity.

        ValueError for a tensor that was not partitioned, and for one that was frozen then, so that nobody asked how it is
        cut, and trains now.
        """
        if id(param) not in self._by_id:
            raise ValueError(
                f"a parameter of shape {tuple(param.shape)} is not in this partition; partition the module that "
                f"holds it (again, if parameters were replaced since)"
            )
        entry = self._by_id[id(param)]
        if entry.error and entry.trains:
            raise ValueError(entry.error)
        return entry.blocks

    @property
    def total_blocks(self) -> int:
        """Numbers that stand for v, over all parameters that train."""
        return sum(entry.blocks.count for entry in self.entries if entry.trains)

    @property
    def total_parameters(self) -> int:
        """Entries of all parameters that train: the numbers of Adam's v."""
        return sum(entry.param.numel() for entry in self.entries if entry.trains)

    @property
    def state_bytes(self) -> int:
        """Bytes of all second moments, in float32."""
        return sum(entry.blocks.state_bytes for entry in self.entries if entry.trains)

    @property
    def removed(self) -> float:
        """The share of Adam's v that is not kept, 0 to 1."""
        return 1 - self.total_blocks / self.total_parameters if self.total_parameters else 0.0

    def __repr__(self) -> str:
        from fast.partition.show import table

        return table(self)

    def _repr_html_(self) -> str:
        from fast.partition.show import html

        return html(self)

    def draw(self) -> Figure:
        """Each tensor as a rectangle cut into its blocks; needs matplotlib."""
        from fast.partition.show import draw

        return draw(self)


def partition(
    model_or_params: nn.Module | Iterable[Any],
    *,
    heads: Heads = None,
    rules: Rules = None,
    algorithm: int | None = None,
) -> Partition:
    """The blocks of every parameter of a module, of named parameters, or of param groups.

    model_or_params
        a module (the structure decides); `named_parameters()`, a mapping from names to parameters, or groups that carry
        names (whole words of the names decide); or bare parameters and groups of them (nothing is known: one block a
        tensor, Algorithm 2). A tied weight is one parameter, on whose blocks those of its owners that know must agree.
    heads
        number of query heads, or (query heads, key heads), for attention that does not say. ValueError where it
        contradicts what a layer or its config does say: where layers differ, give `rules` for those that do not say. The
        first alone cuts a key by name only beside its query.
    rules
        the user's own answer, asked first: {pattern: rule} with shell patterns over whole names ("*.mixer.weight"; the
        first that matches counts, one that matches nothing is an error), or a function of (name, parameter) that
        returns a rule or None. A rule is "tensor", "rows" (axis 0), "columns" (axis 1), ("heads", n), ("fused", n, m):
        [q|k|v] of n query and m key heads, without a query if n is 0; either with the axis as one number more (a
        transposed weight: 1), else 0; or a Blocks.
    algorithm
        2: each tensor is one block. 3: the rules for a Transformer. None: 3 where there is attention, else 2.

    ValueError, naming the parameter, for what cannot be told and for what does not fit; TypeError for a bare tensor. Of a
    frozen parameter nothing need be told: it is one block, and its line says why (`of` refuses it once it trains).
    """
    if isinstance(model_or_params, Tensor):
        raise TypeError("expected a module, named parameters or param groups, got one tensor; put it into a list")
    if algorithm not in (None, 2, 3):
        raise ValueError(f"algorithm={algorithm!r}: expected 2 (each tensor one block), 3 (a Transformer), or None")
    check_heads(heads)
    if isinstance(model_or_params, nn.Module):
        named, nameless = [(name, param) for name, param, *_ in owned(model_or_params)], set[str]()
        found, attention = decide_by_structure(model_or_params, heads, algorithm)
    else:
        named, nameless = named_params(model_or_params)
        found, attention = decide_by_names({n: p for n, p in named if n not in nameless}, heads, algorithm)
        if nameless and algorithm == 3:
            raise ValueError("algorithm=3 needs a module or named parameters: some parameters came without a name")
        why = "no module and no name to tell by: one block a tensor (Algorithm 2); pass the module to cut it"
        found |= {name: whole(param, why) for name, param in named if name in nameless}
    if heads is not None and not attention:
        raise ValueError(f"heads={heads!r} was given, but no attention layer was found; give rules= for its parameters")
    ruled = apply_rules(named, rules)
    owners: dict[int, list[str]] = {}
    for name, param in named:
        owners.setdefault(id(param), []).append(name)
    params = dict(named)
    answers = [_answers(names, ruled, found) for names in owners.values()]
    ambiguous = {
        name: (params[name], answer)
        for by_name in answers
        for name, answer in by_name.items()
        if isinstance(answer, NeedsRule) and params[name].requires_grad
    }
    entries: list[Entry] = []
    for names, by_name in zip(owners.values(), answers, strict=True):
        param = params[names[0]]
        wrong = next(((name, error) for name, error in by_name.items() if isinstance(error, ValueError)), None)
        if wrong is None:
            entries.append(_settle(param, names, [d for d in by_name.values() if not isinstance(d, ValueError)]))
            continue
        (name, error), what_to_do = wrong, ""
        if isinstance(error, NeedsRule):
            what_to_do = (" " if str(error).endswith(" or") else "; ") + advice(
                ambiguous or {name: (param, error)}, params
            )
        message = f"parameter {name!r}: {error}{what_to_do}"
        if param.requires_grad:
            raise ValueError(message) from error
        blocks, why = whole(param, f"frozen, so it need not be told: {error}".removesuffix(", or"))
        entries.append(Entry(names[0], param, blocks, why, tuple(names[1:]), message))
    if algorithm is None and len(nameless) < len(named):
        algorithm = 3 if attention else 2
    return Partition(entries, algorithm)


def _answers(
    names: list[str], ruled: Mapping[str, Decision], found: Mapping[str, Decision | ValueError]
) -> Mapping[str, Decision | ValueError]:
    """What a parameter's names say of it: the user's rules, else those that know, else what they all fall under."""
    answers = {name: ruled[name] for name in names if name in ruled} or {name: found[name] for name in names}
    return {name: answer for name, answer in answers.items() if _knows(answer)} or answers


def _knows(answer: Decision | ValueError) -> bool:
    return (
        not answer.unknown
        if isinstance(answer, NeedsRule)
        else isinstance(answer, ValueError) or answer[1] != EVERYTHING_ELSE
    )


def _settle(param: Tensor, names: list[str], decisions: list[Decision]) -> Entry:
    """One entry, on which all who know of the parameter agree."""
    blocks, why = decisions[0]
    if any(other != blocks for other, _ in decisions):
        kinds = ", ".join(f"{other.kind} (axis {other.axis})" for other, _ in decisions)
        raise ValueError(f"the tied parameter {' = '.join(names)} is {kinds} to its owners; give one rule for it")
    if len(names) > 1:
        why += f"; tied to {', '.join(names[1:])}"
    return Entry(names[0], param, blocks, why, tuple(names[1:]))
