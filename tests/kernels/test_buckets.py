"""fast/_kernels/gpu/bucket.py on the CPU: what a group's parameters on a GPU keep from step to step, and when they no longer do.

That whatever happens between two steps leaves the numbers right is in tests/kernels/test_gpu_codegen.py, in Triton's interpreter.
"""

from __future__ import annotations

import gc
import io
import warnings
import weakref
from typing import Any
from unittest import mock

import pytest
import torch
from stubs import OURS, made, parameters, stepped, stubbed
from torch import Tensor

import fast
from fast._engine.step import Step
from fast._kernels.gpu import unchanged
from fast._kernels.gpu.launch import Program


@pytest.mark.parametrize("name", OURS)
def test_a_bucket_keeps_no_memory_that_others_let_go(name: str) -> None:
    params = parameters(*[(24, 40)] * 5)
    optimizer = made(name, params)
    with stubbed():
        for _ in range(3):
            stepped(params, optimizer)
        assert optimizer._caches.buckets[0]
        gone = [weakref.ref(t) for p in params for k, t in optimizer.state[p].items() if k != "step"]
        storages = [
            weakref.ref(t.untyped_storage()) for p in params for k, t in optimizer.state[p].items() if k != "step"
        ]
        optimizer.state.clear()
        gc.collect()
        assert not [ref for ref in (*gone, *storages) if ref() is not None]
        stepped(params, optimizer)
    assert {int(optimizer.state[p]["step"]) for p in params} == {1}


def test_a_parameters_count_of_steps_is_its_own() -> None:
    params = parameters(*[(8,)] * 6)
    optimizer = fast.Grams(params)
    with stubbed():
        for t in range(6):
            stepped(params, optimizer, range(t))
    assert [int(optimizer.state[p]["step"]) for p in params] == [1, 2, 3, 4, 5, 6]
    saved = torch.load(_saved(optimizer), weights_only=True)
    assert [int(s["step"]) for s in saved["state"].values()] == [1, 2, 3, 4, 5, 6]


def _saved(optimizer: Any) -> Any:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert len(file.getvalue()) < 20_000  # a count does not bring the vector of all counts along each time
    file.seek(0)
    return file


def test_autograd_sees_what_the_kernels_write() -> None:
    params = parameters(*[(8,)] * 6)
    optimizer = fast.Grams(params)
    with stubbed():
        for _ in range(3):
            before = [p._version for p in params]
            stepped(params, optimizer, [0])
            assert [p._version - b > 0 for p, b in zip(params, before, strict=True)] == [False] + [True] * 5


def bucket_of(name: str = "Grams", count: int = 6, **options: Any) -> Any:
    params = parameters(*[(8, 4)] * count)
    return params, made(name, params, **options)


def test_another_tensor_at_the_old_address_is_not_taken_for_the_state() -> None:
    params, optimizer = bucket_of()
    with stubbed():
        for _ in range(3):
            stepped(params, optimizer)
        (bucket,) = optimizer._caches.buckets[0]
        old = optimizer.state[params[0]]["exp_avg"]
        optimizer.state[params[0]]["exp_avg"] = torch.as_strided(
            old, (8, 4), (1, 8)
        )  # the same address, another layout
        assert not bucket.as_it_was(params, optimizer.state)
        optimizer.state[params[0]]["exp_avg"] = old
        assert bucket.as_it_was(params, optimizer.state)
        del optimizer.state[params[0]]["exp_avg"], old
        gc.collect()
        assert not bucket.as_it_was(params, optimizer.state)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_gradient_of_another_shape_is_refused_before_anything_changes(steps: int) -> None:
    params, optimizer = bucket_of()
    with stubbed():
        for _ in range(steps):
            stepped(params, optimizer)
        for param in params:
            param.grad = torch.ones_like(param)
        grad = params[2].grad
        assert grad is not None
        grad.data = torch.ones(3)
        counts = [float(s["step"]) for s in optimizer.state.values()]
        with pytest.raises(ValueError, match=r"a gradient of shape \(3,\) was given for a parameter of shape"):
            optimizer.step()
        assert [float(s["step"]) for s in optimizer.state.values()][: len(counts)] == counts


def test_a_state_that_is_gone_leaves_nothing_behind_and_the_checkpoint_loads() -> None:
    params, optimizer = bucket_of()
    with stubbed():
        for _ in range(3):
            stepped(params, optimizer)
        optimizer.state.pop(params[0])
        stepped(params, optimizer, [0])
        assert params[0] not in optimizer.state
        optimizer.load_state_dict(optimizer.state_dict())


