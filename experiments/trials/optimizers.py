"""Optimizers by name, imported when asked for, and one rule for weight decay.

The rule, the same for every optimizer: tensors of two and more dimensions decay (matrices, embeddings, the head),
tensors of one (the norms' gains) do not. Two parameter groups, in that order, with their parameters' names.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.trials.ablation import RULES

Build = Callable[[Callable[..., Optimizer], nn.Module, float, dict[str, Any]], Optimizer]


def by_groups(
    cls: Callable[..., Optimizer], model: nn.Module, weight_decay: float, options: dict[str, Any]
) -> Optimizer:
    return cls(decay_groups(model, weight_decay), **options)


def by_spectrum(
    cls: Callable[..., Optimizer], model: nn.Module, weight_decay: float, options: dict[str, Any]
) -> Optimizer:
    """Adams as it is meant: embeddings and head have no spectral decay. They decay as the rule has it, as vectors do."""
    head: Any = getattr(model, "lm_head", None) or getattr(model, "head", None)
    layer: Any
    for layer in (*(m for m in model.modules() if isinstance(m, nn.Embedding)), head):
        if layer is not None:
            layer.weight.use_spectral_decay = False
    groups = [{**g, "scalar_vector_weight_decay": g["weight_decay"]} for g in decay_groups(model, weight_decay)]
    with warnings.catch_warnings(
        action="ignore", category=UserWarning
    ):  # the package's, that there is one process only
        return cls(groups, **options)


def by_blocks(
    cls: Callable[..., Optimizer], model: nn.Module, weight_decay: float, options: dict[str, Any]
) -> Optimizer:
    """Adam-mini needs the module as well: its blocks (heads, rows) are read off the structure."""
    return cls(decay_groups(model, weight_decay), partition=importlib.import_module("fast").partition(model), **options)


def by_blocks_but(block: str, *layers: str) -> Build:
    """Adam-mini where each weight whose name ends in one of `layers` is one block ("tensor") or has a block for each element."""

    def build(
        cls: Callable[..., Optimizer], model: nn.Module, weight_decay: float, options: dict[str, Any]
    ) -> Optimizer:
        fast = importlib.import_module("fast")

        def rule(name: str, weight: Tensor) -> Any:
            if not name.endswith(tuple(f"{layer}.weight" for layer in layers)):
                return None
            return "tensor" if block == "tensor" else fast.Blocks.along(weight.shape, 1, "columns", batch=1)

        return cls(decay_groups(model, weight_decay), partition=fast.partition(model, rules=rule), **options)

    return build


def by_names(
    cls: Callable[..., Optimizer], model: nn.Module, weight_decay: float, options: dict[str, Any]
) -> Optimizer:
    """The released Adam-mini groups by name itself; of a Llama it exempts the norms, which is the rule above."""
    config: Any = model.config
    sizes = {"dim": config.hidden_size, "n_heads": config.num_attention_heads, "n_kv_heads": config.num_key_value_heads}
    return cls(list(model.named_parameters()), weight_decay=weight_decay, **sizes, verbose=False, **options)


def by_angle(
    cls: Callable[..., Optimizer], model: nn.Module, weight_decay: float, options: dict[str, Any]
) -> Optimizer:
    """Adam-atan2: Adams without spectral decay, where matrices decay as the rule has it."""
    groups = [{**g, "scalar_vector_weight_decay": g["weight_decay"]} for g in decay_groups(model, weight_decay)]
    return cls(groups, use_spectral_decay=False, **options)


@dataclass(frozen=True)
class Entry:
    """`target`: 'module:class'. `lrs`: the rates of `sweep`, which bracket the best one found for the default model."""

    target: str
    lrs: tuple[float, ...] = ()
    weight_decay: float = 0.1
    build: Build = by_groups
    options: dict[str, Any] = field(default_factory=dict)


LAYERS = {  # of a Llama
    "embedding": ("embed_tokens",),
    "head": ("lm_head",),
    "query_key": ("q_proj", "k_proj"),
    "value": ("v_proj",),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}

# Betas are the class's own where none are given here; --betas sets them for all.
REGISTRY = {
    "adamw": Entry("torch.optim:AdamW", lrs=(5e-4, 1.5e-3, 4.5e-3)),
    "adam": Entry("torch.optim:Adam", weight_decay=0.0),  # its decay is an L2 term in the gradient: another algorithm
    "grams": Entry("fast:Grams", lrs=(1.3e-3, 4e-3, 1.2e-2)),
    "lion": Entry("fast:Lion"),
    "adams": Entry("fast:Adams", build=by_spectrum),
    "adam_mini": Entry("fast:AdamMini", build=by_blocks),
    "cautious_adamw": Entry("fast:CautiousAdamW"),
    "cautious_lion": Entry("fast:CautiousLion"),
    "adam_atan2": Entry("fast:Adams", build=by_angle, options={"betas": (0.9, 0.999)}),
    "adamw_95": Entry("torch.optim:AdamW", options={"betas": (0.9, 0.95)}),
    "grams_95": Entry("fast:Grams", options={"betas": (0.9, 0.95)}),
    **{
        f"adam_mini_{part}_{word}": Entry("fast:AdamMini", build=by_blocks_but(block, *layers))
        for part, layers in LAYERS.items()
        for word, block in (("whole", "tensor"), ("each", "element"))
    },
    **{f"ablation_{rule}": Entry("experiments.trials.ablation:Ablation", options={"rule": rule}) for rule in RULES},
    "sgd": Entry("torch.optim:SGD", options={"momentum": 0.9}),
    "grams_released": Entry("grams:Grams"),
    "adams_released": Entry("adams:Adams_ZeRO", build=by_spectrum),
    # the package's own beta2 is 0.999: here its betas are those of fast.AdamMini
    "adam_mini_released": Entry("adam_mini:Adam_mini", build=by_names, options={"betas": (0.9, 0.95)}),
    "grams_as_released": Entry("fast:Grams", options={"as_released": True, "eps": 1e-6}),  # the package's default
    "adams_as_released": Entry("fast:Adams", build=by_spectrum, options={"as_released": True}),
}


def entry(name: str) -> Entry:
    if name not in REGISTRY:
        raise ValueError(f"unknown optimizer {name!r}: expected one of {', '.join(REGISTRY)}")
    return REGISTRY[name]


def find(name: str) -> Callable[..., Optimizer]:
    """The class of that name. ValueError: no such name. ImportError: the name is known, its class is not installed."""
    module, attribute = entry(name).target.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"optimizer {name!r} needs {module}.{attribute}, which cannot be imported here ({error}). "
            f"Known names: {', '.join(REGISTRY)}"
        ) from error


def source_files(name: str) -> list[Path]:
    """Every module of the optimizer's package, of the tasks and of this one: rather one too many than one too few.

    Of torch none: a run names its version.
    """
    package = importlib.import_module(find(name).__module__.partition(".")[0])
    path = Path(inspect.getfile(package))
    theirs = sorted(path.parent.rglob("*.py")) if path.stem == "__init__" else [path]
    return [
        *(theirs if package.__name__ != "torch" else []),
        *sorted(p for room in ("tasks", "trials") for p in (Path(__file__).parents[1] / room).rglob("*.py")),
    ]


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [(n, p) for n, p in named if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [(n, p) for n, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [
        g for g in groups if g["params"]
    ]  # adapters have no vectors, and torch takes no empty group beside named ones


def make(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float | None = None,
    betas: tuple[float, float] | None = None,
    compile: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> Optimizer:
    """The optimizer of that name for `model`; None leaves a setting as the registry, else the class, has it.

    `compile` reaches this project's own optimizers only. options: of the constructor, before the registry's.
    """
    chosen, cls = entry(name), find(name)
    options = {**chosen.options, **(options or {}), "lr": lr}
    if betas is not None:
        options["betas"] = betas
    if chosen.target.startswith("fast:"):
        options["compile"] = compile
    return chosen.build(cls, model, chosen.weight_decay if weight_decay is None else weight_decay, options)
