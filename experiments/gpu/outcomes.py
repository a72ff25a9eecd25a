"""A pytest plugin that says what became of each test as soon as it is known, and runs one part of the tests of many.

    pytest -p experiments.gpu.outcomes --outcomes FILE --part 2/12 --seconds 60

FILE gets a line of JSON with the tests of this part, one as each begins, and one for each result. pytest's own reports come at the
end of a run, and a run that is killed has none; and pytest-xdist need not be there. A test that takes longer than so many seconds
ends the process, after it has shown where it was. A second run with the same FILE leaves out what has begun before.
"""

from __future__ import annotations

import faulthandler
import json
import os
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", required=True)
    parser.addoption("--part", required=True, help="i/n: every n-th test, from the i-th on")
    parser.addoption("--seconds", required=True, type=float, help="for one test")


def pytest_configure(config: pytest.Config) -> None:
    named = [str(config.getoption(name)) for name in ("--outcomes", "--part", "--seconds")]
    config.pluginmanager.register(Outcomes(Path(named[0]), named[1], float(named[2])))


class Outcomes:
    """Writes the lines."""

    def __init__(self, path: Path, part: str, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.errors = os.dup(2)  # which pytest does not capture yet
        self.own, self.parts = map(int, part.split("/"))

    def _say(self, found: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: item.nodeid)
        mine = items[self.own :: self.parts]
        self._say({"tests": [item.nodeid for item in mine]})
        begun = {json.loads(line).get("begins") for line in self.path.read_text(encoding="utf-8").splitlines()}
        mine = [item for item in mine if item.nodeid not in begun]
        config.hook.pytest_deselected(items=[item for item in items if item not in mine])
        items[:] = mine

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._say({"begins": nodeid})
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.errors)

    def pytest_runtest_logfinish(self) -> None:
        faulthandler.cancel_dump_traceback_later()

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

    def pytest_sessionfinish(self) -> None:
        self._say({"finished": self.own})


def first_line(longrepr: Any) -> str:
    """Of an error the line that names it, or why a test was skipped."""
    if isinstance(longrepr, tuple):
        return str(longrepr[2])
    crash = getattr(longrepr, "reprcrash", None)
    if crash:
        return str(crash.message).strip().split("\n")[0][:400]
    lines = str(longrepr).strip().splitlines() or [""]
    errors = [line.removeprefix("E ") for line in lines if line.startswith("E ")]
    return (errors or lines)[-1].strip()[:400]
