"""Param groups as AdamMini keeps them: read once, copied, and each with the blocks of its parameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fast._engine.checks import each_once
from fast._engine.flat_shards import Originals
from fast._kernels.update import users_line
from fast.partition import Entry, Partition, partition
from fast.partition.blocks import Blocks
from fast.partition.heads import Heads
from fast.partition.rules import Rules


def listed(model_or_params: Any) -> Any:
    """Parameters, pairs or groups in lists that can be read twice, with groups copied; as torch.optim takes them."""
    if isinstance(model_or_params, nn.Module):
        return [(name, p) for name, p in model_or_params.named_parameters() if p.requires_grad]
    if isinstance(model_or_params, Tensor):
        return model_or_params  # the base class says what is wrong with it
    params = list(model_or_params.items() if isinstance(model_or_params, Mapping) else model_or_params)
    for item in params:  # as torch.optim says it, before the partition asks what they are
        pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
        if not (pair or isinstance(item, (Tensor, Mapping))):
            raise TypeError(f"params must be tensors, (name, tensor) pairs or dicts, got an item {item!r}")
    return [read_group(item) if isinstance(item, Mapping) else item for item in params]


def check_whole(name: str, params: Any) -> None:
    """ValueError where a sharding has flattened one of these, `listed`, so that their shapes tell nothing of their blocks."""
    members = [p for item in params for p in (item["params"] if isinstance(item, Mapping) else [item])]
    tensors = [t for p in members for t in (p if isinstance(p, tuple) else [p]) if isinstance(t, Tensor)]
    Originals(tensors).check_whole(name, [{"params": tensors}], lambda group, param: True)


def partitioned(model_or_params: Any, params: Any, heads: Heads, answer: Partition | Rules) -> Partition:
    """The partition that was given, or else that of a module, or of `params`, by the rules that were given."""
    if isinstance(answer, Partition):
        return answer
    return partition(model_or_params if isinstance(model_or_params, nn.Module) else params, heads=heads, rules=answer)


def carried(known: Partition, groups: list[dict[str, Any]]) -> Partition:
    """What copies and pickles of an optimizer take along of its partition: no parameters that are in no group.

    A frozen model would come with them.
    """
    held = {id(p) for group in groups for p in group["params"]}
    return Partition([entry for entry in known.entries if id(entry.param) in held], known.algorithm)


def blocks_of(group: dict[str, Any], param: Tensor, replaced: bool) -> Blocks:
    """The blocks of a parameter of this group. ValueError where they are another's: somebody has edited one list alone.

    Of one that somebody has put in another's place (`replaced`), cut by a mask or made longer, they are fitted to its shape.
    """
    params, plain = group["params"], group["blocks"]
    if len(params) == len(plain):
        i = next(i for i, p in enumerate(params) if p is param)
        blocks = Blocks.from_plain(plain[i])
        if replaced and (fitted := _resized(blocks, tuple(param.shape))):
            group["blocks"] = [*plain[:i], fitted.to_plain(), *plain[i + 1 :]]
            return fitted
        if blocks.shape == tuple(param.shape):
            return blocks
    raise ValueError(
        f'a group\'s "blocks" no longer belong to its "params", of which one has the shape {tuple(param.shape)}: change both'
        " lists together, or build AdamMini anew (ZeroRedundancyOptimizer mixes them up where it loads a checkpoint)"
    )


def _resized(blocks: Blocks, shape: tuple[int, ...]) -> Blocks | None:
    """The same kind of blocks for another shape; None where it is no other, or does not say which blocks there are now."""
    if shape == blocks.shape or len(shape) != len(blocks.shape):
        return None
    axis, runs, repeat = blocks.axis, blocks.runs, blocks.repeat
    if axis is not None and shape[axis] != blocks.shape[axis]:
        if blocks.uniform is None or shape[axis] % blocks.uniform[1]:
            return None
        if not shape[axis]:
            return Blocks(shape)
        runs, repeat = ((shape[axis] // blocks.uniform[1], blocks.uniform[1]),), 1
    return Blocks(shape, blocks.kind, axis, runs, repeat, blocks.batch)


def read_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the group whose "params" is a list: an iterator gives its parameters only once."""
    params = group["params"]
    if isinstance(params, set):
        return dict(group)  # torch.optim refuses it: a set has no order
    return {**group, "params": [params] if isinstance(params, Tensor) else list(params)}


