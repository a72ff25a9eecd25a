"""Bounds on the GPU code of every optimizer, made without a GPU. They prove fusion and traffic, and say nothing about speed."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from optimizers import IDS

from experiments import gpu_codegen
from experiments.gpu_codegen import CONTROL, LEAST, OPTIMIZERS, SETS, count
from experiments.gpu_codegen.machine_code import Machine, used

ROOT = Path(__file__).resolve().parents[2]
triton = pytest.mark.skipif(gpu_codegen.missing() is not None, reason=f"no kernels: {gpu_codegen.missing()}")
# Launches at most: on ten odd tensors, on the 75 of Llama-60M, on the 291 of Llama-8B, on 2,000 vectors, on 6,144 experts
LAUNCHES = {
    "Grams": (1, 1, 1, 1, 1),
    "Lion": (1, 1, 1, 1, 1),
    "CautiousAdamW": (7, 3, 3, 1, 1),
    "CautiousLion": (7, 3, 3, 1, 1),
    "AdamMini": (7, 5, 5, 1, 1),
    "Adams": (14, 9, 9, 1, 4),
}
NAMES = ("mixed", "llama-60m", "llama-8b", "small-2000", "experts")
# Bytes a parameter over the least of any way. AdamMini reads rows that no program can keep twice, a head and 14,336 entries among
# them, Adams too; the vectors of its power iteration are small change, but for an expert's small matrices.
OVER = {"AdamMini": (0.02, 0.31, 1.28, 0.01, 0.1), "Adams": (0.06, 0.07, 0.97, 0, 0.4)}
# operations on the GPU beside the kernels: with `capturable` the numbers of a step are computed there
EAGER = {"Grams": 19, "Lion": 8, "CautiousAdamW": 19, "CautiousLion": 8, "AdamMini": 37, "Adams": 40}


@functools.cache
def row(name: str, of: str, dtype: torch.dtype = torch.float32, capturable: bool = False) -> dict:
    tensors, heads = SETS[of]
    return count(name, tensors(), dtype, heads=heads, capturable=capturable)


def within(found: dict, of: str) -> bool:
    name, own = found["optimizer"], NAMES.index(of)
    over = OVER.get(name, (0.001,) * 5)[own]
    eager = EAGER[name] if found["capturable"] else 0
    total = found["read"] + found["written"]
    return (
        total <= LEAST[getattr(torch, found["dtype"])][name] + over
        and found["launches"] <= LAUNCHES[name][own]
        and found["scratch"] < 0.25
        and found["eager"] <= eager
    )


@triton
@pytest.mark.parametrize("of", NAMES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bytes_and_launches_are_within_their_bounds(name, of):
    assert within(row(name, of), of)


@triton
def test_a_step_in_two_kernels_is_not():
    control = row(CONTROL, "mixed")
    assert control["launches"] == 2 and control["read"] + control["written"] == pytest.approx(40)
    assert not within({**control, "optimizer": "Grams"}, "mixed")


@triton
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_capturable_steps_are_within_their_bounds(name, dtype):
    assert within(row(name, "llama-60m", dtype, capturable=True), "llama-60m")


@triton
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kernels_do_not_grow_in_number_with_the_tensors(name):
    """Llama-8B's 291 tensors have rows of three lengths and heads: some kinds more than 20 of its tensors, not 14 times as many."""
    tensors, heads = SETS["llama-8b"]
    few = count(name, tensors()[:20], heads=heads)["kernels"]
    assert few <= row(name, "llama-8b")["kernels"] <= few + 2


@triton
@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_steps_time_does_not_grow_with_the_tensors(name, monkeypatch):
    """Planned and compiled, 291 tensors take at most half as long again as 20, the shorter of two each; and 20 s."""
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    tensors, heads = SETS["llama-8b"]
    few, all_ = (
        min(count(name, own, heads=heads, machine=90)["seconds"] for _ in range(2))
        for own in (tensors()[:20], tensors())
    )
    assert all_ < 1.5 * few + 0.5 and all_ < 20


# registers a thread at most, on ten tensors of which two are odd: 128 let a multiprocessor hold 512 threads
@triton
@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_registers_are_spilled(name, arch):
    made = count(name, SETS["mixed"][0](), machine=arch)
    assert not made["spilled"] and made["registers"] <= 128


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "common")]), **environment},
    )


