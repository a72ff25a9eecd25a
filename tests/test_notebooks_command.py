"""`python -m experiments.notebooks`: a kernel that gives no reply gets one more chance, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbclient.exceptions import CellTimeoutError

from experiments import notebooks


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_kernel_without_a_reply_gets_one_more_chance(
    silent: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[Path] = []

    def run(path: Path) -> None:
        tried.append(path)
        if len(tried) <= silent:
            raise CellTimeoutError("no reply")

    monkeypatch.setattr(notebooks, "_run", run)
    if silent == 2:
        with pytest.raises(CellTimeoutError):
            notebooks.execute(Path("a.ipynb"))
    else:
        notebooks.execute(Path("a.ipynb"))
    assert len(tried) == min(silent + 1, 2)
    assert ("once more" in capsys.readouterr().err) == (silent > 0)
