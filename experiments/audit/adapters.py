"""Contestants made ready to run: a class by name, our hyper-parameters under its names, and a path of its parameters.

    contestant = Contestant("timm", "timm.optim:Lion", "lion", options={"caution": True})
    run = contestant.run(TRIALS["decay"], "float64")     Run(path, kept): its parameters after each step

A contestant is data. What a package calls a hyper-parameter, how it wants its parameters and which options make it the rule
that it is entered for: that is all that is said about it, beside what its own documentation says of itself.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from experiments.audit.trials import Path, Trial

NUMBERS = ("lr", "betas", "eps", "weight_decay")
OURS = "adamlab"


@dataclass(frozen=True)
class Run:
    """The parameters after each step, and in which dtypes the optimizer keeps its state."""

    path: Path
    kept: frozenset[str]


@dataclass(frozen=True)
class Contestant:
    """One class of a package with the options that make it a rule.

    names: ours to theirs, for what it calls otherwise; a pair for betas that it takes one by one; None for what it does not
    take. claims: which of the rule's documented variants (`rules.DOCUMENTED`) its own documentation says it is; `cites` where.
    kind: what it is given, "params", "named" (parameters with their names), "model", "group" (a group with its options); or
    "optax", "keras" for those of another house.
    """

    library: str
    target: str
    rule: str
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, Any] = field(default_factory=dict)
    claims: tuple[str, ...] = ()
    cites: str = ""
    kind: str = "params"
    wide: bool = False  # computes in torch's default dtype: float64 is measured with that set to float64
    # "module:attribute" -> value, or "module:function()" -> its argument, as its documentation offers
    settings: Mapping[str, Any] = field(default_factory=dict)
    contract: Mapping[str, Any] = field(default_factory=dict)  # fields of `contract.Subject` that are others there

    @property
    def of_torch(self) -> bool:
        """Whether it is a torch.optim.Optimizer."""
        return self.kind not in ("optax", "keras")

    @property
    def label(self) -> str:
        """How the table calls it: the class and its options."""
        name = self.target.rpartition(":")[2]
        shown = ", ".join(f"{k}={v}" for k, v in self.options.items())
        return f"{name}({shown})" if shown else name

    def make(self) -> Any:
        """The class, or function. ModuleNotFoundError and the like where the package is not there or does not import."""
        module, _, name = self.target.partition(":")
        found: Any = importlib.import_module(module)
        for place, value in self.settings.items():
            where, _, attribute = place.partition(":")
            if attribute.endswith("()"):
                getattr(importlib.import_module(where), attribute[:-2])(value)
            else:
                setattr(importlib.import_module(where), attribute, value)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def version(self) -> str:
        """Of the installed distribution; "checkout" for this project where it is not installed."""
        try:
            return version(self.library)
        except PackageNotFoundError:
            if self.library == OURS:
                return "checkout"
            raise

    def takes(self, trial: Trial) -> bool:
        """Whether it has the hyper-parameters that the trial is about, and can go without a gradient."""
        if trial.missing and not self.of_torch:
            return False
        return all(self.names.get(name, name) is not None for name in trial.numbers if not name.startswith("beta"))

    def numbers(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The trial's numbers by the contestant's names, and its own options."""
        ours = {"lr": given["lr"], "betas": (given["beta1"], given["beta2"])}
        ours |= {k: given[k] for k in ("eps", "weight_decay")}
        out: dict[str, Any] = {}
        for name, value in ours.items():
            theirs = self.names.get(name, name)
            if isinstance(theirs, str):
                out[theirs] = value
            elif theirs is not None:
                out |= dict(zip(theirs, value if isinstance(value, tuple) else [value] * len(theirs), strict=True))
        return {**out, **self.options}

    def with_dtype(self, dtype: Any) -> Mapping[str, Any]:
        """The dtype in which it is asked to compute, where it asks for one: `names["dtype"]`, with "=text" for its name."""
        name, _, text = self.names.get("dtype", "").partition("=")
        return {name: str(dtype).removeprefix("torch.") if text else dtype} if name else {}

    def run(self, trial: Trial, dtype: str) -> Run:
        """Its path through the trial. What it prints and warns of stays away from the table."""
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            if self.kind == "optax":
                return _optax(self, trial, dtype)
            if self.kind == "keras":
                return _keras(self, trial, dtype)
            return _torch(self, trial, dtype)


