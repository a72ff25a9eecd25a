"""The reference shelf as the tests walk it: every module of `reference` with init and step, found, not listed."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
import torch

import reference


def rules() -> dict[str, ModuleType]:
    """Name -> module, for each algorithm of the shelf."""
    names = sorted(m.name for m in pkgutil.iter_modules(reference.__path__) if not m.ispkg)
    modules = {name: importlib.import_module(f"reference.{name}") for name in names}
    return {name: m for name, m in modules.items() if hasattr(m, "init") and hasattr(m, "step")}


RULES = rules()

# Hyper-parameters besides lr, beta1, beta2 that a rule has: each walks through every contract test. Names that a rule
# does not know are left out for it by `hyper`.
ODD: dict[str, Any] = {"eps": 1e-3, "weight_decay": 0.3, "scalar_vector_weight_decay": 0.2}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "adam_atan2": [{}, {"a": 1.25, "b": 0.5}],
    "adam_mini": [
        {"blocks": b} for b in ("tensor", "rows", "columns", ("heads", 2), [("heads", 2, 1), ("rows", 2, 2)])
    ],
    "adams": [{}, {"use_spectral_decay": False}, {"reseed": True}, {"as_released": True}],
    "cautious": [{"rescale": r} for r in ("count", "mean", "none")],
    "cautious_lion": [{"rescale": r} for r in ("count", "mean", "none")],
}
CASES = [(name, variant) for name in RULES for variant in VARIANTS.get(name, [{}])]
IDS = [f"{name}-{'-'.join(map(str, variant.values()))}" for name, variant in CASES]


def hyper(rule: ModuleType, **given: Any) -> dict[str, Any]:
    """Those of `given` that the rule's step takes."""
    return {k: v for k, v in given.items() if k in rule.step.__kwdefaults__ or k in ("lr",)}


def plain(x: Any) -> np.ndarray:
    """A tensor or an array as a NumPy array of its own."""
    return x.detach().numpy().copy() if isinstance(x, torch.Tensor) else np.array(x)


def fields(state: Any) -> dict[str, np.ndarray]:
    """Copies of a state's fields as NumPy arrays, those that hold None left out."""
    out = {}
    for name, value in state._asdict().items():
        if value is not None:
            out[name] = plain(value)
    return out


def draws(shape: tuple[int, ...], steps: int, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """A parameter and `steps` gradients."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape), [rng.standard_normal(shape) for _ in range(steps)]


def run(rule: Any, w: Any, gs: list[Any], **kwargs: Any) -> tuple[Any, Any]:
    state = rule.init(w)
    for g in gs:
        w, state = rule.step(w, g, state, **kwargs)
    return w, state


def released_run(optimizer: torch.optim.Optimizer, param: torch.nn.Parameter, gs: Iterable[np.ndarray]) -> np.ndarray:
    for g in gs:
        param.grad = torch.tensor(g, dtype=param.dtype)
        optimizer.step()
    return param.detach().double().numpy().copy()


def reference_run(rule: Any, w: np.ndarray, gs: Iterable[np.ndarray], **kwargs: Any) -> np.ndarray:
    state = rule.init(w)
    for g in gs:
        w, state = rule.step(w, g, state, **kwargs)
    return w


def parameter(w: Any, dtype: torch.dtype = torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(w, dtype=dtype))
