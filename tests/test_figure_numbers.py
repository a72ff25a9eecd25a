"""experiments.figure_numbers: a figure that is drawn from other numbers is seen, with its file and key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments import figure_numbers

KEPT = Path(__file__).resolve().parent.parent / "figures"
NAN = float("nan")


@pytest.mark.parametrize(
    ("new", "kept", "found"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, []),
        ({"a": [1.0, 2.019]}, {"a": [1.0, 2.0]}, []),
        ({"a": [1.0, 2.021]}, {"a": [1.0, 2.0]}, ["['a'][1]: 2.021 redrawn, 2.0 kept"]),
        ({"a": [0.0019, 2.0]}, {"a": [0.0, 2.0]}, []),  # both on the axis
        ({"a": [0.0021, 2.0]}, {"a": [0.0, 2.0]}, ["['a'][0]: 0.0021 redrawn, 0.0 kept"]),
        ({"a": 1e-9}, {"a": 2e-9}, ["['a']: 1e-09 redrawn, 2e-09 kept"]),
        ({"a": [1.0]}, {"a": [1.0, 2.0]}, ["['a']: 1 entries redrawn, 2 kept"]),
        ({"b": 1}, {"a": 1}, ["['a']: only kept", "['b']: only redrawn"]),
        ({"a": None}, {"a": 1.0}, ["['a']: None redrawn, 1.0 kept"]),
        ({"a": NAN}, {"a": 1.0}, ["['a']: nan redrawn, 1.0 kept"]),
        ({"a": "one"}, {"a": "two"}, ["['a']: 'one' redrawn, 'two' kept"]),
        ({"a": [[1.0], [3.0]]}, {"a": [[1.0], [2.0]]}, ["['a'][1][0]: 3.0 redrawn, 2.0 kept"]),
        ({"a": [NAN, None]}, {"a": [NAN, None]}, []),
        ({"a": True}, {"a": 1.0}, ["['a']: True redrawn, 1.0 kept"]),
    ],
)
def test_what_differs(new: Any, kept: Any, found: list[str]) -> None:
    assert list(figure_numbers.differences(new, kept)) == found


def test_the_command_names_file_and_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(KEPT / "data", tmp_path / "data")
    for name in figure_numbers.MADE_ELSEWHERE:
        (tmp_path / "data" / f"{name}.json").unlink()
    assert figure_numbers.main([str(tmp_path), str(KEPT)]) == 0
    assert capsys.readouterr() == ("", "")
    path = tmp_path / "data" / "06_angle.json"
    numbers = json.loads(path.read_text())
    path.write_text(json.dumps({**numbers, "0.95": 1.02 * numbers["0.95"]}))
    (tmp_path / "data" / "07_memory.json").rename(tmp_path / "data" / "07_new.json")
    assert figure_numbers.main([str(tmp_path), str(KEPT)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("06_angle.json['0.95']: ")
    assert said[1:3] == ["07_memory.json: not redrawn", "07_new.json: not kept"]


def test_only_what_exists_is_excepted() -> None:
    assert {*figure_numbers.ROUNDING, *figure_numbers.MADE_ELSEWHERE} <= {
        p.stem for p in (KEPT / "data").glob("*.json")
    }
