"""What it means when a test of a claim is skipped.

A verdict in reference/claims.toml rests on its tests. So a skipped test of a claim is a failure, unless it says `cuda`:
those may skip, and then no verdict may rest on them alone (tests/claim_marks.py).
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

pytest_plugins = ["pytester"]


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