def test_zeros_that_are_not_written_out_and_empty_parameters_are_counted() -> None:
    params, optimizer = bucket_of()
    empty = torch.nn.Parameter(torch.ones(0, 3))
    optimizer.add_param_group({"params": [empty, *parameters(*[(3,)] * 5)]})
    params += optimizer.param_groups[1]["params"]
    with stubbed():
        for _ in range(3):
            stepped(params, optimizer)
        for param in params:
            param.grad = torch.ones_like(param)
        params[0].grad = torch._efficientzerotensor(params[0].shape)  # pyright: ignore[reportPrivateImportUsage]
        optimizer.step()
    assert {float(s["step"]) for s in optimizer.state.values()} == {4.0}


def test_a_state_whose_rows_somebody_took_out_is_laid_out_anew() -> None:
    params, optimizer = bucket_of("AdamMini")
    with stubbed():
        for _ in range(2):
            stepped(params, optimizer)
        state = optimizer.state[params[0]]
        kept = torch.nn.Parameter(params[0].detach()[::2].contiguous())
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"][::2].contiguous(), state["exp_avg_sq"][::2]
        del optimizer.state[params[0]]
        optimizer.state[kept] = state
        params[0] = optimizer.param_groups[0]["params"][0] = kept
        stepped(params, optimizer)
    assert state["exp_avg_sq"].is_contiguous() and state["exp_avg_sq"].shape[0] == 4


def test_a_schedule_of_the_decay_makes_no_bucket_anew() -> None:
    params, optimizer = bucket_of("Adams")
    with stubbed():
        stepped(params, optimizer)
        (bucket,) = optimizer._caches.buckets[0]
        for t in range(4):
            optimizer.param_groups[0]["weight_decay"] = 0.1 / (t + 2)
            stepped(params, optimizer)
        assert optimizer._caches.buckets[0] == [bucket]


def test_gradients_in_a_bucket_stay_with_their_bucket() -> None:
    """At addresses that are no multiples of 16, as DDP's gradient_as_bucket_view lays them."""
    params, optimizer = bucket_of()
    with stubbed() as launched:
        for _ in range(2):
            stepped(params, optimizer)
        memory = torch.ones(1 + 32 * len(params))
        for i, param in enumerate(params):
            param.grad = memory[1 + 32 * i : 33 + 32 * i].view_as(param) if i % 2 else torch.ones_like(param)
        optimizer.step()
        (bucket,) = optimizer._caches.buckets[0]
        launched.clear()
        one_by_one = mock.patch.object(Step, "each", side_effect=AssertionError("the slow way"))
        for turn in (0, 1):  # each parameter's gradient lies so or so from step to step
            for i, param in enumerate(params):
                param.grad = (
                    memory[1 + 32 * i : 33 + 32 * i].view_as(param) if i % 2 and turn else torch.ones_like(param)
                )
            with one_by_one:
                optimizer.step()
        assert optimizer._caches.buckets[0] == [bucket]
    assert sorted({launch.variant.aligned for launch in launched}) == [False, True]
    assert {int(optimizer.state[p]["step"]) for p in params} == {5}


def test_groups_that_are_gone_or_step_otherwise_keep_no_parameters() -> None:
    params, optimizer = bucket_of()
    optimizer.add_param_group({"params": parameters(*[(3,)] * 5)})
    with stubbed():
        for _ in range(2):
            stepped([*params, *optimizer.param_groups[1]["params"]], optimizer)
        assert set(optimizer._caches.buckets) == {0, 1}
        optimizer.param_groups.pop()
        optimizer.param_groups[0]["compile"] = False
        stepped(params, optimizer)
    assert not optimizer._caches.buckets


def test_a_failure_of_the_moment_is_not_kept_with_a_bucket() -> None:
    params, optimizer = bucket_of(compile=None)
    with stubbed() as launched:
        with mock.patch.object(Program, "compiled", lambda *_: OSError("disk full")), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stepped(params, optimizer)
        assert not launched and not optimizer._caches.buckets[0]
        stepped(params, optimizer)
        stepped(params, optimizer)
        assert launched and optimizer._caches.buckets[0]


def test_no_memory_for_a_bucket_is_no_error_of_the_step_that_is_done() -> None:
    params, optimizer = bucket_of()
    with stubbed(), mock.patch("fast._engine.step.Bucket", side_effect=torch.OutOfMemoryError("out of memory")):
        stepped(params, optimizer)
    assert {float(s["step"]) for s in optimizer.state.values()} == {1.0}


# What is asked in each step, by Dynamo's own question and without it


class Own(torch.Tensor):
    pass


