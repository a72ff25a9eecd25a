"""What is skipped, and what it means when a test of a claim is.

A verdict in reference/claims.toml rests on its tests. So a skipped test of a claim is a failure, unless it says `cuda`:
those may skip, and then no verdict may rest on them alone (tests/house/claim_marks.py). A machine without a C++ compiler is
no reason to fail: tests/common/compiler.py says what happens there; nor is one without an optional package: tests/common/extras.py.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import compiler
import extras
import pytest

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    if not compiler.expected():
        config.addinivalue_line("filterwarnings", f"ignore:{compiler.WARNING}:RuntimeWarning")
        os.environ["PYTHONWARNINGS"] = f"ignore:{compiler.WARNING}:RuntimeWarning"  # for the notebooks' kernels


def pytest_runtest_setup(item: pytest.Item) -> None:
    if compiler.insists(item) and not compiler.expected():
        pytest.skip(compiler.REASON)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    return extras.Module.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    with extras.skipped():
        return (yield)


@pytest.fixture
def fresh_dynamo() -> None:
    """For a test that compiles a step itself. All steps share the code of torch.optim's wrapper around them, and with it
    Dynamo's limit on recompilations: past it a compiled step runs uncompiled, or fails, by what ran in the process before.
    """
    import torch._dynamo  # two seconds, which a run of other tests need not take

    torch._dynamo.reset()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    claims = [c for mark in item.iter_markers("claim") for c in mark.args]
    if report.skipped and claims and not item.get_closest_marker("cuda"):
        reason = getattr(report, "wasxfail", None) or (
            report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        )
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} establishes {', '.join(claims)} and did not run ({reason}): "
            "make it run here, or take the verdict back in reference/claims.toml"
        )
        vars(report).pop("wasxfail", None)
    return report
