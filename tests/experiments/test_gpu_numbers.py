"""What `python -m experiments.gpu` counts, keeps, prints and draws, of made-up samples: its bytes, goals, file, table and picture.

Times on a card: not run. What a row holds is made here by the worker's own function.
"""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
import torch
from matplotlib import pyplot as plt

from experiments.bench import BASE, CONTESTANTS
from experiments.gpu.cases import (
    DTYPES,
    FOREACH,
    OURS,
    PLAN,
    SETS,
    Case,
    bytes_a_parameter,
    goals,
    make,
    numerics_goal,
    plan,
)
from experiments.gpu.child import ROOT
from experiments.gpu.clock import Clock, Sample, counted
from experiments.gpu.picture import draw
from experiments.gpu.record import KEPT, Record, keep
from experiments.gpu.table import lines
from experiments.gpu.worker import summary
from experiments.gpu_codegen import LEAST

CARD = {"date": "2026-01-01", "card": "Made Up 1", "card_gib": 80.0, "torch": "0", "python": "3"}  # fmt: skip


def row(case: Case, ms: float = 2.0) -> dict:
    """As the worker makes it, of samples that took `ms`, between steps of fused AdamW that took 2 ms."""
    clock = Clock(dry=False) if torch.cuda.is_available() else Clock(dry=True)
    base, own = Sample(2.0, 0.5, 1.0), Sample(ms, 0.5, 1.0)
    return summary(case, clock, [(base, own, base)] * 5, [(own, base)] * 5, 3)


def made_up(path: Path) -> dict:
    keys = [case.key for batch in plan(list(SETS), [*OURS, BASE, FOREACH], list(DTYPES), ["step"]) for case in batch]
    record = Record(path, CARD, {}, False, keys)
    for key in keys[:20]:
        name, dtype, mode, label = key.split("/")
        record.add(
            "rows", key, {"parameters": 7, "tensors": 3, "first_step_s": 9.5, **row(Case(label, name, dtype, mode))}
        )
    record.add("rows", keys[20], {"over_s": 60.0, "during": "the first step"})
    record.add("first_steps", "Grams", {"cold": 12.0, "warm": "over 80 s, or ended: "})
    return record.results


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("label", [*OURS, BASE])
def test_the_bytes_of_a_step_are_those_of_its_tensors(label: str, dtype: torch.dtype) -> None:
    params = [torch.nn.Parameter(torch.randn(64, 32).to(dtype))]
    params[0].grad = torch.randn(64, 32).to(dtype)
    options = {} if label == BASE else {"compile": False}
    optimizer = make(label, "small-2000", [("weight", (64, 32))], list(params), **options)
    optimizer.step()
    whole = [t for t in optimizer.state[params[0]].values() if isinstance(t, torch.Tensor) and t.shape == (64, 32)]
    state = sum(t.element_size() for t in whole)
    assert bytes_a_parameter(label, dtype) == 3 * dtype.itemsize + 2 * state
    if label != BASE:
        assert bytes_a_parameter(label, dtype, built=True) == LEAST[dtype][label]


def test_the_benchmark_of_the_cpu_counts_the_same_bytes() -> None:
    for label in (*OURS, BASE, FOREACH, "Grams released"):
        # Adams reads the weights again, which a CPU finds in its cache
        built = bytes_a_parameter(label, torch.float32, built=label != "Adams")
        assert built == CONTESTANTS[label].traffic


def test_every_set_is_what_it_is_called() -> None:
    sizes = {name: (Case("Grams", name).parameters, len(entry.tensors())) for name, entry in SETS.items()}
    assert sizes["half-billion"] == (505_956_352, 38)
    assert sizes["small-2000"] == (2_000_000, 2000)
    assert sizes["llama-60m"] == (58_073_600, 75)
    assert sizes["llama-8b"][1] == 291
    assert sizes["experts"][1] == 16 * 128 * 3
    for name, entry in SETS.items():  # AdamMini finds the blocks of each, by its names
        for tensors in (entry.tensors(), entry.small()):
            params = [torch.nn.Parameter(torch.empty(shape, device="meta")) for _, shape in tensors]
            make("AdamMini", name, tensors, list(params), compile=False)


def test_the_plan_names_known_sets_and_begins_with_the_goals() -> None:
    assert {name for name, *_ in PLAN} == set(SETS)
    first, second, *_ = plan(list(SETS), [*OURS, BASE], ["float32"], ["step"])
    assert [case.set for case in (first[0], second[0])] == ["half-billion", "experts"]
    assert plan(["experts"], ["Lion"], ["float32"], ["step"]) == []


def test_kernels_copies_and_launches_are_told_apart() -> None:
    events = [
        ("Optimizer.step#Grams.step", "CPU", True),
        ("Optimizer.step#Grams.step", "CUDA", True),  # spans its kernels on the device
        ("Optimizer.step#Grams.step", "CUDA", False),
        ("triton_for_fused_0", "CUDA", False),
        ("void at::native::vectorized_elementwise_kernel<4>", "CUDA", False),
        ("Memcpy DtoD (Device -> Device)", "CUDA", False),
        ("Memset (Device)", "CUDA", False),
        *[
            (name, "CPU", False)
            for name in ("cuLaunchKernelEx", "cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC")
        ],
        *[
            (name, "CPU", False)
            for name in ("aten::add", "cudaMemcpyAsync", "cudaDeviceSynchronize", "cudaGraphLaunch")
        ],
    ]
    assert counted(events) == {"kernels": 2, "copies": 1, "fills": 1, "launches": 4}


