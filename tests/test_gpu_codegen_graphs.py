"""What fast/_graphs.py does around the compiled graphs, on the CPU and on meta tensors: which graphs, and what if one fails."""

from __future__ import annotations

import warnings
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from twin import give, gradients, parameters

import fast
from fast import _compile, _graphs
from fast._gpu_calls import OPTIMIZERS, call_of, step_of
from fast._graphs import POINTERS, Graph, _graph, joined, short_with_long
from fast.grams import RELEASED
from reference import grams


@pytest.fixture
def fresh():
    with mock.patch.object(_graphs, "_sets", defaultdict(set)):
        _graph.cache_clear()
        yield
        _graph.cache_clear()


def on_meta(shapes, **options):
    params = [torch.nn.Parameter(torch.empty(s, device="meta")) for s in shapes]
    return params, fast.Grams(params, **options)


def step(params, optimizer, missing=()):
    for i, param in enumerate(params):
        param.grad = None if i in missing else torch.empty_like(param)
    optimizer.step()


def test_gradients_that_come_and_go_do_not_make_graphs_for_ever(fresh):
    params, optimizer = on_meta([(64, 48)] * 12)
    with mock.patch.object(Graph, "run", return_value=True):
        for t in range(24):
            step(params, optimizer, [i for i in range(12) if (i * 7 + t) % 5 == 0])
    assert 2 <= _graph.cache_info().currsize <= _graphs.GRAPHS + 1  # four sets, and one shape alone


