"""Who is audited: packages by their names on the package index, classes, the options that make them a rule.

The distributions' names are the extra `audit` of pyproject.toml, and zij, which asks for torch < 2.13 and so is installed without
its dependencies. One that is not installed is reported as such, and the audit goes on. Of packages that ship none of the rules
(transformers, schedulefree, torch_optimizer, came-pytorch, prodigyopt), or run on a GPU alone (flashoptim), there is nothing to
enter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.audit.adapters import OURS, Contestant
from experiments.audit.rules import DECOUPLED, EPS, RESEED, UNDECAYED, WHOLE

CONTESTANTS: list[Contestant] = []


def enter(library: str, target: str, rule: str, *options: Mapping[str, Any], **rest: Any) -> None:
    """One contestant for each of the option sets; none given: one without options."""
    CONTESTANTS.extend(Contestant(library, target, rule, options=each, **rest) for each in options or ({},))


NO_EPS = {"eps": None}
KERAS: Mapping[str, Any] = {"lr": "learning_rate", "betas": ("beta_1", "beta_2"), "eps": "epsilon"}
OPTAX: Mapping[str, Any] = {"lr": "learning_rate", "betas": ("b1", "b2")}

VECTORS: Mapping[str, Any] = {
    "names": {"weight_decay": "scalar_vector_weight_decay"}
}  # the terms' parameters are vectors
for each in ({"compile": False}, {"compile": True}):
    enter(OURS, "fast:Grams", "grams", each)
    enter(OURS, "fast:Lion", "lion", each, names=NO_EPS)
    enter(OURS, "fast:CautiousAdamW", "cautious", each)
    enter(OURS, "fast:CautiousLion", "cautious_lion", each, names=NO_EPS)
    enter(OURS, "fast:CautiousWeightDecay", "cautious_weight_decay", each)
    enter(OURS, "fast:Adams", "adams", each, names=NO_EPS, claims=(RESEED,), cites="its docstring", contract=VECTORS)
    enter(OURS, "fast:AdamMini", "adam_mini", {"heads": 2, **each}, kind="named", contract={"options": each})

LOOPS = ({"foreach": False}, {"foreach": True}, {"fused": True})
enter("torch", "torch.optim:Adam", "adam", *LOOPS)
enter("torch", "torch.optim:AdamW", "adamw", *LOOPS)

enter("grams-pytorch", "grams:Grams", "grams")
enter(
    "adams-torch", "adams:Adams_ZeRO", "adams", names={**NO_EPS, "dtype": "master_dtype"}, wide=True, contract=VECTORS
)
enter("adam-mini", "adam_mini:Adam_mini", "adam_mini", {"dim": 8, "n_heads": 2, "verbose": False}, kind="named")

enter("lion-pytorch", "lion_pytorch:Lion", "lion", names=NO_EPS)
enter("lion-pytorch", "lion_pytorch.foreach:Lion", "lion", names=NO_EPS)
enter("lion-pytorch", "lion_pytorch.cautious_lion:Lion", "cautious_lion", names=NO_EPS)
enter("lion-pytorch", "lion_pytorch.cautious_lion:Lion", "lion", {"cautious_factor": 1.0}, names=NO_EPS)
enter(
    "adam-atan2-pytorch",
    "adam_atan2_pytorch:AdamAtan2",
    "adam_atan2",
    names=NO_EPS,
    claims=("a = 1.27",),
    cites="its signature: a = 1.27",
)
enter("adam-atan2-pytorch", "adam_atan2_pytorch:AdamAtan2", "adam_atan2", {"a": 1.0}, names=NO_EPS)
enter("adam-atan2-pytorch", "adam_atan2_pytorch.foreach:AdamAtan2", "adam_atan2", {"a": 1.0}, names=NO_EPS)

enter("timm", "timm.optim:AdamWLegacy", "adamw", {"foreach": False}, {"foreach": True})
enter(
    "timm",
    "timm.optim:AdamWLegacy",
    "cautious",
    {"caution": True, "foreach": False},
    {"caution": True, "foreach": True},
)
enter("timm", "timm.optim:Lion", "lion", {"foreach": False}, {"foreach": True}, names=NO_EPS)
enter(
    "timm",
    "timm.optim:Lion",
    "cautious_lion",
    {"caution": True, "foreach": False},
    {"caution": True, "foreach": True},
    names=NO_EPS,
)

enter("pytorch-optimizer", "pytorch_optimizer:Lion", "lion", {"foreach": False}, {"foreach": True}, names=NO_EPS)
enter("pytorch-optimizer", "pytorch_optimizer:Lion", "cautious_lion", {"cautious": True}, names=NO_EPS)
enter("pytorch-optimizer", "pytorch_optimizer:Grams", "grams", {"foreach": False}, {"foreach": True})
enter("pytorch-optimizer", "pytorch_optimizer:AdamMini", "adam_mini", {"num_embeds": 8, "num_heads": 2}, kind="model")

enter("torch-optimi", "optimi:Adam", "adam", {"foreach": False, "triton": False}, {"foreach": True, "triton": False})
enter("torch-optimi", "optimi:AdamW", "adamw", {"foreach": False, "triton": False}, {"foreach": True, "triton": False})
enter(
    "torch-optimi",
    "optimi:Lion",
    "lion",
    {"foreach": False, "triton": False},
    {"foreach": True, "triton": False},
    names=NO_EPS,
)

STORED: Mapping[str, Any] = {"dtype": "storage_dtype=text"}
UNCOMPILED = {"heavyball.utils:compile_mode": None}  # compiled, a run takes minutes
enter("heavyball", "heavyball:AdamW", "adamw", names=STORED, settings=UNCOMPILED)
enter("heavyball", "heavyball:AdamW", "cautious", {"caution": True}, names=STORED, settings=UNCOMPILED)
enter(
    "heavyball",
    "heavyball:AdamW",
    "cautious_weight_decay",
    {"cautious_weight_decay": True},
    names=STORED,
    settings=UNCOMPILED,
)

enter("zij", "zij:Adam", "adam")
enter("zij", "zij:AdamW", "adamw")
enter("zij", "zij:Lion", "lion", names=NO_EPS)
enter("zij", "zij:Grams", "grams")
enter("zij", "zij:AdamAtan2", "adam_atan2", {"a": 1.0}, names=NO_EPS)
enter(
    "zij",
    "zij:AdamMini",
    "adam_mini",
    {"num_embeds": 8, "num_heads": 2},
    kind="model",
    claims=(UNDECAYED, WHOLE),
    cites="docstring: 'every remaining parameter tensor forms a single block', decay 'disabled for normalization layers'",
)

enter("adv_optm", "adv_optm:AdamW_adv", "adamw")
enter("adv_optm", "adv_optm:AdamW_adv", "cautious_weight_decay", {"cautious_wd": True})
enter("adv_optm", "adv_optm:AdamW_adv", "adam_atan2", {"use_atan2": True})
enter("adv_optm", "adv_optm:Lion_adv", "lion", names=NO_EPS)

for each in ("_AdamW", "AdamW8bit", "AdamW4bit", "AdamWFp8"):  # uncompiled: each shape would compile for itself
    enter("torchao", f"torchao.optim:{each}", "adamw", settings={"torch.compiler:set_stance()": "force_eager"})
enter("bitsandbytes", "bitsandbytes.optim:AdamW32bit", "adamw")
enter("bitsandbytes", "bitsandbytes.optim:AdamW8bit", "adamw")
enter("bitsandbytes", "bitsandbytes.optim:Lion32bit", "lion", names=NO_EPS)
enter("bitsandbytes", "bitsandbytes.optim:Adam32bit", "adam")

enter("muon-optimizer", "muon:SingleDeviceMuonWithAuxAdam", "adamw", {"use_muon": False}, kind="group")
enter("galore-torch", "galore_torch:GaLoreAdamW", "adamw", {"no_deprecation_warning": True})
enter("apollo-torch", "apollo_torch:APOLLOAdamW", "adamw", {"no_deprecation_warning": True})

enter("optax", "optax:adam", "adam", kind="optax", names={**OPTAX, "weight_decay": None})
enter("optax", "optax:adamw", "adamw", kind="optax", names=OPTAX)
enter("optax", "optax:lion", "lion", kind="optax", names={**OPTAX, "eps": None})
HAT = "docstring: 'this epsilon is epsilon hat in the Kingma and Ba paper'"
enter(
    "keras",
    "keras.optimizers:Adam",
    "adam",
    kind="keras",
    names=KERAS,
    claims=(DECOUPLED, EPS),
    cites=f"{HAT}; weight_decay is applied to the weights",
)
enter("keras", "keras.optimizers:AdamW", "adamw", kind="keras", names=KERAS, claims=(EPS,), cites=HAT)
enter("keras", "keras.optimizers:Lion", "lion", kind="keras", names={**KERAS, "eps": None})
