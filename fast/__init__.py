"""The optimizers of `reference` as drop-in torch.optim optimizers, compiled.

from fast import Grams
optimizer = Grams(model.parameters(), lr=1e-3)
"""

from fast._engine.warm_up import warm_up
from fast.adam_mini import AdamMini
from fast.adams import Adams
from fast.cautious import CautiousAdamW
from fast.cautious_weight_decay import CautiousWeightDecay
from fast.grams import Grams
from fast.lion import CautiousLion, Lion
from fast.monitor import Monitor
from fast.partition import partition
from fast.partition.blocks import Blocks

__all__ = [
    "AdamMini",
    "Adams",
    "Blocks",
    "CautiousAdamW",
    "CautiousLion",
    "CautiousWeightDecay",
    "Grams",
    "Lion",
    "Monitor",
    "partition",
    "warm_up",
]


def __getattr__(name: str) -> str:
    """`__version__`, of the installed distribution."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("adamlab")
        except PackageNotFoundError:  # a checkout that is on the path only
            pass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
