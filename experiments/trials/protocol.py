"""experiments/protocol.toml, as what runs: which configurations, from which rates, with which seeds."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.trials import optimizers
from experiments.trials.loop import Config

PATH = Path(__file__).resolve().parents[1] / "protocol.toml"


@dataclass(frozen=True)
class Job:
    """One run: a task with its options, and the loop's configuration."""

    task: str
    config: Config
    size: Mapping[str, Any] = field(default_factory=dict)

    def at(self, **changes: Any) -> Job:
        return replace(self, config=replace(self.config, **changes))


@dataclass(frozen=True)
class Protocol:
    """`text` is the file; the rest reads it. ValueError where a trial names what is not defined."""

    text: str

    @classmethod
    def read(cls, path: Path = PATH) -> Protocol:
        return cls(path.read_text(encoding="utf-8"))

    def __post_init__(self) -> None:
        for name, trial in self.trials.items():
            unknown = set(trial["tasks"]) - set(self.tasks)
            if unknown:
                raise ValueError(
                    f"trial {name!r}: unknown tasks {sorted(unknown)}; expected some of {sorted(self.tasks)}"
                )
            for optimizer in trial["optimizers"]:
                optimizers.entry(optimizer)
                if "rate" not in trial and "rates" not in trial:
                    self.start(name, optimizer)

    @property
    def _data(self) -> dict[str, Any]:
        return tomllib.loads(self.text)

    @property
    def stamp(self) -> dict[str, Any]:
        """What each result carries: version and SHA-256 of the file."""
        return {"version": self._data["version"], "sha256": hashlib.sha256(self.text.encode()).hexdigest()}

    @property
    def stamps(self) -> list[dict[str, Any]]:
        """Of this version and of those before it, which results may carry."""
        before = [{"version": c["before"], "sha256": c["sha256"]} for c in self._data["changes"]]
        return [*before, self.stamp]

    @property
    def rules(self) -> dict[str, Any]:
        return self._data["rules"]

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        return self._data["tasks"]

    @property
    def trials(self) -> dict[str, dict[str, Any]]:
        return self._data["trials"]

    def start(self, trial: str, optimizer: str) -> float:
        """The middle rate of the first grid. ValueError where there is none."""
        facts = self._data["optimizers"].get(optimizer, {})
        start = self.trials[trial].get("start") or facts.get("start")
        if start is None:
            raise ValueError(
                f"trial {trial!r}: no rate to tune {optimizer} from; give [optimizers] or the trial a `start`"
            )
        return start

    def own_decay(self, optimizer: str) -> float:
        return self._data["optimizers"][optimizer]["own"]

    def baseline(self, trial: str) -> str:
        return self.trials[trial].get("baseline", self.rules["baseline"])

    def chance(self, task: str, trial: str) -> float:
        """The loss of guessing, which a trial with another vocabulary has another one of."""
        return self.trials[trial].get("chance", self.tasks[task]["chance"])

    def tuning_seeds(self, task: str, trial: str) -> list[int]:
        return self.rules["tuning_seeds"][: self.trials[trial].get("tuning", self.tasks[task]["tuning"])]

    def fresh_seeds(self, count: int, trial: str | None = None) -> Iterator[int]:
        first = self.trials[trial].get("fresh_from") if trial else None
        first = first or self.rules["fresh_from"]
        yield from range(first, first + count)

    def job(self, task: str, optimizer: str, **changes: Any) -> Job:
        """The task's run with this optimizer at the rules' schedule and common weight decay; `changes`: of Config, or `size`."""
        facts = self.tasks[task]
        size = {**facts.get("options", {}), **changes.pop("size", {})}
        steps = changes.get("steps", facts["steps"])
        config = {
            "optimizer": optimizer,
            "steps": steps,
            "warmup": round(self.rules["warmup"] * steps),
            "batch": facts["batch"],
            "schedule": self.rules["schedule"],
            "floor": self.rules["floor"],
            "weight_decay": self._data["optimizers"].get(optimizer, {}).get("common", self.rules["weight_decay"]),
            "eval_every": steps,
        }
        return Job(task, Config(**{**config, **changes}), size)
