"""Same update as reference/adam_mini.py, in place and compiled.

reference    here
w, g         param, grad
m            exp_avg
v            exp_avg_sq, one float32 number for each block
beta1,beta2  betas
t            step
blocks       blocks, in param_groups as plain tuples (`fast.partition` makes them)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from fast._engine.calls import Call
from fast._engine.checks import Group, number
from fast._engine.moments import Average, New, Numbers, Variants, weights
from fast._engine.optimizer import FusedOptimizer, Options, hyper_parameters
from fast._engine.shards import shards_of
from fast._kernels.direct import not_a_vector
from fast._kernels.tensors import State, flat, on_cpu, state_dtype, zeros_like
from fast._kernels.update import Update
from fast.adam_mini.block_groups import blocks_of, carried, check_whole, listed, partitioned, with_blocks
from fast.adam_mini.shared_blocks import moved, sharded_call
from fast.partition import Partition
from fast.partition.attention import Heads
from fast.partition.blocks import Blocks
from fast.partition.rules import Rules


def _step(dims: tuple[int, ...], first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    """One step of tensors whose blocks' entries lie along `dims`; exp_avg_sq has one number for each block."""
    param, grad, exp_avg, exp_avg_sq = tensors
    squares = grad * grad
    for dim in dims:  # one after another: a long sum in one goes through the compiler's cascade of sums
        squares = squares.sum(dim, keepdim=True)
    v = second(exp_avg_sq.view(squares.shape), squares * (1 / (grad.numel() // squares.numel())))
    v = not_a_vector(v) if dims == (1,) else v  # one loop sums a row and steps it
    exp_avg = first(exp_avg, grad)
    return moved(numbers, param, exp_avg, v), exp_avg, v.view(exp_avg_sq.shape)


def _of(shapes: str, *dims: int, line: str = "") -> Variants:
    return Variants(lambda *given: _step(dims, *given), shapes, line=line)


def _entries(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    """One step of blocks of one entry: Adam."""
    eps, step_size, decay = numbers
    param, grad, exp_avg, exp_avg_sq = tensors
    exp_avg, exp_avg_sq = first(exp_avg, grad), second(exp_avg_sq, grad * grad)
    return param - (decay * param + step_size * exp_avg / (exp_avg_sq.sqrt() + eps)), exp_avg, exp_avg_sq


PART = 1 << 20  # entries that a CPU's cache holds between two passes
ENTRIES = Variants(_entries, "N N N N", elementwise=True)
TENSOR = _of("N N N 1", 0)
ROWS = _of("RC RC RC R", 1, line="R")
COLUMNS = _of("RC RC RC C", 0, line="C")
SLABS = _of("BRC BRC BRC R", 2, 0, line="R")
HEADS = _of("BRC BRC BRC B", 2, 1)


class AdamMini(FusedOptimizer):
    """Adam-mini: AdamW with one second moment for each block of parameters.

        exp_avg    = beta1 exp_avg + (1 - beta1) grad
        exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) mean(grad^2 over the block)
        param      = (1 - lr weight_decay) param
                     - lr exp_avg / (1 - beta1^step) / (sqrt(exp_avg_sq / (1 - beta2^step)) + eps)

    Args:
        model_or_params: a module (best: its structure tells the blocks; parameters that need no gradient are left out);
            or named parameters (whole words of the names tell them); or parameters or groups without names, where each
            tensor is one block unless `partition` knows better.
        lr: step length per coordinate, a float or a tensor of one element; AdamW's own is the place to begin.
        betas: decay rates of the two averages, each in [0, 1).
        eps: added to the root of the second average, >= 0.
        weight_decay: decoupled decay. Nothing is exempted by its name: give the norms a group of their own if you want.
        partition: what `fast.partition` returned, or rules for it (see there); None asks it.
        heads: query heads, or (query heads, key heads), where the model does not say.
        stochastic_rounding, rounding_seed, exp_avg_dtype, maximize, compile, capturable: as in `fast.Grams`.

    State: `exp_avg` of the parameter's shape, `exp_avg_sq` of `Blocks.state_shape`; float32 for the half types. The blocks
    stand in each group's "blocks" as plain tuples, in the order of its "params". They follow a new parameter that somebody
    puts in another's place, with rows taken out or put in, and `exp_avg_sq` with them where it has a number for each row.
    Neither they nor `exp_avg_sq`, which every process has whole, depend on how many processes share a parameter. Of the shards
    it takes FSDP2's; flat ones (FSDP1, DeepSpeed ZeRO), of which no blocks can be told, are refused where they can be
    recognised.
    Source: Zhang et al., arXiv 2406.16793; `reference/adam_mini.py` has the pseudocode line by line.
    """

    _contiguous = True
    _kept = ("blocks", *FusedOptimizer._kept)
    _state_names = ("exp_avg",)

    def __init__(
        self,
        model_or_params: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        partition: Partition | Rules = None,
        heads: Heads = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = hyper_parameters(locals(), "model_or_params", "partition", "heads")
        params = listed(model_or_params)
        check_whole(type(self).__name__, params)
        self._partition = partitioned(model_or_params, params, heads, partition)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group, with the blocks of its parameters found in this order:

        "blocks" of the group, a Blocks (or what its `to_plain` gives) for each parameter; the optimizer's partition, which
        also gives the names where the other groups have names; for parameters that it does not know, "partition" of the
        group (a Partition, or rules) and "heads", then their names, by the algorithm of the optimizer's partition. What
        cannot be told is a ValueError. Bare parameters are one block each where the optimizer's are (no module, no names).
        """
        if isinstance(param_group, Mapping):  # torch has a TypeError for others
            named = any("param_names" in group for group in self.param_groups)
            param_group = with_blocks(param_group, getattr(self, "_partition", None), named)
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_partition": carried(self._partition, self.param_groups)}

    def _check(self, group: Group) -> None:
        number("eps", group["eps"], 0.0)

    def _needs_whole(self, group: Group, param: Tensor) -> bool:
        return True

    def _check_loaded(self, group: Group, saved: Group) -> None:
        super()._check_loaded(group, saved)
        theirs = saved.get("blocks")
        if theirs is not None and [Blocks.from_plain(b) for b in theirs] != [
            Blocks.from_plain(b) for b in group["blocks"]
        ]:
            raise ValueError(
                "this state_dict was made with another partition; build this AdamMini with the partition of the saved one"
            )

    def _blocks(self, group: Group, param: Tensor) -> Blocks:
        return blocks_of(group, param, param not in self._originals)

    def _packed_update(self, group: Group, param: Tensor) -> Update | None:
        return None  # a block's mean is not to be mixed with another's

    def _init_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        dtype = state_dtype(param)
        return {
            "exp_avg": zeros_like(param, device, torch.contiguous_format),
            "exp_avg_sq": torch.zeros(
                self._blocks(group, param).state_shape, dtype=dtype.to_real(), device=device or param.device
            ),
        }

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        (beta1, beta2), root = group["betas"], (1 - group["betas"][1] ** step) ** 0.5
        # m / (1 - beta1^t) / (sqrt(v / c) + eps) = m sqrt(c) / (1 - beta1^t) / (sqrt(v) + sqrt(c) eps), c = 1 - beta2^t
        return (
            *weights((beta1, beta2)),
            group["eps"] * root,
            lr * root / (1 - beta1**step),
            lr * group["weight_decay"],
        )

    def _calls(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Call]:
        blocks, shards = self._blocks(group, param), shards_of(param)
        if values["exp_avg_sq"].shape != blocks.state_shape:
            raise ValueError(
                f"exp_avg_sq has shape {tuple(values['exp_avg_sq'].shape)}, the blocks of its parameter {blocks.state_shape}:"
                " whoever cuts a parameter must cut it by the same blocks, or clear its state, optimizer.state.pop(param)"
            )
        if shards:
            yield sharded_call(shards, blocks, group["betas"], work, values["exp_avg"], values["exp_avg_sq"])
            return
        exp_avg, v = values["exp_avg"], values["exp_avg_sq"].view(-1)
        for update, view, numbers in _cuts(blocks, work):
            yield Call(update(group["betas"]), view, (view(exp_avg), v[numbers]))


def _cuts(blocks: Blocks, work: Tensor) -> Iterable[tuple[Variants, Callable[[Tensor], Tensor], slice]]:
    """Which update takes which view of a tensor like `work`, and the numbers of the blocks that are in it.

    All blocks of one length in one view, with the axis that is cut split in two: before, blocks, length with what follows.
    """
    if blocks.axis is None:
        yield TENSOR, flat, slice(0, 1)
        return
    axis, stacks = blocks.axis, prod(blocks.shape[: blocks.batch])
    before = prod(blocks.shape[blocks.batch : axis])
    after = work.numel() // (stacks * before * blocks.shape[axis])
    if before == 1 and blocks.uniform is not None:  # stacked matrices are more of the same rows
        stacks, runs = 1, [(stacks * blocks.uniform[0], blocks.uniform[1])]
    else:
        runs = [*blocks.runs] * blocks.repeat
    if before == 1 and on_cpu(work):
        # HEADS: two passes, the squares' and the step's, read a part of the gradient
        most = [max(1, PART // (length * after)) if min(length, after) > 1 else count for count, length in runs]
        runs = [
            (min(m, count - i), length)
            for (count, length), m in zip(runs, most, strict=True)
            for i in range(0, count, m)
        ]
    first = 0
    for stack in range(stacks):
        start = 0
        for count, length in runs:
            update, view = _view(work, (stacks, before, blocks.shape[axis], after), stack, start, count, length)
            yield update, view, slice(first, first + count)
            start, first = start + count * length, first + count


def _view(
    work: Tensor, shape: tuple[int, ...], stack: int, start: int, count: int, length: int
) -> tuple[Variants, Callable[[Tensor], Tensor]]:
    """What updates `count` blocks of `length` indices from `start` on, and how it views a tensor like `work`."""
    _, before, along, after = shape
    entries = length * after
    if before > 1:

        def view(t: Tensor) -> Tensor:
            part = t.reshape(shape)[stack, :, start : start + count * length]
            return part.reshape(before, count) if entries == 1 else part.view(before, count, entries)

        return COLUMNS if entries == 1 else SLABS, view
    first = (stack * along + start) * after
    if entries == 1:
        update, size = ENTRIES, (count,)
    elif count == 1:
        update, size = TENSOR, (entries,)
    elif min(length, after) > 1 and on_cpu(work):
        update, size = HEADS, (count, length, after)
    else:
        update, size = ROWS, (count, entries)
    strides = [prod(size[i + 1 :]) for i in range(len(size))]
    whole = work.shape == size

    def part(t: Tensor) -> Tensor:  # one call or none, where the general form takes four
        return t if whole else t.as_strided(size, strides, t.storage_offset() + first)

    return update, part
