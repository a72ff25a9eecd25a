"""Watches an optimizer's steps, without changing them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fast.monitor.arguments import Writer, checked, integer, name_of, named, number, write
from fast.monitor.sample import Sampler, Watched
from fast.monitor.sums import Sums

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Monitor:
    """Records what an optimizer's steps do. Opt-in: an optimizer without a monitor does nothing for it.

        with Monitor(optimizer) as monitor:      # or monitor = Monitor(optimizer) ... monitor.remove()
            for x, y in data:
                optimizer.zero_grad()
                monitor.loss(loss_function(model(x), y)).backward()
                optimizer.step()
        monitor.columns()["alignment"]

    Each recorded step adds to `records` a dict of plain numbers. With w, w' the parameters before and after the step, g
    the gradient that it took and all entries of all parameters that had one taken together:

        step          number of the step, from 1 (plus `start`)
        alignment     <u, g>, the step's direction against the gradient: > 0 is downhill. lr u is what the step took from w beside
                      its decoupled weight decay: u = ((1 - lr weight_decay) w - w') / lr, nan where lr is 0. (Grams and the
                      Cautious variants decay after the step: their u so has a factor 1 - lr weight_decay.) For Adams, whose
                      decay has another form, u is its arctangent, from its averages.
        disagreement  share of the entries where momentum (exp_avg after the step) and g have opposite signs; a 0 agrees.
                      Left out where the optimizer keeps no momentum.
        decrease      -<g, w' - w>, by how much the loss falls to first order: the whole change, decay included
        update_ratio  RMS of w' - w over RMS of w; nan where all weights are 0
        grad_norm     |g|
        sigma         Adams alone: the largest estimate of a largest singular value, of w (not w')
        loss          where it is known, before the step: what a closure returned, or what `loss` was given
        pl_ratio      |g|^2 / (2 (loss - loss_star)), at least mu where the loss satisfies the PL condition with mu; of one batch,
                      if g is. nan where the loss is not above loss_star.

    The same names with "group0/" in front hold for each group, where there are several, and with "param/<name>/" for
    parameters that `names` asks for. With `maximize`, all is told of minus the objective: downhill is up.

    Args:
        optimizer: any of this package's. Others of torch.optim's form work too; where they do not say that their decay is
            decoupled (as torch.optim.AdamW does), u holds it.
        every: record one step in so many, beginning with the first.
        sample: entries to take of each tensor, about; sums over larger ones are estimates from so many entries, drawn anew for each
            record (not from torch's random numbers), exact for smaller ones. None takes all, which needs a copy of all parameters
            in float64 while a step runs.
        names: which parameters to record one by one: True for all, names, or a mapping of names to parameters
            (`dict(model.named_parameters())`). Names are those that the optimizer was given, else "group0.3".
        loss_star: the least value of the loss (with `maximize` the largest), for `pl_ratio`.
        writer: anything with add_scalar(tag, value, step), such as TensorBoard's SummaryWriter; gets each record when it is made.
        start: number of the last step before, for a run that goes on.
        seed: of the sampling; the entries of a step depend on it and on the step's number alone.

    Changes no parameter, gradient, state, random number or checkpoint: a run with it is the run without it, bit by bit. A
    copied or unpickled optimizer has no monitor. With a GradScaler use `scaler.step`, which takes the scale off the gradients
    before; a step that it skips is no step. Not seen, and not recorded: steps inside torch.compile and replayed CUDA
    graphs. Of sharded parameters (DTensor) each process records its own shards: sums over processes are yours to take.
    Sparse gradients, and those of another placement than their parameter's, are left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        every: int = 1,
        *,
        sample: int | None = 256,
        names: bool | Iterable[str] | Mapping[str, Tensor] | None = None,
        loss_star: float | None = None,
        writer: Writer | None = None,
        start: int = 0,
        seed: int = 0,
    ) -> None:
        # accelerate's wrapper is a subclass whose base was never initialised
        if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}: of a wrapper, give what it wraps"
            )
        self.optimizer = optimizer
        self.every, self.seed = integer("every", every, 1), integer("seed", seed, 0)
        self.sample = None if sample is None else integer("sample", sample, 1)
        self.loss_star = None if loss_star is None else number("loss_star", loss_star)
        if self.loss_star is not None and not math.isfinite(self.loss_star):
            raise ValueError(f"loss_star must be a finite number, got {loss_star}")
        self.records: list[dict[str, float]] = []
        self._writer = None if writer is None else checked(writer)
        self._names = named(optimizer, names)
        self._seen, self._start = 0, integer("start", start, 0)
        self._sampler, self._due = Sampler(self.sample), False
        self._loss: Any = None
        self._redraw: Callable[[], None] | None = None
        self._redraw_every = 1
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Stops observing; the records stay. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        if self._handles and self._redraw and self.records:
            self._redraw()
        self._handles, self._sampler, self._loss, self._due = [], Sampler(self.sample), None, False

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def loss(self, value: Any) -> Any:
        """Takes note of the loss from which the next step's gradients come, a number or a tensor of one element, and returns it.

        Not needed where `step` is given a closure. The last value before a step counts. With several backward passes for one
        step, give the loss of all; with a GradScaler, the loss before it is scaled.
        """
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            self._loss = value.detach().clone()  # read when it is due, not now: no waiting for a GPU
        else:
            self._loss = number("a loss", value)
        return value

    def columns(self) -> dict[str, list[float]]:
        """The records as columns of equal length, by name; nan where a record has no such number."""
        keys = dict.fromkeys(key for record in self.records for key in record)
        return {key: [record.get(key, math.nan) for record in self.records] for key in keys}

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes optimizer, settings and records as JSON; what is not finite as null."""
        settings = {"optimizer": type(self.optimizer).__name__, "every": self.every, "sample": self.sample}
        settings |= {"loss_star": self.loss_star, "seed": self.seed}
        records = [{k: v if math.isfinite(v) else None for k, v in record.items()} for record in self.records]
        text = json.dumps({**settings, "records": records}, indent=1, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def to_tensorboard(self, writer: Writer, prefix: str = "optimizer/") -> None:
        """Gives all records so far to anything with add_scalar(tag, value, step); tags are `prefix` and the record's names."""
        checked(writer)
        for record in self.records:
            write(writer, record, prefix)

    def plot(self) -> Figure:
        """A new matplotlib Figure of all records: a panel for each quantity. ValueError where there are none."""
        from fast.monitor.plot import draw

        return draw(self)

    def live(self, every: int = 20) -> None:
        """Shows the picture of `plot` below the current Jupyter cell, and draws it anew every `every` records and at `remove`."""
        from fast.monitor.plot import in_jupyter

        self._redraw_every = integer("every", every, 1)
        self._redraw = in_jupyter(self)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """The step's arguments, its closure replaced by one that also takes note of the loss."""
        self._due = False
        if _unseen() or self._seen % self.every:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        random = Random((self.seed << 64) + self._start + self._seen)
        with torch.no_grad():
            self._sampler.before(self._watched(closure is not None), random)
        self._due = True
        if closure is None:
            return None
        noting = self._noting(closure)
        return ((args[0], noting, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": noting})

    def _noting(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure; its first value, which is that of the parameters before the step, is noted where it is a loss."""
        first = True

        def run() -> Any:
            nonlocal first
            value = closure()
            if first and isinstance(value, (float, Tensor)):
                self.loss(value)
            first = False
            return value

        return run

    def _watched(self, all_of_them: bool) -> list[Watched]:
        """The parameters with a gradient, or all: which ones will have one, a closure decides later."""
        found: list[Watched] = []
        for index, group in enumerate(self.optimizer.param_groups):
            for i, param in enumerate(group["params"]):
                if all_of_them or param.grad is not None:
                    name = name_of(group, index, i) if self._names is None else self._names.get(id(param))
                    found.append((index, name, param))
        return found

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if _unseen():
            return
        due, loss, self._due, self._loss = self._due, self._loss, False, None
        self._seen += 1
        if not due:
            return
        with torch.no_grad():
            record = self._record(loss)
        self.records.append(record)
        if self._writer is not None:
            write(self._writer, record, "optimizer/")
        if self._redraw and len(self.records) % self._redraw_every == 0:
            self._redraw()

    def _record(self, loss: Any) -> dict[str, float]:
        groups, named = self._sampler.after(self.optimizer)
        total = Sums()
        for sums in groups:
            total.add(sums)
        record: dict[str, float] = {"step": self._start + self._seen, **total.quantities()}
        if loss is not None:
            record["loss"] = float(loss)
            if self.loss_star is not None:
                gap = record["loss"] - self.loss_star
                gap = -gap if self.optimizer.param_groups[0].get("maximize") else gap
                record["pl_ratio"] = total.grad_sq / (2 * gap) if gap > 0 else math.nan
        for i, sums in enumerate(groups if len(groups) > 1 else ()):
            record |= {f"group{i}/{k}": v for k, v in sums.quantities().items()}
        for name, sums in named.items():
            record |= {f"param/{name}/{k}": v for k, v in sums.quantities().items()}
        return record


def _unseen() -> bool:
    """Whether this step is being compiled or captured: what would be read now would not be read when it runs."""
    if torch.compiler.is_compiling():
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
