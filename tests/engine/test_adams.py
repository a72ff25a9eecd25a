"""What is Adams' own: first steps by hand, and the faults of adams-torch 0.0.1 that ours must not have."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from twin import array, error, gradients, parameters, same

import fast
from fast.adams.power_iteration import _left_product
from reference import adams


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("as_released", [False, True])
def test_first_step_by_hand(as_released: bool, compile: bool) -> None:
    """W = diag(3, 1), u = (1, 1): v = (3, 1) / sqrt(10), W v = (9, 1) / sqrt(10), sigma = sqrt(8.2).

    Line 7 takes lr lambda sqrt(2) (W v) v^T = 0.1 sqrt(2) / 10 [[27, 9], [3, 1]]. At step 1 mhat = g, nhat = g^2: the angle
    is pi/4 against the gradient's sign; the package's is atan2(0.1 |g|, |g|), times 10.
    """
    w = nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
    b = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    w.grad = torch.tensor([[5.0, -0.25], [0.0, -7.0]], dtype=torch.float64)
    b.grad = torch.tensor([-1e-3], dtype=torch.float64)
    optimizer = fast.Adams(
        [w, b], 0.1, (0.9, 0.95), 1.0, scalar_vector_weight_decay=0.5, as_released=as_released, compile=compile
    )
    optimizer.step()
    angle = 0.1 * (10 * math.atan(0.1) if as_released else math.pi / 4)
    pull = 0.1 * math.sqrt(2) / 10
    expected = [[3 - 27 * pull - angle, -9 * pull + angle], [-3 * pull, 1 - pull + angle]]
    torch.testing.assert_close(w.tolist(), expected, rtol=1e-13, atol=1e-14)
    assert b.item() == pytest.approx(2 * 0.95 + angle, rel=1e-14)
    state = optimizer.state[w]
    assert state["sigma"].item() == pytest.approx(math.sqrt(8.2), rel=1e-14)
    torch.testing.assert_close(state["u"].tolist(), [9 / math.sqrt(82), 1 / math.sqrt(82)], rtol=1e-14, atol=0)


@pytest.mark.parametrize("flatten", [False, True])
def test_a_kernel_is_a_stack_of_matrices_or_one_matrix(flatten: bool) -> None:
    kernel = nn.Parameter(torch.ones(4, 3, 2, 2))
    kernel.grad = torch.zeros_like(kernel)
    optimizer = fast.Adams([kernel], lr=0.1, weight_decay=0.5, flatten_kernels=flatten, compile=False)
    optimizer.step()
    rows, shape = (4, ()) if flatten else (2, (4, 3))
    assert optimizer.state[kernel]["sigma"].shape == shape
    torch.testing.assert_close(kernel.detach(), torch.full_like(kernel, 1 - 0.05 * rows**0.5).detach())


def test_weights_that_were_loaded_after_it_was_built_are_followed() -> None:
    """adams-torch overwrites them by its master copy; and crashes on bfloat16 at all."""
    model = nn.Linear(4, 3).bfloat16()
    optimizer = fast.Adams(model.parameters(), lr=0.01, weight_decay=0.0, scalar_vector_weight_decay=0.0, compile=False)
    for value in (5.0, -3.0):
        model.load_state_dict({"weight": torch.full((3, 4), value), "bias": torch.full((3,), -value)})
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        weight, bias = model.weight.detach().float(), model.bias.detach().float()
        assert float((weight - value).abs().max()) < 0.1 and float((bias + value).abs().max()) < 0.1


def test_a_checkpoint_keeps_the_master_weights() -> None:
    """torch.optim casts loaded state to the parameter's dtype: the master of a bfloat16 weight would lose 16 bits."""
    p = nn.Parameter(torch.linspace(1, 2, 12).reshape(3, 4).bfloat16())
    optimizer = fast.Adams([p], lr=1e-3, compile=False)
    for _ in range(3):
        p.grad = torch.linspace(-1, 1, 12).reshape(3, 4).bfloat16()
        optimizer.step()
    master = optimizer.state[p]["master_param"]
    assert master.dtype == torch.float32 and not torch.equal(master, master.bfloat16().float())
    other = fast.Adams([nn.Parameter(p.detach().clone())], compile=False)
    other.load_state_dict(optimizer.state_dict())
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


