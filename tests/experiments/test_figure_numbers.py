"""experiments.figures.numbers: a figure that is drawn from other numbers is seen, in one line, and another processor's is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments.figures import numbers as figure_numbers
from experiments.figures import save

KEPT = Path(__file__).resolve().parents[2] / "figures"
NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "new", "kept", "found"),
    [
        ("formula", {"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, []),
        ("formula", {"a": [1.0, 2.0001]}, {"a": [1.0, 2.0]}, []),
        ("formula", {"a": [1.0, 2.0003]}, {"a": [1.0, 2.0]}, ["['a'][1]"]),
        ("formula", {"a": [[1e-9, -1.0]]}, {"a": [[-3e-9, -1.0]]}, []),  # both 0, beside a curve of size 1
        ("formula", {"a": [[1e-9, 2e-9], [1, 3]]}, {"a": [[3e-9, 1e-9], [1, 3]]}, []),  # the list, not the pair
        ("formula", {"a": [[1.0, 0.5]]}, {"a": [[-1.0, 0.5]]}, ["['a'][0][0]"]),  # a lost sign
        ("formula", {"a": [1e-9], "b": [1.0]}, {"a": [2e-9], "b": [1.0]}, ["['a'][0]"]),  # another curve is no excuse
        ("formula", {"a": 1e-9}, {"a": 2e-9}, ["['a']"]),
        ("formula", {"a": [1.0]}, {"a": [1.0, 2.0]}, ["['a']"]),
        ("formula", {"b": 1}, {"a": 1}, ["['a']", "['b']"]),
        ("formula", {"a": None}, {"a": 1.0}, ["['a']"]),
        ("formula", {"a": NAN}, {"a": 1.0}, ["['a']"]),
        ("formula", {"a": float("inf")}, {"a": 1.0}, ["['a']"]),
        ("formula", {"a": "one"}, {"a": "two"}, ["['a']"]),
        ("formula", {"a": [NAN, None]}, {"a": [NAN, None]}, []),
        ("formula", {"a": True}, {"a": 1.0}, ["['a']"]),
        ("steps", [7, 1000, 0], [8, 1009, 0], []),
        ("steps", [7, 1000], [9, 1012], ["[0]", "[1]"]),
        ("steps", [1], [None], ["[0]"]),
        ("digits", [6.9, 15.0], [6.1, 16.2], []),
        ("digits", [6.9, 15.0], [4.0, 16.2], ["[0]"]),
        ("seeds", [[1.0, 2.0], [5.0, 6.0]], [[1.9, 3.0], [5.5, 5.6]], []),
        ("seeds", [[1.0, 2.0], [5.0, 6.0]], [[2.1, 3.0], [1.0, 4.9]], ["[0]", "[1]"]),
        ("seeds", [3.0, 3.0], [3.0001, 3.0001], []),  # all seeds alike: as a formula
        ("seeds", [3.0, NAN], [3.0, 3.0], ["[1]"]),
        ("machine", [1.0], {"a": 2}, []),
    ],
)
def test_what_differs(kind: str, new: Any, kept: Any, found: list[str]) -> None:
    assert [d.key for d in figure_numbers.differences(new, kept, kind)] == found


def test_a_kind_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="'guess'"):
        list(figure_numbers.differences(1, 1, "guess"))


def test_the_command_prints_a_line_for_each_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(KEPT, tmp_path, dirs_exist_ok=True)
    for name in ("10_training_runs", "language_model"):  # no notebook draws these
        (tmp_path / f"{name}.svg").unlink()
    assert figure_numbers.main([str(tmp_path), str(KEPT)]) == 0
    assert capsys.readouterr() == ("", "")
    path = tmp_path / "data" / "03_sliding.json"
    numbers = json.loads(path.read_text())
    assert numbers["kind"] == "formula"
    numbers["g"] = [[-a, b] for a, b in numbers["g"]]
    path.write_text(json.dumps(numbers))
    path = tmp_path / "data" / "06_angle.json"
    path.write_text(path.read_text().replace('"formula"', '"machine"'))
    (tmp_path / "07_memory.svg").rename(tmp_path / "07_new.svg")
    assert figure_numbers.main([str(tmp_path), str(KEPT)]) == 1
    said = capsys.readouterr().err.splitlines()
    size = max(abs(x) for pair in numbers["g"] for x in pair)
    assert said[0].startswith(f"03_sliding.json['g'][0][0]: {numbers['g'][0][0]} redrawn, {-numbers['g'][0][0]} kept, ")
    assert f"{-2 * numbers['g'][0][0]:.2g} apart where {1e-4 * size:.2g} is allowed; and " in said[0]
    assert said[1:4] == [
        "06_angle.json['kind']: machine redrawn, formula kept",
        "07_memory.json: not redrawn",
        "07_new.json: not kept",
    ]
    assert len(said) == 5 and "KEEP=1" in said[4]


def test_a_folder_without_figures_is_not_taken_for_figures_without_differences(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        figure_numbers.main([str(tmp_path), str(KEPT)])


def test_every_figure_says_of_what_kind_its_numbers_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in KEPT.glob("*.svg"):
        data = json.loads((KEPT / "data" / f"{path.stem}.json").read_text())
        kinds = data["kind"] if isinstance(data["kind"], dict) else {"": data["kind"]}
        assert set(kinds.values()) <= set(figure_numbers.KINDS), path.stem
    monkeypatch.setenv("ADAMLAB_FIGURES", str(tmp_path))
    save(Figure(), "a", {"x": [1.0], "n": 2}, kind={"x": "formula", "n": "steps"}, made_by="a command")
    found = json.loads((tmp_path / "data" / "a.json").read_text())
    assert found == {"kind": {"x": "formula", "n": "steps"}, "made by": "a command", "x": [1.0], "n": 2}
    for kind in ("guess", {"x": "formula"}, {"x": "formula", "n": "steps", "m": "steps"}):
        with pytest.raises(ValueError, match="kind must give one of formula"):
            save(Figure(), "b", {"x": [1.0], "n": 2}, kind=kind)
    with pytest.raises(ValueError, match="none of them named 'kind'"):
        save(Figure(), "b", {"kind": 1}, kind="formula")
    assert not (tmp_path / "b.svg").exists()