def _torch(contestant: Contestant, trial: Trial, dtype: str) -> Run:
    import torch

    kind = getattr(torch, dtype)
    parts = trial.parts(contestant.rule)
    params = [torch.nn.Parameter(torch.tensor(w, dtype=kind)) for w in trial.start[: len(parts)]]
    with _default_dtype(kind if contestant.wide else torch.get_default_dtype()):
        optimizer = build(contestant, params, [part.name for part in parts], trial.all_numbers)
        path: Path = []
        for drawn in trial.gradients:
            for param, g in zip(params, drawn, strict=False):
                param.grad = None if g is None else torch.tensor(g, dtype=kind)
            optimizer.step()
            path.append([p.detach().double().numpy().copy() for p in params])
    return Run(path, frozenset(_dtypes(list(optimizer.state.values()))))


def build(contestant: Contestant, params: Sequence[Any], names: Sequence[str], given: Mapping[str, Any]) -> Any:
    """The torch optimizer over these parameters."""
    make = contestant.make()
    numbers = {**contestant.numbers(given), **contestant.with_dtype(params[0].dtype)}
    if contestant.kind == "named":
        return make(list(zip(names, params, strict=True)), **numbers)
    if contestant.kind == "model":
        return make(model(params, names), **numbers)
    if contestant.kind == "group":
        return make([{"params": list(params), **numbers}])
    return make(list(params), **numbers)


def model(params: Sequence[Any], names: Sequence[str]) -> Any:
    """A module with these parameters under these names."""
    import torch

    root = torch.nn.Module()
    for name, param in zip(names, params, strict=True):
        *path, last = name.split(".")
        module = root
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, torch.nn.Module())
            module = getattr(module, step)
        module.register_parameter(last, param)
    return root


@contextlib.contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _dtypes(x: Any) -> Iterator[str]:
    """The dtypes of all tensors of more than one entry in a state, those inside tensor subclasses too."""
    if isinstance(x, Mapping):
        for value in x.values():
            yield from _dtypes(value)
    elif isinstance(x, list | tuple):
        for value in x:
            yield from _dtypes(value)
    elif hasattr(x, "dtype") and hasattr(x, "shape"):
        inner = getattr(x, "__tensor_flatten__", None)
        if inner is not None:
            yield from _dtypes([getattr(x, name) for name in inner()[0]])
        elif math.prod(x.shape) > 1:
            yield str(x.dtype).removeprefix("torch.")


def _optax(contestant: Contestant, trial: Trial, dtype: str) -> Run:
    import jax  # pyright: ignore[reportMissingImports]
    import optax  # pyright: ignore[reportMissingImports]

    jax.config.update("jax_enable_x64", True)
    now = [jax.numpy.asarray(w, dtype=dtype) for w in trial.start]
    numbers = contestant.numbers(trial.all_numbers)
    transform = contestant.make()(**numbers)
    state, path = transform.init(now), []
    for drawn in trial.gradients:
        updates, state = transform.update([jax.numpy.asarray(g, dtype=dtype) for g in drawn], state, now)
        now = optax.apply_updates(now, updates)
        path.append([np.asarray(w, dtype=np.float64) for w in now])
    return Run(path, frozenset(_dtypes(jax.tree.leaves(state))))


def _keras(contestant: Contestant, trial: Trial, dtype: str) -> Run:
    import keras  # pyright: ignore[reportMissingImports]

    variables = [keras.Variable(w.astype(dtype), dtype=dtype, name=f"w{i}") for i, w in enumerate(trial.start)]
    optimizer = contestant.make()(**contestant.numbers(trial.all_numbers))
    path: Path = []
    for drawn in trial.gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g, dtype=dtype) for g in drawn], variables if not path else None)
        path.append([np.asarray(keras.ops.convert_to_numpy(w), dtype=np.float64).copy() for w in variables])
    return Run(path, frozenset(str(v.dtype) for v in optimizer.variables if math.prod(v.shape) > 1))
