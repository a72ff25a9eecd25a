"""experiments.figures.processors: the switches reach the libraries, and what differs or cannot be imitated is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest

from experiments.figures import processors

ROOT = Path(__file__).resolve().parents[2]


def setting(name: str) -> processors.Setting:
    return next(s for s in processors.settings() if s.name == name)


def test_every_switch_is_among_the_settings_and_none_is_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*processors.SWITCHES, "TORCHINDUCTOR_CPP_MARCH"):
        monkeypatch.setenv(name, "the caller's")
    seen: set[str] = set()
    caches = set()
    for number, s in enumerate(processors.settings()):
        env = processors.environment(s, tmp_path / str(number))
        assert "the caller's" not in env.values()
        assert env["OMP_NUM_THREADS"] == env["OPENBLAS_NUM_THREADS"] == str(s.threads)
        seen |= set(s.env)
        caches.add(env["TORCHINDUCTOR_CACHE_DIR"])
    assert seen == processors.SWITCHES and len(caches) == len(processors.settings())
    assert {s.simdlen for s in processors.settings()} == {None, 0, 256, 512}


def test_the_libraries_obey_and_a_name_that_they_do_not_know_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('no torch')")
    old = setting("an old one")
    env = processors.environment(old, tmp_path)
    assert processors.obeyed(old, env) == ("", "")
    why, _ = processors.obeyed(setting("torch avx512"), env)
    assert why == "torch says default, not avx512"
    why, _ = processors.obeyed(old, env | {"NPY_DISABLE_CPU_FEATURES": "NO_SUCH_FEATURE"})
    assert why.startswith("numpy says [")
    with pytest.raises(RuntimeError, match="do not load"):
        processors.obeyed(old, env | {"PYTHONPATH": str(broken)})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one notebook, which prints torch's vectors and draws a number that depends on Inductor's."""
    for name in ("experiments", "pyproject.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    code = (
        "import torch\nfrom matplotlib.figure import Figure\nfrom torch._inductor.cpu_vec_isa import pick_vec_isa\n"
        "from experiments.figures import save\nisa = pick_vec_isa()\n"
        "_ = save(Figure(), '00_a', {'bits': isa.bit_width() if isa else 0}, kind='formula')\n"
        "print(torch.backends.cpu.get_cpu_capability())"
    )
    cell = nbformat.v4.new_code_cell(
        code, execution_count=1, outputs=[nbformat.v4.new_output("stream", name="stdout", text="DEFAULT\n")]
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "00_a.ipynb")
    (tmp_path / "figures" / "data").mkdir(parents=True)
    (tmp_path / "figures" / "00_a.svg").touch()
    kept = {"kind": "formula", "bits": 0}
    (tmp_path / "figures" / "data" / "00_a.json").write_text(json.dumps(kept))
    monkeypatch.setattr(processors, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_the_table_says_what_passed_and_what_differs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--notebooks", str(project / "notebooks" / "00_a.ipynb"), "--folder", str(project / "build"), "--only"]
    before = sorted(os.listdir(project))
    assert processors.main([*command, "an old one"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[1].split()[:5] == ["an", "old", "one", "1/1", "0"]
    assert processors.main([*command, "torch avx2"]) == 1
    said = capsys.readouterr().out
    if "not here" not in said:
        assert said.splitlines()[1].split()[:4] == ["torch", "avx2", "0/1", "1"]
        assert (
            "    00_a: Cell 0, see " in said
            and "report.xml" in said
            and "    00_a.json: ['bits']: 256 redrawn, 0 kept" in said
        )
    processors.main([*command, "Inductor 256"])
    said = capsys.readouterr().out
    assert "not here: inductor says" in said or "    00_a.json: ['bits']: 256 redrawn, 0 kept" in said
    assert sorted(os.listdir(project)) == ["build", *before]


def test_an_unknown_setting_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        processors.main(["--only", "Pentium"])
    assert "Pentium; known are as it is, torch default" in capsys.readouterr().err