STORED = [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]


@pytest.mark.parametrize("saved", STORED, ids=str)
@pytest.mark.parametrize("loading", STORED, ids=str)
def test_a_checkpoint_goes_on_in_another_dtype(
    saved: tuple[torch.dtype, bool], loading: tuple[torch.dtype, bool]
) -> None:
    """With a master of its own where the saved run had none; the averages are taken over."""
    p = nn.Parameter(torch.linspace(1, 2, 12).reshape(3, 4).to(saved[0]))
    optimizer = fast.Adams([p], lr=1e-3, stochastic_rounding=saved[1], compile=False)
    p.grad = torch.linspace(-1, 1, 12).reshape(3, 4).to(saved[0])
    optimizer.step()
    q = nn.Parameter(p.detach().to(loading[0]))
    other = fast.Adams([q], stochastic_rounding=loading[1], compile=False)
    other.load_state_dict(optimizer.state_dict())
    one, two = optimizer.state[p], other.state[q]
    assert two["step"] == 1 and all(
        torch.equal(one[name], two[name]) for name in ("exp_avg", "exp_avg_sq", "u", "sigma")
    )
    assert ("master_param" in two) == (loading == (torch.bfloat16, False))
    if "master_param" in two:
        assert torch.equal(two["master_param"], one.get("master_param", q.detach().float()))
    before = q.detach().clone()
    for _ in range(20):
        q.grad = torch.ones_like(q)
        other.step()
    assert bool((q < before).all()) and float((before - q).detach().abs().max()) < 0.1


def test_a_warning_comes_before_the_decay_diverges() -> None:
    """lr weight_decay sqrt(M) = 2.4 > 2; at 1.8 nothing is said."""
    for lr, loud in ((0.8, True), (0.6, False)):
        p = nn.Parameter(torch.ones(9, 4))
        p.grad = torch.zeros_like(p)
        optimizer = fast.Adams([p], lr=lr, weight_decay=1.0, compile=False)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            optimizer.step()
        assert [w.category for w in heard] == [RuntimeWarning] * loud
        assert all("2.4 > 2" in str(w.message) for w in heard)


@pytest.mark.parametrize(("spectral", "vectors"), [(0.5, 0.0), (0.0, 0.5)])
def test_the_two_decays_are_independent(spectral: float, vectors: float) -> None:
    matrix, vector, exempt = (nn.Parameter(torch.ones(shape)) for shape in ((4, 3), (3,), (4, 3)))
    vars(exempt)["use_spectral_decay"] = False
    params = [matrix, vector, exempt]
    for p in params:
        p.grad = torch.zeros_like(p)
    options = {"weight_decay": spectral, "scalar_vector_weight_decay": vectors, "compile": False}
    fast.Adams(params, lr=0.1, **options).step()
    torch.testing.assert_close(matrix.detach(), torch.full((4, 3), 1 - 0.1 * spectral * 2))
    for p in (vector, exempt):
        torch.testing.assert_close(p.detach(), torch.full_like(p, 1 - 0.1 * vectors).detach())


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_write_that_nothing_counts_is_noticed(dtype: torch.dtype, compile: bool) -> None:
    """`.data` has a count of writes of its own: weights are clipped and adapters merged that way."""
    for write in (
        lambda p: p.data.clamp_(-0.01, 0.01),
        lambda p: p.data.add_(1),
        lambda p: p.data.zero_(),
        lambda p: p.data[0].copy_(torch.full_like(p.data[0], 2.0)),
    ):
        params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((70, 50), (40,))]
        optimizer = fast.Adams(
            params, lr=1e-4, weight_decay=0.0, scalar_vector_weight_decay=0.0, compile=compile, capturable=False
        )
        for i in range(6):
            for p in params:
                p.grad = torch.randn_like(p)
            if i == 4:
                for p in params:
                    write(p)
            before = [p.detach().float() for p in params]
            optimizer.step()
            for p, b in zip(params, before, strict=True):
                assert float((p.detach().float() - b).abs().max()) <= 0.02 * (1 + float(b.abs().max()))


