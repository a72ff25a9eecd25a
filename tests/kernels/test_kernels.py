"""fast/_kernels/gpu on the CPU: what is read, planned and kept, and what happens where a kernel fails.

That the kernels compute what they should is in tests/kernels/test_gpu_codegen.py, in Triton's interpreter.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from stubs import OURS, made, parameters, stepped, stubbed

import fast
from fast._kernels import update
from fast._kernels.gpu import code, launch
from fast._kernels.gpu.code import COLUMNS, ROWS, SLABS
from fast._kernels.gpu.launch import PLANS, Launch, Program, plan_of
from fast._kernels.gpu.layout import Cut, Variant, cut_of, segments_of, variant_of
from fast._kernels.gpu.values import given, number
from fast._kernels.update import Kernel, Stage
from fast.adam_mini.adam_mini import TENSOR
from fast.grams import PAPER
from reference import grams

SINE = update.Update(lambda numbers, param, *_: (param - 0.1 * torch.sin(param),), "N N N N", elementwise=True)
GPU = torch.device("cuda")
# What is read


def matrix(dtype: torch.dtype = torch.float32, shape: Any = ("R", "C")) -> Any:
    return given("p0", dtype, shape, frozenset("C"))


def test_dtypes_are_those_that_torch_gives() -> None:
    x, half, weight = matrix(), matrix(torch.bfloat16), number(0, torch.float32)
    assert (half * 2.0).dtype == (half * weight).dtype == torch.bfloat16
    assert (half + x).dtype == torch.float32 and (x > 0).dtype == torch.bool
    assert (x > 0).sum(-1).dtype == torch.int64 and half.sum(-1).dtype == torch.bfloat16
    assert torch.where(x > 0, x, 1.0).dtype == torch.atan2(x, x).dtype == torch.float32


def test_a_sum_goes_along_lines_alone_and_comes_in_levels() -> None:
    x = matrix()
    rows = x.sum(-1)
    assert rows.shape == ("R",) and rows.level == 1 and rows.lined and not rows.long
    assert (x - rows.unsqueeze(-1)).sum(1, keepdim=True).level == 2
    with pytest.raises(NotImplementedError, match="along lines alone"):
        x.sum(0)
    slab = given("p0", torch.float32, ("B", "R", "C"), frozenset("BC"))
    part = slab.sum(2)
    assert (part.op, part.sum(0).op, part.sum(0).args) == ("part", "sum", (slab,))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x: torch.sin(x), "no sin"),
        (lambda x: x if x > 0 else -x, "torch.where chooses"),
        (lambda x: x.view("C", "R"), "cannot view"),
        (
            lambda x: 1 / given("p0", torch.float32, ("B", "R", "C"), frozenset("BC")).sum(2, keepdim=True).numel(),
            "size",
        ),
    ],
)
def test_what_a_kernel_cannot_do_is_said(what: Any, message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        result = what(matrix())
        assert result is None  # a size that is known was made of it


def test_an_updates_own_text_is_what_is_compiled() -> None:
    """A sign that is lost in the update is lost in the kernel."""
    kernel = Kernel(PAPER((0.9, 0.999)), False, GPU, (torch.float32,) * 4)
    (stage,) = kernel.update.stages
    right = code.flat(launch.form_of(kernel, stage, 5), "f")
    ascending = Kernel(kernel.update, True, GPU, kernel.dtypes)
    assert right != code.flat(launch.form_of(ascending, stage, 5), "f")
    assert right.count("tl.store") == 6 and right.count("tl.sqrt_rn") == 2  # whole blocks, and a tensor's last one


# What is planned


def cut(shape: tuple[int, ...], letters: str, line: str, stride: tuple[int, ...] | None = None) -> Cut:
    t = torch.empty(shape, device="meta") if stride is None else torch.empty_strided(shape, stride, device="meta")
    return cut_of(tuple(t.shape), t.stride(), letters, Stage(lambda: (), letters, (0,), (), line))


def test_lines_are_found_in_every_layout() -> None:
    assert cut((70, 96), "RC", "R") == Cut(70, 96, 96, 0, 96)
    columns = cut((70, 96), "RC", "C")
    assert columns == Cut(96, 70, 1, 96, 1) and columns.layout == COLUMNS
    heads = cut((70, 4, 24), "BRC", "R", (128, 24, 1))  # of a fused projection that goes on
    assert heads == Cut(4, 70 * 24, 24, 128, 24) and heads.layout == SLABS
    assert cut((6720,), "N", "").layout == ROWS


def test_a_long_line_is_split_into_segments_that_cover_it() -> None:
    form = launch.form_of(
        Kernel(TENSOR((0.9, 0.9)), False, GPU, (torch.float32,) * 4),
        TENSOR((0.9, 0.9)).stages[0],
        5,
    )
    for length in (9_000, 131_072, 10**6, 2**30):
        own = Cut(1, length, length, 0, 0)
        variant = variant_of(form, own, True)
        count, segment = segments_of(variant, own)
        assert variant.kind == "split" and count <= variant.shares and segment % variant.block == 0
        assert (count - 1) * segment < length <= count * segment


@pytest.mark.parametrize("name", OURS)
def test_schedules_and_missing_gradients_plan_nothing_anew(name: str) -> None:
    params = parameters(*[(64, 48)] * 6, (11,), (11,), (11,), (11,))
    optimizer = made(name, params)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    with stubbed() as launched:
        stepped(params, optimizer)
        first, known = len(launched), launch.Plan.__init__
        with mock.patch.object(launch.Plan, "__init__", side_effect=AssertionError("planned anew")):
            for t in range(8):
                stepped(params, optimizer, [i for i in range(10) if (i + t) % 3 == 0])
                schedule.step()
        assert known is launch.Plan.__init__ and len(launched) == 9 * first
    assert {int(optimizer.state[p]["step"]) for p in params} <= {6, 7}


def test_only_so_many_plans_are_kept() -> None:
    kernel = Kernel(PAPER((0.9, 0.999)), False, GPU, (torch.float32,) * 4)
    with stubbed():
        for n in range(1, PLANS + 10):
            plan_of(kernel, 5, [(torch.ones(n),) * 4])
        assert len(launch._plans) == PLANS


def test_a_long_compilation_says_how_long_and_where_it_is_kept(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/somewhere/shared")
    params = parameters((6, 5), (11,))
    with stubbed():
        stepped(params, fast.Grams(params))
        assert not caplog.records
        monkeypatch.setattr(launch, "PATIENCE", -1.0)
        stepped(params, fast.Lion(params))
    assert "compiled lion_of_3 for 2 tensors on cpu in 0.0 s" in caplog.text and "/somewhere/shared" in caplog.text


# What is compiled before the first step


def compiled(variants: list[Any], error: Exception | None = None) -> Any:
    def noted(self: Program, variant: Variant, number_dtype: torch.dtype) -> Exception | None:
        variants.append((self, variant, number_dtype))
        return error

    return mock.patch.object(Program, "compiled", noted)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_warming_up_compiles_what_the_first_step_would_and_moves_nothing(name: str, capturable: bool) -> None:
    params = parameters((40, 24), (3, 9000), (30,), (1,), (5, 6, 7))
    params += [torch.nn.Parameter(p.detach().to(torch.bfloat16)) for p in parameters((40, 24), (30,))]
    optimizer = made(name, params, weight_decay=0.1, stochastic_rounding=name == "Lion", capturable=capturable)
    optimizer.param_groups[0]["own"] = object()
    before, stepped_with, warmed = [p.detach().clone() for p in params], list[Any](), list[Any]()
    with stubbed() as launched:
        with compiled(warmed), mock.patch("fast._engine.warm_up.on_gpu", lambda device: True):
            count = fast.warm_up(optimizer)
        assert not launched and not optimizer.state and not any(p.grad is not None or p._version for p in params)
        assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True)) and not optimizer._caches.views
        with compiled(stepped_with):
            stepped(params, optimizer)
    on_cpu = {(program.form.dtypes, program.name, variant, dtype) for program, variant, dtype in stepped_with}
    assert on_cpu == {(program.form.dtypes, program.name, variant, dtype) for program, variant, dtype in warmed}
    assert count == sum(len(one.works) for one in launched) > 0


def test_warming_up_says_what_it_cannot_do() -> None:
    params = parameters((4, 3))
    with pytest.raises(TypeError, match="takes an optimizer of this package, got AdamW"):
        fast.warm_up(torch.optim.AdamW(params))
    assert fast.warm_up(fast.Grams(params)) == fast.warm_up(fast.Grams(params, compile=False)) == 0
    with (
        stubbed(),
        compiled([], RuntimeError("no compiler here")),
        mock.patch("fast._engine.warm_up.on_gpu", lambda device: True),
        pytest.raises(RuntimeError, match="compile=True"),
    ):
        fast.warm_up(fast.Grams(params, compile=True))


def test_threads_may_plan_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PLANS", 1)
    kernel = Kernel(PAPER((0.9, 0.999)), False, GPU, (torch.float32,) * 4)
    failed: list[Exception] = []

    def plan(first: int) -> None:
        try:
            for n in range(first, first + 60):
                plan_of(kernel, 5, [(torch.ones(n),) * 4])
        except Exception as error:
            failed.append(error)

    with stubbed():
        threads = [threading.Thread(target=plan, args=(1 + 3 * i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


# Where a kernel fails


@pytest.mark.parametrize("name", OURS)
def test_the_step_is_the_same_uncompiled_and_said_to_be(name: str) -> None:
    found = []
    for compile in (None, False):
        params = parameters((6, 5), (11,))
        optimizer = made(name, params, lr=0.1, compile=compile)
        update._warn_once.cache_clear()
        with stubbed(RuntimeError("no compiler here")), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(3):
                stepped(params, optimizer)
        assert len([w for w in said if "no compiler here" in str(w.message)]) == (compile is None)
        found.append([p.detach() for p in params])
    torch.testing.assert_close(*found)


def test_uncompiled_it_is_the_reference() -> None:
    draw = np.random.default_rng(0)
    w, gradients = draw.normal(size=(6, 5)), draw.normal(size=(3, 6, 5))
    param, memory = torch.nn.Parameter(torch.from_numpy(w.copy())), grams.init(w)
    optimizer = fast.Grams([param], lr=0.1, compile=False)
    with stubbed() as launched:
        for gradient in gradients:
            param.grad = torch.from_numpy(gradient)
            optimizer.step()
            w, memory = grams.step(w, gradient, memory, lr=0.1)
    assert not launched
    np.testing.assert_allclose(param.detach().numpy(), w, rtol=1e-12)


def test_an_error_where_compilation_was_asked_for_changes_nothing() -> None:
    params = parameters((6, 5), (5,))
    optimizer = fast.Adams(params, compile=True)
    with stubbed(RuntimeError("no compiler here")), pytest.raises(RuntimeError, match="compile=True"):
        stepped(params, optimizer)
    assert not any(p._version for p in params)  # nothing has changed, nor been counted


def test_another_error_is_not_taken_for_the_compilers() -> None:
    params = parameters((6, 5))
    with (
        stubbed(),
        mock.patch.object(Launch, "run", side_effect=torch.OutOfMemoryError("out of memory")),
        pytest.raises(torch.OutOfMemoryError),
    ):
        stepped(params, fast.Grams(params))


def test_a_step_that_is_watched_is_taken_one_operation_at_a_time() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    params = parameters(*[(6, 5)] * 5)
    optimizer = fast.Grams(params)
    with stubbed() as launched:
        with FlopCounterMode(display=False):
            stepped(params, optimizer)
        assert not launched
        stepped(params, optimizer)
        assert launched


def test_an_update_that_a_kernel_cannot_do_is_taken_by_single_operations() -> None:
    class Sine(fast.Grams):
        def _update(self, group: Any) -> Any:
            return SINE

    found = []
    for compile in (None, False):
        params = parameters((6, 5), (11,))
        optimizer = Sine(params, lr=0.1, compile=compile)
        update._warn_once.cache_clear()
        with stubbed() as launched, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(2):
                stepped(params, optimizer)
        assert not launched and len([w for w in said if "no sin" in str(w.message)]) == (compile is None)
        found.append([p.detach() for p in params])
    torch.testing.assert_close(*found)


def test_a_compilation_that_fails_is_tried_twice() -> None:
    kernel = Kernel(PAPER((0.9, 0.999)), False, GPU, (torch.float32,) * 4)
    program = Program(launch.form_of(kernel, kernel.update.stages[0], 5), "f")
    variant = Variant("flat", 2048, 1, 1, ROWS, True)
    with mock.patch.object(program, "functions", side_effect=OSError("disk full")) as asked:
        for _ in range(4):
            assert isinstance(program.compiled(variant, torch.float32), OSError)
    assert asked.call_count == update.TRIES