def _gradient(grad: torch.Tensor) -> Any:
    return lambda params, optimizer: setattr(params[2], "grad", grad)


def _data(of: Any, new: Any) -> Any:
    def change(params: Any, optimizer: Any) -> None:
        tensor = of(params[2], optimizer)
        tensor.data = new(tensor.data)

    return change


def _param(param: Any, optimizer: Any) -> torch.Tensor:
    return param


def _state(name: str) -> Any:
    return lambda param, optimizer: optimizer.state[param][name]


def _replaced(name: str) -> Any:
    def change(params: Any, optimizer: Any) -> None:
        kept.append(optimizer.state[params[2]][name])
        optimizer.state[params[2]][name] = kept[-1].clone()

    return change


def _options(params: Any, optimizer: Any) -> None:
    optimizer.param_groups[0]["maximize"] = True


kept: list[torch.Tensor] = []
COLUMNS = (1, 8)  # strides
CHANGES: dict[str, Any] = {
    "a gradient's dtype": _data(lambda p, o: p.grad, torch.Tensor.double),
    "a gradient's strides": _gradient(torch.ones(4, 8).t()),
    "a gradient's sign": _gradient(torch._neg_view(torch.ones(8, 4))),  # pyright: ignore[reportPrivateImportUsage]
    "a gradient's class": _gradient(torch.ones(8, 4).as_subclass(Own)),
    "a gradient's memory": _gradient(torch._efficientzerotensor((8, 4))),  # pyright: ignore[reportPrivateImportUsage]
    "a parameter's memory": _data(_param, torch.clone),
    "a parameter's strides": _data(_param, lambda t: t.as_strided((8, 4), COLUMNS)),
    "a parameter's sign": _data(_param, torch._neg_view),  # pyright: ignore[reportPrivateImportUsage]
    "a parameter's dtype": _data(_param, torch.Tensor.double),
    "an average": _replaced("exp_avg"),
    "an average's memory": _data(_state("exp_avg_sq"), torch.clone),
    "a count": _replaced("step"),
    "a count's memory": _data(_state("step"), torch.clone),
    "a state": lambda params, optimizer: optimizer.state.pop(params[2]),
    "the order": lambda params, optimizer: optimizer.param_groups[0]["params"].reverse(),
    "an option": _options,
}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("missing", [(), (0, 4)])
@pytest.mark.parametrize("what", [None, *CHANGES])
def test_what_is_no_longer_as_it_was_is_noticed(
    what: str | None, missing: tuple[int, ...], quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not quick:
        monkeypatch.setattr(unchanged, "_Guards", None)
    monkeypatch.setattr(unchanged, "FEW", 4)
    params, optimizer = bucket_of()
    with stubbed():
        for _ in range(2):
            stepped(params, optimizer)
        for i, param in enumerate(params):
            param.grad = None if i in missing else torch.ones_like(param)
        if what:
            CHANGES[what](params, optimizer)
        with mock.patch.object(Step, "each") as each, mock.patch("fast._engine.step._gather"):
            optimizer.step()
    slowly = [id(p) for call in each.call_args_list for p in call.args[1]]
    assert sorted(slowly) == sorted(id(p) for i, p in enumerate(params) if what and i not in missing)


@pytest.mark.parametrize("missing", [(), (0, 4)])
def test_a_state_that_changes_while_there_is_no_gradient_is_noticed_when_there_is_one(missing: tuple[int, ...]) -> None:
    params, optimizer = bucket_of()
    with stubbed():
        for _ in range(2):
            stepped(params, optimizer)
        _replaced("exp_avg")(params, optimizer)
        with mock.patch.object(Step, "each") as each:
            stepped(params, optimizer, (2, *missing))
            assert not each.called
            stepped(params, optimizer, missing)
            assert each.called


@pytest.mark.skipif(not unchanged._Guards, reason="this torch has no quick question")
def test_the_quick_question_is_put_anew_where_the_slow_one_says_yes() -> None:
    """A frozen parameter, and a gradient whose axis of size 1 has another stride: neither sends a step the slow way."""
    params = parameters(*[(8, 1)] * 6)
    optimizer = fast.Grams(params)
    with stubbed():
        for _ in range(2):
            stepped(params, optimizer)
        params[1].requires_grad_(False)
        with mock.patch.object(Step, "each") as each, mock.patch.object(Tensor, "is_neg", side_effect=[False] * 12):
            for _ in range(3):
                for param in params:
                    param.grad = torch.ones(8).as_strided((8, 1), (1, 8))
                optimizer.step()
        assert not each.called
