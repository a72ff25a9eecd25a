"""A pytest plugin that says what became of each test as soon as it is known, and runs one part of the tests of many.

    pytest -p experiments.gpu.outcomes --outcomes FILE --part 2/12

FILE gets a line of JSON with the tests of this part, and one for each result. pytest's own reports come at the end of a run, and a
run that is killed has none; and pytest-xdist need not be there.
"""

from __future__ import annotations

import json
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", required=True)
    parser.addoption("--part", required=True, help="i/n: every n-th test, from the i-th on")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes(str(config.getoption("--outcomes")), str(config.getoption("--part"))))


class Outcomes:
    """Writes the lines."""

    def __init__(self, path: str, part: str) -> None:
        self.path = path
        self.own, self.parts = map(int, part.split("/"))

    def _say(self, found: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: item.nodeid)
        mine = items[self.own :: self.parts]
        config.hook.pytest_deselected(items=[item for item in items if item not in mine])
        items[:] = mine
        self._say({"tests": [item.nodeid for item in items]})

    def pytest_warning_recorded(self, warning_message: Any) -> None:
        text = str(warning_message.message).strip().splitlines() or [""]
        self._say({"warning": f"{warning_message.category.__name__}: {text[0][:200]}"})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._say({"test": report.nodeid, "outcome": "failed", "error": first_line(report.longrepr)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            found: dict[str, Any] = {
                "test": report.nodeid,
                "outcome": report.outcome,
                "seconds": round(report.duration, 2),
            }
            if report.outcome != "passed":
                found["error"] = first_line(report.longrepr)
            self._say(found)


def first_line(longrepr: Any) -> str:
    """Of an error the line that names it, or why a test was skipped."""
    if isinstance(longrepr, tuple):
        return str(longrepr[2])
    crash = getattr(longrepr, "reprcrash", None)
    text = str(crash.message if crash else longrepr).strip()
    lines = text.splitlines() or [""]
    errors = [line for line in lines if line.startswith("E ")]
    return (lines[0] if crash else (errors or lines)[-1]).removeprefix("E").strip()[:400]
