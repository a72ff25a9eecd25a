"""The numbers in their file, written anew as a whole after each part: what a run that is cut short had found is there.

`dry`, `machine`, `settings`; `planned`, the keys of all rows that were to be measured; `numerics`; `rows`, one for each case
that was begun; `first_steps`, by optimizer. What is missing was not run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.gpu.child import ROOT

KEPT = ROOT / "figures" / "data" / "gpu.json"
SAME = ("card", "torch", "triton", "cuda", "python")  # of the machine, for numbers that may stand side by side


def source() -> dict[str, str | None]:
    """The commit, where there is one to be asked for, and a hash of the optimizers' code, which tells what ran without it too."""
    try:
        command = ["git", "-c", f"safe.directory={ROOT}", "rev-parse", "HEAD"]
        commit = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    code = hashlib.sha256()
    for path in sorted((ROOT / "fast").rglob("*.py")):
        code.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return {"commit": commit, "code": code.hexdigest()[:16]}


class Record:
    """The results, and the file that always holds them."""

    def __init__(
        self, path: Path, machine: Mapping[str, Any], settings: Mapping[str, Any], dry: bool, planned: list[str]
    ) -> None:
        self.path = path
        self.results: dict[str, Any] = {"numerics": {}, "rows": {}, "first_steps": {}}
        head = {"dry": dry, "machine": dict(machine), "settings": {**settings, **source()}, "planned": planned}
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if differ := [what for what in differences(found, head) if what]:
                raise ValueError(
                    f"{path} holds numbers of another run ({', '.join(differ)}): move it away, or give another --out"
                )
            self.results |= found
            head["planned"] = list(dict.fromkeys([*found["planned"], *planned]))
        self.results = {**head, **{k: v for k, v in self.results.items() if k not in head}}
        self.write()

    def write(self) -> None:
        """In one piece: a reader finds the old file or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.path)

    def add(self, part: str, key: str, found: Mapping[str, Any]) -> None:
        """What is new of a row; what it had stays."""
        self.results[part].setdefault(key, {}).update(found)
        self.write()

    def has(self, part: str, key: str, number: str) -> bool:
        """Whether a run before has measured this. One that failed is begun anew."""
        row = self.results[part].get(key, {})
        if number in row:
            return True
        self.results[part].pop(key, None)
        return False


def differences(found: Mapping[str, Any], head: Mapping[str, Any]) -> list[str]:
    """In what the run of a file is another one."""
    ours, theirs = head["machine"], found["machine"]
    named = [f"{name} {theirs.get(name)}, here {ours.get(name)}" for name in SAME if theirs.get(name) != ours.get(name)]
    if found["settings"].get("code") != head["settings"]["code"]:
        named.append("other code in fast/")
    return [*(["a dry one, or this one is"] if found["dry"] != head["dry"] else []), *named]


def keep(paths: Sequence[Path], target: Path = KEPT) -> Path:
    """Copies a run's numbers to where notebook 09 looks for them.

    Of several runs, on one machine and by the same versions, the last one counts; where it has not measured a row, the one before
    it does, and the row says by which code. ValueError for a dry run's, another machine's, or where nothing was measured.
    """
    kept: dict[str, Any] = {}
    for path in reversed(paths):
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["dry"] or not results["machine"].get("card"):
            raise ValueError(
                f"{path} was made dry, on a machine without a GPU: its numbers say nothing and are not kept"
            )
        measured = {key: row for key, row in results["rows"].items() if "ms" in row}
        if not measured:
            raise ValueError(f"{path} has no measured row: nothing to keep")
        if not kept:
            kept = results
            continue
        if differ := [n for n in SAME if kept["machine"].get(n) != results["machine"].get(n)]:
            raise ValueError(f"{path} is of another machine than {paths[-1]} ({', '.join(differ)}): keep one of them")
        for key, row in measured.items():
            if "ms" not in kept["rows"].get(key, {}):
                kept["rows"][key] = {**row, "code": results["settings"]["code"]}
        kept["planned"] = list(dict.fromkeys([*kept["planned"], *results["planned"]]))
    target.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return target