def with_blocks(given: Mapping[str, Any], known: Partition | None, named: bool) -> dict[str, Any]:
    """A copy of a group with the "blocks" of its parameters, and with their names where the others are `named`.

    "partition" and "heads" of the group answer for the parameters that `known` does not know, and are not kept.
    """
    group = read_group(given)
    heads: Heads = group.pop("heads", None)
    answer: Partition | Rules = group.pop("partition", None)
    group["params"] = each_once(group["params"])
    params = [p[1] if isinstance(p, tuple) else p for p in group["params"]]
    if not all(isinstance(p, Tensor) for p in params):
        return group  # torch.optim says what is wrong with them
    if "blocks" in group:
        if heads is not None or answer is not None:
            raise ValueError('a group with "blocks" takes no "heads" and no "partition": the blocks say it all')
        group["blocks"] = [(b if isinstance(b, Blocks) else Blocks.from_plain(b)).to_plain() for b in group["blocks"]]
        if len(group["blocks"]) != len(params):
            raise ValueError(f"{len(group['blocks'])} blocks were given for a group of {len(params)} parameters")
    tables = [table for table in (answer, known) if isinstance(table, Partition)]
    entries = {id(entry.param): entry for table in reversed(tables) for entry in table.entries}
    names: list[str | None] = [p[0] if isinstance(p, tuple) else None for p in group["params"]]
    names = list(group.get("param_names") or names)
    if named and not any(names):
        filled = [entries[id(p)].name if id(p) in entries else None for p in params]
        if all(filled):
            names, group["params"] = filled, list(zip(filled, params, strict=True))
    if "blocks" not in group:
        group["blocks"] = [b.to_plain() for b in _blocks(params, names, entries, heads, answer, known)]
    for param, plain in zip(params, group["blocks"], strict=True):
        if Blocks.from_plain(plain).shape != tuple(param.shape):
            raise ValueError(f"blocks {plain!r} are of another shape than their parameter, {tuple(param.shape)}")
    return group


def _blocks(
    params: list[Tensor],
    names: list[str | None],
    entries: Mapping[int, Entry],
    heads: Heads,
    answer: Partition | Rules,
    known: Partition | None,
) -> list[Blocks]:
    """The blocks of `params`: of their entries; of those that have none, as the group or their names say."""
    decided = {id(p) for p in params if id(p) in entries and not (entries[id(p)].error and p.requires_grad)}
    strangers = [(name, p) for name, p in zip(names, params, strict=True) if id(p) not in decided]
    rules = None if isinstance(answer, Partition) else answer
    if not strangers and (heads is not None or rules is not None):
        raise ValueError('the optimizer\'s partition has the blocks of these parameters; to change them, give "blocks"')
    frozen = [entries[key].name for key in decided if entries[key].error]
    if frozen:
        warnings.warn(
            f"{sorted(frozen)[0]!r} and in all {len(frozen)} frozen parameters of this group cannot be told apart into "
            f"blocks; each is one block should it train. Leave them out until they train, or give a rule",
            stacklevel=users_line(),
        )
    found: dict[int, Blocks] = {}
    if strangers:
        algorithm = known.algorithm if known is not None else None
        if algorithm == 3 and not all(name for name, _ in strangers):
            raise ValueError(
                "these parameters are not in the optimizer's partition and have no names to tell their blocks by; "
                'give names, or in the group "blocks" or "partition" (fast.partition of their module)'
            )
        pairs = [p if name is None else (name, p) for name, p in strangers]
        table = partition(pairs, heads=heads, rules=rules, algorithm=algorithm if all(names) else None)
        found = {id(p): table.of(p) for _, p in strangers}
    return [entries[id(p)].blocks if id(p) in decided else found[id(p)] for p in params]
