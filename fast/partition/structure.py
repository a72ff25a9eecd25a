"""Names the parameters that `fast.partition` was given (a module's, pairs, param groups or bare ones), and finds a module's blocks
from its layers. `names` finds them from names alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from fast.partition.attention import projection_cuts
from fast.partition.blocks import Decision
from fast.partition.heads import Heads
from fast.partition.layers import decide, decide_adapter, whole


def owned(module: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module, str]]:
    """(full name, parameter, its layer, its name in that layer), a tied weight once for each of its names."""
    for path, layer in module.named_modules(remove_duplicate=False):
        owner, parent, (above, _, original) = (
            layer,
            path.rpartition(".")[0],
            f".{path}".rpartition(".parametrizations."),
        )
        parametrized = isinstance(layer, parametrize.ParametrizationList) and parent.endswith("parametrizations")
        if parametrized:
            owner = module.get_submodule(above.removeprefix("."))
        for name, param in layer.named_parameters(recurse=False, remove_duplicate=False):
            if name == "_flat_param":
                raise ValueError(f"{path} was flattened by FSDP; partition the module before it is wrapped")
            yield f"{path}.{name}" if path else name, param, owner, original if parametrized else name


def named_params(params: Iterable[Any]) -> tuple[list[tuple[str, Tensor]], set[str]]:
    """(name, parameter) pairs of whatever torch.optim takes, and which names were made up here.

    A group one of whose names stands for another parameter already (`layer.named_parameters()` of two layers) has
    "groups.<number>." before all its names.
    """
    items: Sequence[Any] = list(params.items()) if isinstance(params, Mapping) else list(params)
    groups: Sequence[Any] = items if items and isinstance(items[0], Mapping) else [{"params": items}]
    named: list[tuple[str, Tensor]] = []
    nameless: set[str] = set()
    taken: dict[str, Tensor] = {}
    for g, group in enumerate(groups):
        pairs = _pairs(group)
        twice = any(name is not None and taken.get(name, param) is not param for name, param in pairs)
        for i, (name, param) in enumerate(pairs):
            if name is None:
                name = f"groups.{g}.params.{i}"
                nameless.add(name)
            elif twice:
                name = f"groups.{g}.{name}"
            if taken.setdefault(name, param) is not param:
                raise ValueError(f"two parameters are called {name!r}; give each a name of its own")
            named.append((name, param))
    if not named:
        raise ValueError("no parameters were given")
    return named, nameless


def _pairs(group: Mapping[str, Any]) -> list[tuple[str | None, Tensor]]:
    members = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    given = group.get("param_names") or [None] * len(members)
    pairs: list[tuple[str | None, Tensor]] = []
    for member, name in zip(members, given, strict=True):
        name, param = member if isinstance(member, tuple) else (name, member)
        if not isinstance(param, Tensor):
            raise TypeError(f"expected a tensor or a pair (name, tensor), got {type(param).__name__}")
        pairs.append((None if name is None else str(name), param))
    return pairs


def decide_by_structure(
    module: nn.Module, heads: Heads, algorithm: int | None
) -> tuple[dict[str, Decision | ValueError], bool]:
    """A decision, or the error that a rule would avoid, for each name; and whether there is any attention."""
    cuts, attention = projection_cuts(module, heads)
    decisions: dict[str, Decision | ValueError] = {}
    for name, param, layer, last in owned(module):
        if algorithm == 2 or (algorithm is None and not attention):
            decisions[name] = whole(
                param, f"Algorithm 2{'' if algorithm else ', no attention found'}: one block a tensor"
            )
        elif not param.is_floating_point():
            decisions[name] = whole(param, f"{param.dtype} does not train: one block")
        else:
            try:
                cut = cuts.get(id(param)) or cuts.get(id(layer))
                decisions[name] = decide_adapter(name, layer, last, param, cut) or decide(layer, last, param, cut)
            except ValueError as error:
                decisions[name] = error
    return decisions, attention
