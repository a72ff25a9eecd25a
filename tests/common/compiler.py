"""The C++ compiler behind torch.compile: whether this machine has one, and which tests cannot do without.

Without one the optimizers run eagerly, after one warning. So do most tests then; those that insist on compiled code, by
`@pytest.mark.compiler` or by a parameter `compile` that is True, are skipped, all with REASON. Where a compiler is
found none of this happens, nor under ADAMLAB_COMPILER=required (.ci/run): there a missing compiler makes tests fail.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import sysconfig

import pytest

REASON = "no C++ compiler"
WARNING = "torch.compile failed"  # how the optimizers' warning begins


@functools.cache
def found() -> bool:
    """Whether torch.compile's compiler, and Python's headers for it, are here."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    command = [name, "-fsyntax-only", "-x", "c++", f"-I{sysconfig.get_path('include')}", "-"]
    try:
        return not subprocess.run(command, input=b"#include <Python.h>\n", capture_output=True).returncode
    except OSError:
        return False


def expected() -> bool:
    return os.environ.get("ADAMLAB_COMPILER") == "required" or found()


def insists(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return item.get_closest_marker("compiler") is not None or parameters.get("compile") is True