def test_a_write_beyond_the_first_chunk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast.adams.master.CHUNK", 7)
    p = nn.Parameter(torch.ones(5, 4).bfloat16())
    optimizer = fast.Adams([p], weight_decay=0.0, compile=False)
    for value in (1.0, 5.0):
        p.data.fill_(value)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        assert bool((p == value).all()) and bool((optimizer.state[p]["master_param"] == value).all())


@pytest.mark.compiler
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("capturable", [False, True])
def test_a_half_weight_follows_writes_and_keeps_its_master_in_the_users_own_compile(capturable: bool) -> None:
    """A compiler leaves out a rounding that is followed by a comparison: the master would be lost in every step."""
    found = []
    for compiled in (False, True):
        generator = torch.Generator().manual_seed(0)
        param = nn.Parameter(torch.randn(12, 10, generator=generator).bfloat16())
        optimizer = fast.Adams([param], lr=torch.tensor(1e-4), compile=False, capturable=capturable)
        step = torch.compile(optimizer.step, fullgraph=False) if compiled else optimizer.step
        for i in range(5):
            param.grad = torch.randn(12, 10, generator=generator).bfloat16()
            if i == 3:
                param.data.mul_(0.5)
            step()
        found.append((param.detach().float(), optimizer.state[param]["master_param"]))
    assert not torch.equal(found[0][1], found[0][0])  # the steps are below half a spacing: there is a master
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_flattened_kernels_stay_flattened_when_a_checkpoint_is_loaded() -> None:
    kernels = [nn.Parameter(torch.ones(4, 3, 2, 2)) for _ in range(2)]
    first, second = (
        fast.Adams([kernel], lr=0.1, weight_decay=0.5, flatten_kernels=flatten, compile=False)
        for kernel, flatten in zip(kernels, (True, False), strict=True)
    )
    for kernel in kernels:
        kernel.grad = torch.full_like(kernel, 0.5)
    first.step()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        kernels[1].copy_(kernels[0])
    first.step()
    second.step()
    assert second.state[kernels[1]]["sigma"].shape == ()
    assert torch.equal(*kernels)


@pytest.mark.parametrize("capturable", [False, True])
def test_the_warning_names_the_users_line(capturable: bool) -> None:
    param = nn.Parameter(torch.ones(16, 2))
    param.grad = torch.ones_like(param)
    optimizer = fast.Adams([param], lr=1.0, weight_decay=1.0, compile=False, capturable=capturable)
    with pytest.warns(RuntimeWarning, match="will grow without bound") as seen:
        optimizer.step()
    assert [w.filename for w in seen] == [__file__]


def test_a_decay_that_comes_and_goes_as_released() -> None:
    """The package decays nothing where weight_decay is 0: each step asks anew."""
    params = parameters([(4, 3)], torch.float64)
    optimizer = fast.Adams(params, lr=0.1, weight_decay=0.0, as_released=True, compile=False)
    w = array(params[0])
    state = adams.init(w)
    for i, decay in enumerate((0.0, 0.0, 0.5, 0.5, 0.0, 0.0)):
        optimizer.param_groups[0]["weight_decay"] = decay
        (params[0].grad,) = gradients(params, i)
        optimizer.step()
        w, state = adams.step(w, array(params[0].grad), state, lr=0.1, weight_decay=decay, as_released=True)
        assert error(params[0], w) <= 1e-12, f"step {i + 1}"


@pytest.mark.parametrize("threads", [1, 3, 9])
def test_the_power_iteration_sums_over_all_rows_whatever_the_number_of_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    (w, u), found = parameters([(7, 4), (7,)], torch.float64), torch.empty(4, dtype=torch.float64)
    with torch.no_grad():
        _left_product(u, w, found)
        torch.testing.assert_close(found, w.mT @ u)
