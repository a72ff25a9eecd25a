"""The packages that not everything needs: a test module that imports one that is missing is skipped, with that reason.

So it is in an environment that has torch, NumPy and pytest alone (`make matrix`). Under ADAMLAB_EXTRAS=required (`make test`) a
missing package is an error there, as any other import that fails always is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

PACKAGES = {
    "IPython", "adam_mini", "adams", "datasets", "grams", "gymnasium", "matplotlib", "mlxtend", "nbclient", "nbformat", "peft",
    "scipy", "sklearn", "tensorboard", "tokenizers", "tqdm", "transformers", "triton",
}  # fmt: skip


@contextmanager
def skipped() -> Iterator[None]:
    """Skips what needs an optional package that is missing."""
    try:
        yield
    except (ModuleNotFoundError, pytest.Module.CollectError) as error:
        origin = error.__cause__ if isinstance(error, pytest.Module.CollectError) else error
        name = origin.name if isinstance(origin, ModuleNotFoundError) and origin.name else ""
        if name.partition(".")[0] in PACKAGES and os.environ.get("ADAMLAB_EXTRAS") != "required":
            pytest.skip(f"{name} is not installed", allow_module_level=True)
        raise


class Module(pytest.Module):
    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        with skipped():
            return super().collect()
