"""The machine around a step: no compiler, memory, torch's global settings, the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.config as dynamo
import torch._inductor.config as inductor
from optimizers import IDS, OPTIMIZERS, Row
from twin import give, gradients, parameters, same, train

from experiments.bench import peak_extra_bytes
from fast._kernels import update

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
TESTS = Path(__file__).resolve().parents[1]

WITHOUT_A_COMPILER = """
import sys, warnings
sys.path[:0] = [{tests!r}, {root!r}]
import torch
from optimizers import OPTIMIZERS
from twin import error, parameters, same, train

shapes = [(4, 3), (), *[(6,)] * 17]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for row in OPTIMIZERS:
        params = parameters(shapes)
        before = [p.detach().clone() for p in params]
        insists = row.make(params, lr=0.1, compile=True)
        try:
            train(insists, params, range(1))
        except RuntimeError as e:
            assert "compile=None" in str(e), str(e)
        else:
            raise AssertionError("compile=True ran without a compiler")
        assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True)), "a parameter has changed"
        for state in insists.state.values():
            assert not state["step"].any() and not state["exp_avg"].any(), "state has changed"
    assert not [w for w in caught if w.category is RuntimeWarning], [str(w.message) for w in caught]
    for row in OPTIMIZERS:
        for dtype in (torch.float32, torch.float64):
            one, two = parameters(shapes, dtype), parameters(shapes, dtype)
            train(row.make(one, lr=0.1), one, range(3))
            train(row.make(two, lr=0.1, compile=False), two, range(3))
            assert same(one, two), row.name
ours = [str(w.message) for w in caught if w.category is RuntimeWarning]
assert len(ours) == 1, ours
assert "compiler" in ours[0] and "compile=False" in ours[0], ours
"""


def test_without_a_compiler_one_warning_and_the_same_results(tmp_path: Path) -> None:
    """compile=None warns once a process and runs eagerly, bitwise as compile=False; compile=True raises, unchanged."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCHINDUCTOR")}
    environment |= {
        "PATH": str(tmp_path),
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    script = WITHOUT_A_COMPILER.format(tests=str(TESTS / "common"), root=str(TESTS.parent))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("raised", ["", "BackendCompilerFailed: backend='_backend' raised:\n"])
def test_the_warning_says_what_the_compiler_said(raised: str) -> None:
    error = update.NotCompiled(f"{raised}OSError: the disk is full\n\nSet TORCHDYNAMO_VERBOSE=1")
    update._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"torch.compile failed \(.*OSError: the disk is full\); this"):
        assert update.ready(error, None) is None


@pytest.mark.compiler
@pytest.mark.parametrize(
    "shapes", [[(1024, 1024), (2_000_000,), *[(1000,)] * 100], [(1000,)] * 2000], ids=["mixed", "small"]
)
@walk
def test_a_compiled_step_takes_no_memory(row: Row, shapes: list[tuple[int, ...]]) -> None:
    """Beside parameters, gradients and state: at most 1 % of the parameters' bytes, or what the row says."""
    params = parameters(shapes)
    optimizer = row.make(params, lr=0.1, compile=True)
    train(optimizer, params, range(2))
    size = sum(p.numel() * p.element_size() for p in params)
    peak = peak_extra_bytes(optimizer.step)
    assert peak <= row.memory * size, f"{peak} bytes on {size} bytes of parameters"


def test_the_memory_of_a_step_is_seen() -> None:
    """The control: foreach AdamW makes temporaries of the parameters' size."""
    params = parameters([(1024, 1024)])
    adamw = torch.optim.AdamW(params, foreach=True)
    train(adamw, params, range(2))
    assert peak_extra_bytes(adamw.step) >= 4 * 1024 * 1024


def settings() -> dict[str, Any]:
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "random": torch.get_rng_state().tolist(),
        "dynamo": dynamo.get_config_copy(),
        "inductor": inductor.get_config_copy(),
    }


@pytest.mark.parametrize("compile", [False, True])
@walk
def test_torch_is_left_as_it_was_and_nothing_is_printed(
    row: Row, compile: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    params = parameters([(4, 3), (), (0,)])
    torch._dynamo.reset()  # so that a compilation happens in between
    before = settings()
    optimizer = row.make(params, lr=0.1, compile=compile)
    train(optimizer, params, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    after = settings()
    assert {k for k in before if before[k] != after[k]} == set()
    assert capfd.readouterr() == ("", "")


@walk
def test_inference_and_grad_modes_do_not_matter(row: Row) -> None:
    """Except that state which is made in inference mode can be used there alone, as with torch.optim."""
    on, off, inference = torch.enable_grad, torch.no_grad, torch.inference_mode
    runs = []
    for modes in ((on, on, on), (off, off, off), (inference, inference, inference), (off, inference, off)):
        params = parameters([(4, 3), (5,)])
        optimizer = row.make(params, lr=0.1, compile=False)
        for i, mode in enumerate(modes):
            give(params, gradients(params, i))
            with mode():
                optimizer.step()
        assert all(p.requires_grad and p.is_leaf for p in params)
        runs.append((list(params), optimizer.state_dict()))
    assert all(same(runs[0], run) for run in runs[1:])


@walk
def test_another_default_dtype_changes_nothing(row: Row) -> None:
    """Nor does it in counts that a half type has not: 257, and small tensors and large ones count in places of their own."""
    runs = []
    for default in (torch.float32, torch.float64, torch.bfloat16):
        params = parameters([(4, 3), (5,), (100, 90)])
        torch.set_default_dtype(default)
        try:
            optimizer = row.make(params, lr=0.1, compile=False)
            for i in range(6):
                generator = torch.Generator().manual_seed(i)
                for p in params:
                    p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float32)
                optimizer.step()
                if i == 2:
                    for p in params:
                        optimizer.state[p]["step"].fill_(255)
                    optimizer.load_state_dict(optimizer.state_dict())
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(optimizer.state[p]["step"] == 258 for p in params)
        runs.append((list(params), optimizer.state_dict()))
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])


@pytest.mark.compiler
@walk
def test_the_same_run_twice_is_bitwise_the_same(row: Row) -> None:
    runs = []
    for _ in range(2):
        params = parameters([(300, 250), (4, 3), *[(9,)] * 17])
        optimizer = row.make(params, lr=0.1, compile=True)
        train(optimizer, params, range(5))
        runs.append((list(params), optimizer.state_dict()))
    assert same(runs[0], runs[1])


@pytest.mark.compiler
@walk
def test_the_order_of_the_parameters_does_not_matter(row: Row) -> None:
    """What is worked on together (a pack of small tensors, say) is nobody's business."""
    shapes = [(4, 3), *[(9,)] * 18, (3, 4)]
    params, others = parameters(shapes), parameters(shapes)
    one, two = row.make(params, lr=0.1, compile=True), row.make(others[::-1], lr=0.1, compile=True)
    for i in range(3):
        grads = gradients(params, i)
        for some, optimizer in ((params, one), (others, two)):
            give(some, grads)
            optimizer.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=row.fp32, atol=row.fp32)
