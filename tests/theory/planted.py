"""A module with an error planted in its source: what a check must notice."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

import pytest


def planted(module: ModuleType, old: str, new: str) -> ModuleType:
    """The module as it would be with `new` in the place of `old`, which its source must have once."""
    source = inspect.getsource(module)
    assert source.count(old) == 1 and new != old, f"{old!r} stands {source.count(old)} times in {module.__name__}"
    out = ModuleType(module.__name__)
    vars(out)["__file__"] = module.__file__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, out)  # dataclasses look their module up
        exec(compile(source.replace(old, new), f"{module.__name__} with {new}", "exec"), vars(out))
    return out
