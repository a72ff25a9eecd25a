"""Executes notebooks from top to bottom, in place: python -m experiments.notebooks notebooks

With --to FOLDER they are written there instead, and stay as they are. Each notebook runs in a kernel of its own, in its own
folder, and draws its figures anew. It comes out the same to the
byte if its outputs do: no times, no widgets (dead without their kernel, numbered at random), the metadata as before.
A cell's pictures carry its alternative text, `"mystnb": {"image": {"alt": ...}}` in its metadata (where MyST-NB reads it),
in their own metadata, too, where nbconvert does; and no picture has more than 256 colours, which makes the files a third as large.
If a cell raises, the file stays as it was, the error is shown, and the rest is not run. Where there is no C++ compiler,
the optimizers' warning that they run uncompiled stays out of the file.
"""

from __future__ import annotations

import argparse
import base64
import copy
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fast.partition.extras import needs

with needs("notebooks", __name__):
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError
    from PIL import Image

TIMEOUT = 300  # seconds a cell; whole notebooks take about a minute
QUIET = {"PYTHONWARNINGS": "ignore:torch.compile failed:RuntimeWarning"}


def execute(path: Path, to: Path) -> None:
    """Runs the notebook at `path` and writes it as `to`; CellExecutionError if a cell raises.

    Now and then a kernel sits idle while its client waits for a reply: then the notebook runs once more, in a new kernel.
    """
    try:
        _run(path, to)
    except CellTimeoutError:
        print(f"{path}: no reply for {TIMEOUT} s; once more", file=sys.stderr)
        _run(path, to)


def _run(path: Path, to: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    metadata = copy.deepcopy(notebook.metadata)
    NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # a kernel warns at each start that its traffic can be read
    ).execute(env=os.environ | QUIET)
    notebook.metadata = metadata  # without the widgets' state
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
                if alt := alternative(cell):
                    output.metadata.setdefault("image/png", {})["alt"] = alt
    to.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, to)


def alternative(cell: nbformat.NotebookNode) -> str:
    """What a cell's metadata say of its picture to those who cannot see it; "" if nothing."""
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")


def smaller(png: str) -> str:
    """A picture, in base64, with a palette of its own: pixels move by a few of 256 steps, the file shrinks to about a third."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    written = io.BytesIO()
    few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.notebooks", description="Executes notebooks in place, in the order of their names."
    )
    parser.add_argument("paths", type=Path, nargs="+", help="notebooks, or folders of notebooks")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write the executed notebooks here, not in place")
    given = parser.parse_args(arguments)
    paths = [p for given_path in given.paths for p in _notebooks(given_path)]
    if not paths:
        parser.error(f"no notebooks in {', '.join(map(str, given.paths))}")
    for number, path in enumerate(paths, 1):
        print(f"  {number:2}/{len(paths)} {path.stem:<24}", end="", flush=True)
        start = time.perf_counter()
        try:
            execute(path, given.to / path.name if given.to else path)
        except CellExecutionError as error:
            print("failed")
            print(f"{path}:\n{error}", file=sys.stderr)
            return 1
        print(f"{time.perf_counter() - start:6.1f} s", flush=True)
    return 0


def _notebooks(path: Path) -> list[Path]:
    return sorted(path.glob("*.ipynb")) if path.is_dir() else [path]


if __name__ == "__main__":
    raise SystemExit(main())
