"""`python -m experiments.notebooks`: a kernel that gives no reply gets one more chance, and only that."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from nbclient.exceptions import CellTimeoutError
from PIL import Image

from experiments import notebooks


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_kernel_without_a_reply_gets_one_more_chance(
    silent: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[Path] = []

    def run(path: Path, to: Path) -> None:
        tried.append(path)
        if len(tried) <= silent:
            raise CellTimeoutError("no reply")

    monkeypatch.setattr(notebooks, "_run", run)
    if silent == 2:
        with pytest.raises(CellTimeoutError):
            notebooks.execute(Path("a.ipynb"), Path("b.ipynb"))
    else:
        notebooks.execute(Path("a.ipynb"), Path("b.ipynb"))
    assert len(tried) == min(silent + 1, 2)
    assert ("once more" in capsys.readouterr().err) == (silent > 0)


def test_a_missing_compiler_leaves_no_trace_in_a_notebook_and_another_warning_does(tmp_path: Path) -> None:
    cells = [
        f"import warnings\nwarnings.warn('{text}', RuntimeWarning)" for text in ("torch.compile failed (so)", "else")
    ]
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), path)
    notebooks.execute(path, path)
    first, second = nbformat.read(path, as_version=4).cells
    assert first.outputs == [] and [o.name for o in second.outputs] == ["stderr"]


def test_a_notebook_is_executed_in_its_folder_and_written_to_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "a.ipynb"
    cell = nbformat.v4.new_code_cell("from pathlib import Path\nprint(Path.cwd().name)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    before = path.read_bytes()
    assert notebooks.main([str(path.parent), "--to", str(tmp_path / "b")]) == 0
    assert path.read_bytes() == before
    assert nbformat.read(tmp_path / "b" / "a.ipynb", as_version=4).cells[0].outputs[0].text == "a\n"


PICTURE = "from matplotlib import pyplot as plt\n%matplotlib inline\n_ = plt.plot([0, 1])"


def test_a_pictures_alternative_text_goes_from_the_cell_to_the_picture(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell(PICTURE, metadata={"mystnb": {"image": {"alt": "a rising line"}}})
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell("_ = plt.plot([1, 0])")]), path)
    notebooks.execute(path, path)
    first, second = (c.outputs[0].metadata for c in nbformat.read(path, as_version=4).cells)
    assert first["image/png"]["alt"] == "a rising line" and "alt" not in second.get("image/png", {})


def test_a_picture_loses_bytes_and_next_to_nothing_of_its_colours() -> None:
    written = io.BytesIO()
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # whatever style another test has chosen
        fig = Figure(figsize=(4, 3))
        ax = fig.subplots()
        for shift in range(20):
            ax.plot(np.sin(np.linspace(0, 9, 200) + shift / 4))
        fig.savefig(written, format="png")
    before = base64.b64encode(written.getvalue()).decode()
    after = notebooks.smaller(before)
    old, new = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(x))).convert("RGB")).astype(int) for x in (before, after)
    )
    assert len(after) < 0.6 * len(before) and (new[0, 0] == 255).all() and np.abs(new - old).max() < 64
    assert np.abs(new - old).mean() < 4