def test_goals_are_judged_where_they_hold() -> None:
    case = Case("Lion")
    assert [reached for _, reached in goals(case.key, {"ms": 1.0, "percent_of_copy": 91.0, "ratio": 0.8})] == [
        True,
        False,
    ]
    small = Case("Adams", "small-2000").key
    assert goals(small, {"ms": 1.0, "ratio": 0.9, "alone_ratio": 1.1}) == [("ratios <= 1", False)]
    assert goals(Case("Lion", dtype="bfloat16").key, {"ms": 1.0}) == goals(case.key, {"over_s": 3.0}) == []
    assert not numerics_goal({"passed": 0, "failed": 0, "without_a_result": []})


def test_the_table_says_what_was_found_and_what_was_not_run(tmp_path: Path) -> None:
    results = made_up(tmp_path / "gpu.json")
    text = "\n".join(lines(json.loads((tmp_path / "gpu.json").read_text())))
    assert "Made Up 1" in text and "numerics: not run" in text and "over 60 s (the first step), and killed" in text
    assert "goal ratio <= 1.02: reached" in text and "goal ratio <= 0.73: MISSED" in text
    assert sum("not run" in line for line in text.splitlines()) == 1 + len(results["planned"]) - 21
    assert "cold 12.0 s, warm over 80 s" in text


def test_notebook_09_draws_a_cards_numbers_and_says_not_run_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.figures import save

    monkeypatch.setenv("ADAMLAB_FIGURES", str(tmp_path / "figures"))
    notebook = nbformat.read(ROOT / "notebooks" / "09_speed_and_memory.ipynb", as_version=4)
    (cell,) = [c.source for c in notebook.cells if c.cell_type == "code" and "09_gpu" in c.source]
    names = {"DATA": tmp_path, "json": json, "save": save}
    exec(cell, dict(names))
    assert capsys.readouterr().out.startswith("not run")
    results = made_up(tmp_path / "gpu.json")
    exec(cell, dict(names))
    plt.close("all")
    assert "Made Up 1" in capsys.readouterr().out
    drawn = json.loads((tmp_path / "figures" / "data" / "09_gpu.json").read_text())
    assert drawn["share"].keys() == {*OURS, BASE} and drawn["ratio"]["half-billion"]["Grams"] == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="dry"):
        draw({**results, "dry": True})


def test_no_invented_numbers_are_kept(tmp_path: Path) -> None:
    if KEPT.exists():
        kept = json.loads(KEPT.read_text())
        assert not kept["dry"] and kept["machine"]["driver"] and kept["machine"]["card"] and kept["settings"]["code"]
    target = tmp_path / "kept.json"
    results = made_up(tmp_path / "gpu.json")
    assert keep([tmp_path / "gpu.json"], target) == target and json.loads(target.read_text()) == results
    for name, change in {"dry": {"dry": True}, "nothing": {"rows": {}}}.items():
        (tmp_path / "other.json").write_text(json.dumps({**results, **change}))
        with pytest.raises(ValueError, match=name):
            keep([tmp_path / "other.json"], target)
    assert json.loads(target.read_text()) == results


def test_of_two_runs_the_last_counts_and_the_first_fills_up(tmp_path: Path) -> None:
    results = made_up(tmp_path / "first.json")
    (one, *_), (other, *_) = (
        [k for k, r in results["rows"].items() if ("ms" in r) is there] for there in (True, False)
    )
    later = {**results, "settings": {"code": "later"}, "rows": {**results["rows"]}}
    later["rows"][other], later["rows"][one] = {"ms": 7.0}, {"over_s": 1.0}
    (tmp_path / "later.json").write_text(json.dumps(later))
    kept = json.loads(keep([tmp_path / "first.json", tmp_path / "later.json"], tmp_path / "kept.json").read_text())
    assert kept["settings"]["code"] == "later" and kept["rows"][other] == {"ms": 7.0}
    assert kept["rows"][one] == {**results["rows"][one], "code": results["settings"]["code"]}
    (tmp_path / "later.json").write_text(json.dumps({**later, "machine": {**CARD, "card": "Made Up 2"}}))
    with pytest.raises(ValueError, match=r"another machine .* \(card\)"):
        keep([tmp_path / "first.json", tmp_path / "later.json"], tmp_path / "kept.json")


def test_a_file_of_another_machine_is_not_gone_on_with(tmp_path: Path) -> None:
    made_up(tmp_path / "gpu.json")
    before = (tmp_path / "gpu.json").read_text()
    for machine, dry, said in (({**CARD, "card": "Other"}, False, "card Made Up 1, here Other"), (CARD, True, "dry")):
        with pytest.raises(ValueError, match=said):
            Record(tmp_path / "gpu.json", machine, {}, dry, [])
    assert (tmp_path / "gpu.json").read_text() == before