def test_a_schedule_makes_no_graph(fresh):
    params, optimizer = on_meta([(64, 48), (11,)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    with mock.patch.object(Graph, "run", return_value=True) as run:
        for _ in range(5):
            step(params, optimizer)
            schedule.step()
    assert _graph.cache_info().currsize == 1 and run.call_count == 5
    rates = [float(call.args[2][-2]) for call in run.call_args_list]
    assert len(set(rates)) == 5


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_runs_nothing_on_the_device_beside_its_graphs(name, capturable):
    shapes = [(64, 48)] * 3 + [(11,)] * 200
    made = step_of(name, shapes, capturable=capturable)
    assert sum(len(call.items) for call in made.calls) == len(shapes)
    assert max(sum(map(len, call.items)) + len(call.scalars) for call in made.calls) <= POINTERS
    if not capturable:
        assert not made.eager
    # a number for each tensor, for those that depend on the step
    lengths = {len(call.items) if shape else 0 for call in made.calls for _, shape in call.scalars if shape}
    assert lengths == ({len(call.items) for call in made.calls} if capturable and "Lion" not in name else set())


def test_a_call_has_its_vectors_on_the_gpu_and_lone_numbers_where_they_are():
    kernel = _compile.Kernel(RELEASED, False, torch.device("cpu"), (torch.float32,) * 4)
    numbers = [torch.ones(()), torch.ones(2), torch.ones((), device="meta")]
    call = call_of(kernel, numbers, [[torch.ones(3), torch.ones(4)]] * 4)
    assert call.scalars == (("cpu", ()), ("cuda", (2,)), ("cuda", ())) and call.kernel.device.type == "cuda"
    assert [item[0] for item in call.items] == [((3,), (1,), torch.float32), ((4,), (1,), torch.float32)]


class Failing(Graph):
    """A graph whose compilation fails."""

    def __init__(self, update):
        super().__init__(update)
        self.call = mock.Mock(side_effect=TorchDynamoException("no compiler here"))


@contextmanager
def as_on_a_gpu(graph):
    """Tensors of the CPU go the way of a GPU's, to graphs of this class."""

    def kernel(update, maximize, device, dtypes):
        return _compile.Kernel(update, maximize, torch.device("cuda"), dtypes)

    with (
        mock.patch.object(_graphs, "Graph", graph),
        mock.patch("fast._packs._small", return_value=False),
        mock.patch("fast._optimizer.Kernel", kernel),
    ):
        yield


def test_where_a_graph_fails_the_step_is_the_same_uncompiled(fresh):
    draw = np.random.default_rng(0)
    w, gradients = draw.normal(size=(6, 5)), draw.normal(size=(3, 6, 5))
    param = torch.nn.Parameter(torch.from_numpy(w.copy()))
    expected, memory = w, grams.init(w)
    kernels = []

    def kernel(update, maximize, device, dtypes):
        kernels.append(_compile.Kernel(update, maximize, torch.device("cuda"), dtypes))
        return kernels[-1]

    optimizer = fast.Grams([param], lr=0.1)
    with (
        mock.patch.object(_graphs, "Graph", Failing),
        mock.patch("fast._packs._small", return_value=False),
        mock.patch("fast._optimizer.Kernel", kernel),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        _compile._warn_once.cache_clear()
        for gradient in gradients:
            param.grad = torch.from_numpy(gradient)
            optimizer.step()
            expected, memory = grams.step(expected, gradient, memory, lr=0.1)
    assert kernels
    assert len([w for w in said if "no compiler here" in str(w.message)]) == 1
    np.testing.assert_allclose(param.detach().numpy(), expected, rtol=1e-12)


class Uncompiled(Graph):
    """A graph that is run as it is handed to the compiler."""

    def __init__(self, update):
        super().__init__(update)
        self.call = joined


@pytest.mark.parametrize("graph", [Uncompiled, Failing])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("name", ["Grams", "CautiousAdamW", "AdamMini"])  # elementwise, with a statistic, by rows
def test_a_graph_ascends_with_each_tensors_own_numbers_and_random_bits(fresh, name, together, graph):
    options = {"maximize": True, "capturable": True, "stochastic_rounding": True, "lr": 0.1, "weight_decay": 0.1}
    shapes, found = [(6, 5)] * 3, []
    for on_a_gpu in (True, False):
        params = parameters(shapes, torch.bfloat16)
        optimizer = OPTIMIZERS[name](params, **options, compile=None if on_a_gpu else False)
        with ExitStack() as stack:
            if on_a_gpu:
                for target, value in (
                    ("fast._graphs.Graph", graph),
                    ("fast._graphs.POINTERS", POINTERS if together else 8),
                    ("fast._packs._small", lambda _: False),
                    (
                        "fast._optimizer.Kernel",
                        lambda u, m, _, dtypes: _compile.Kernel(u, m, torch.device("cuda"), dtypes),
                    ),
                ):
                    stack.enter_context(mock.patch(target, value))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            for t in range(4):
                give(params, [g if t >= i else None for i, g in enumerate(gradients(params, t))])  # each begins later
                optimizer.step()
        assert _graph.cache_info().currsize > 0
        found.append([*params, *(t for p in params for t in optimizer.state[p].values())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_failing_graph_is_an_error_where_compilation_was_asked_for(fresh):
    param = torch.nn.Parameter(torch.ones(6, 5))
    optimizer = fast.Grams([param], compile=True)
    with as_on_a_gpu(Failing), pytest.raises(RuntimeError, match="compile=True"):
        step([param], optimizer)
    assert param._version == 0  # nothing has changed, nor been counted


def test_another_error_in_a_graph_is_not_taken_for_the_compilers(fresh):
    class Broken(Failing):
        def __init__(self, update):
            super().__init__(update)
            self.call = mock.Mock(side_effect=torch.OutOfMemoryError("out of memory"))

    param = torch.nn.Parameter(torch.ones(6, 5))
    with as_on_a_gpu(Broken), pytest.raises(torch.OutOfMemoryError):
        step([param], fast.Grams([param]))


def test_torch_joins_reductions_as_before_once_a_graph_is_made():
    from torch._inductor.codegen import triton_combo_kernel as combo

    usual = combo._custom_combo_kernel_horizontal_partition_algorithm
    with pytest.raises(ZeroDivisionError), short_with_long():
        assert combo._custom_combo_kernel_horizontal_partition_algorithm is not usual
        raise ZeroDivisionError
    assert combo._custom_combo_kernel_horizontal_partition_algorithm is usual
