"""Runs the cases of a batch: the first steps side by side, then each measurement alone, every process with a limit of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.gpu.cases import Case
from experiments.gpu.child import ROOT, Child, environment, wait_for

Command = Callable[[Case], list[str]]
Keep = Callable[[str, dict[str, Any]], None]  # given a row's key and what is new in it
COMPILERS = 4
MEASURE_SECONDS = 25.0  # for rounds of 2 s, and the profiler's start


def command(dry: bool) -> Command:
    """What starts the worker of a case."""
    return lambda case: [sys.executable, "-m", "experiments.gpu.worker", json.dumps({**asdict(case), "dry": dry})]


@dataclass
class Running:
    case: Case
    child: Child
    ready: bool = False


class Batch:
    """Cases whose workers share a time: `first` seconds for a first step, `deadline` (of time.monotonic) for all."""

    def __init__(
        self,
        cases: list[Case],
        work: Path,
        keep: Keep,
        start: Command,
        first: float,
        deadline: float,
        at_once: int,
        room: float,
    ) -> None:
        self.waiting, self.work, self.keep, self.start = list(cases), work, keep, start
        self.first, self.deadline, self.at_once, self.room = first, deadline, max(1, at_once), room
        self.running: list[Running] = []

    def run(self) -> None:
        """Every case ends with numbers in its row, or with what came between; those that were not begun have none."""
        try:
            self._prepare()
            for one in [r for r in self.running if r.ready]:
                self._measure(one)
        finally:
            for one in self.running:
                one.child.end()

    def _prepare(self) -> None:
        while self.waiting or any(not r.ready for r in self.running):
            busy = [r for r in self.running if not r.ready]
            while self.waiting and self._fits(self.waiting[0], busy) and time.monotonic() < self.deadline:
                case = self.waiting.pop(0)
                name = case.key.replace("/", "-").replace(" ", "-")
                child = Child(
                    self.start(case),
                    environment(self.work, self.work / "cache" / name, COMPILERS),
                    self.work / f"{name}.txt",
                    ROOT,
                )
                self.keep(case.key, {"beside": len(busy)})
                busy.append(Running(case, child))
                self.running.append(busy[-1])
            if not busy:
                return  # no time is left for those that wait
            ends = min(min(r.child.began + self.first for r in busy), self.deadline)
            wait_for([r.child for r in busy], ends - time.monotonic())
            for one in busy:
                self._read(one)
                if not one.ready and self._over(one, min(one.child.began + self.first, self.deadline)):
                    self.running.remove(one)

    def _fits(self, case: Case, busy: list[Running]) -> bool:
        """Whether another first step has a place, and memory on the card; one always has."""
        taken = sum(r.case.gigabytes for r in busy)
        return not busy or (len(busy) < self.at_once and taken + case.gigabytes <= self.room)

    def _measure(self, one: Running) -> None:
        end = min(time.monotonic() + MEASURE_SECONDS, self.deadline)
        one.child.began = time.monotonic()
        one.child.go()
        while not self._over(one, end):
            wait_for([one.child], end - time.monotonic())
            self._read(one)

    def _read(self, one: Running) -> None:
        for found in one.child.lines():
            one.ready |= found.pop("ready", False)
            self.keep(one.case.key, found)

    def _over(self, one: Running, end: float) -> bool:
        """Whether its process has ended, or is ended here because its time is over; notes how."""
        if one.child.alive and time.monotonic() < end:
            return False
        seconds, late = one.child.seconds, one.child.alive
        status = one.child.end()
        if late:
            self.keep(
                one.case.key, {"over_s": round(seconds, 1), "during": "measuring" if one.ready else "the first step"}
            )
        elif status:
            self.keep(one.case.key, {"status": status, "last_words": one.child.last_words()})
        return True