def interpreted(*arguments: str) -> dict[str, Any]:
    done = run("tests/kernels/gpu_interpreted.py", *arguments, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@triton
@pytest.mark.parametrize("arguments", [(), ("--set", "many"), ("--set", "batch"), ("--capturable",)])
def test_the_kernels_compute_the_reference(arguments):
    found = interpreted(*arguments)
    assert list(found) == IDS
    # three steps in float32: measured 2.2e-7 at most
    assert not {name: e for name, e in found.items() if max(e.values()) > 5e-7}


@triton
@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--set", "thousands"), ("--set", "experts")])
def test_thousands_of_tensors_compute_the_reference(arguments):
    found = interpreted(*arguments, "Grams", "AdamMini")
    assert not {name: e for name, e in found.items() if max(e.values()) > 5e-7}


@triton
def test_the_kernels_of_half_parameters_compute_the_reference():
    found = interpreted("--dtype", "bfloat16")
    # The interpreter cuts float32 off to bfloat16, so Adams, which looks in each such step, takes its own write for another's,
    # and where two sides round to either side of a number, the parameter is one unit off. Lion's steps are all of one length;
    # of cautious weight decay a parameter was seen two units off, after some steps of which each cuts something off.
    del found["Adams"]
    most = {"Lion": 2**-4, "CautiousWeightDecay": 2**-5}
    for name, errors in found.items():
        assert errors.pop("param") < most.get(name, 2**-7), name
        assert max(errors.values()) < 5e-7, name


@triton
def test_whatever_happens_between_two_steps_the_kernels_do_what_single_operations_do():
    found = interpreted("--changes")
    assert list(found) == IDS
    # some thirty steps in float32: measured 9.6e-7 at most
    assert not {(name, what) for name, e in found.items() for what, error in e.items() if error > 4e-6}


@triton
def test_other_layouts_dtypes_and_partitions_compute_what_single_operations_do():
    found = interpreted("--kinds")
    assert len(found["kinds"]) >= 30
    assert max(found["alike"]) < 350  # of 384: the matrices of a batch have random bits of their own
    # in float64 1e-15, in float32 2.1e-7 at most; where exp_avg is bfloat16, what the interpreter cuts off of it
    assert not {
        what: error
        for what, error in found["kinds"].items()
        if error > (1e-12 if "float64" in what else 0.05 if "bfloat16" in what else 1e-6)
    }


@triton
def test_the_interpreter_refuses_the_functions_that_it_has_not():
    """There Triton's own stubs would return None, and a wrong number come of it."""
    done = run(
        "-c",
        "import sys; sys.path[:0] = ['tests/kernels', 'tests/common']\nfrom gpu_interpreted import as_on_a_gpu\n"
        "from triton.language.extra import libdevice\nwith as_on_a_gpu(): libdevice.atan(1)",
        TRITON_INTERPRET="1",
    )
    assert "NotImplementedError: libdevice.atan has no NumPy function" in done.stderr


def test_without_triton_the_command_says_what_to_install():
    code = "import sys; sys.modules['triton'] = None; from experiments.gpu_codegen import main; sys.exit(main([]))"
    done = run("-c", code)
    assert done.returncode == 2 and "gpu-codegen" in done.stderr


@triton
def test_the_command_prints_a_table_and_writes_its_rows(capsys, tmp_path):
    arguments = ["--sets", "few", "--optimizers", "Grams", "CONTROL", "--no-machine-code"]
    with mock.patch.dict(os.environ):
        assert gpu_codegen.main([*arguments, "--json", str(tmp_path / "rows.json")]) == 0
        said = capsys.readouterr().out
        assert gpu_codegen.main([*arguments, "--json", "-"]) == 0
    assert "28.00" in said and "40.00" in said and "nothing about speed" in said
    alone, kept = json.loads(capsys.readouterr().out), json.loads((tmp_path / "rows.json").read_text())
    assert [r["launches"] for r in alone["sets"]["few"]] == [r["launches"] for r in kept["sets"]["few"]] == [1, 2]


@triton
def test_spills_are_counted_both_ways():
    said = SimpleNamespace(stderr="4 bytes spill stores, 12 bytes spill loads\nUsed 64 registers")
    with mock.patch("subprocess.run", return_value=said):
        assert used(".target sm_90") == Machine(registers=64, spilled=16)
    with pytest.raises(RuntimeError, match="names no target"):
        used("")
