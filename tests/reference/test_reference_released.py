"""The released packages beside the reference: where they agree, and by how much they differ where not.

grams-pytorch 0.0.2 and adams-torch 0.0.1, as PyPI has them: the numbers here are measured on them.
"""

from __future__ import annotations

from math import atan2, pi, sqrt
from typing import Any

import adams as released_adams
import grams as released_grams
import numpy as np
import pytest
import torch
from adams import adams_zero
from shelf import parameter, reference_run, released_run

from reference import adams, grams

# ---------------------------------------------------------------------------------------------- grams-pytorch


def test_the_released_grams_adds_eps_before_the_bias_correction():
    """At g = eps = 1e-6 the paper's first step is lr / 2, the package's sqrt(1 - beta2) / (1 + sqrt(1 - beta2)) lr."""
    w, g = np.zeros(1), np.array([1e-6])
    p = parameter(w)
    theirs = released_run(released_grams.Grams([p], lr=1.0, betas=(0.9, 0.999), eps=1e-6), p, [g])
    ours = reference_run(grams, w, [g], lr=1.0, beta1=0.9, beta2=0.999, eps=1e-6)
    assert ours.item() == pytest.approx(-0.5, rel=1e-9)
    assert theirs.item() == pytest.approx(-sqrt(0.001) / (1 + sqrt(0.001)), rel=1e-9)
    assert round(-theirs.item(), 3) == 0.031


def test_the_released_grams_is_the_paper_for_eps_zero_but_for_the_place_of_the_decay():
    rng = np.random.default_rng(0)
    w, gs = rng.standard_normal(30), [rng.standard_normal(30) for _ in range(100)]
    kwargs: dict[str, Any] = {"lr": 0.02, "eps": 0.0}
    p = parameter(w)
    theirs = released_run(released_grams.Grams([p], betas=(0.8, 0.95), **kwargs), p, gs)
    ours = reference_run(grams, w, gs, beta1=0.8, beta2=0.95, **kwargs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)

    p = parameter(w)  # with decay, one step: ours less theirs is lr^2 gamma uhat, and uhat = sign(g) at t = 1
    theirs = released_run(released_grams.Grams([p], betas=(0.8, 0.95), weight_decay=0.3, **kwargs), p, gs[:1])
    ours = reference_run(grams, w, gs[:1], beta1=0.8, beta2=0.95, weight_decay=0.3, **kwargs)
    np.testing.assert_allclose(ours - theirs, 0.02**2 * 0.3 * np.sign(gs[0]), rtol=1e-9)


def test_the_released_grams_overwrites_the_gradient():
    p = parameter([1.0, 2.0])
    p.grad = torch.tensor([3.0, -4.0], dtype=torch.float64)
    released_grams.Grams([p], lr=0.1).step()
    assert p.grad.tolist() == pytest.approx([0.3, -0.4])  # sign(g) |m|, which a logger of gradients would read


def test_the_released_grams_cannot_run_a_closure_that_calls_backward():
    p = parameter([1.0])
    optimizer = released_grams.Grams([p], lr=0.1)

    def closure() -> torch.Tensor:
        loss = (p**2).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="does not require grad"):
        optimizer.step(closure)


# ---------------------------------------------------------------------------------------------- adams-torch


def released_adams_optimizer(params: list[torch.nn.Parameter], master: torch.dtype, **kwargs: Any) -> Any:
    with pytest.warns(UserWarning, match="single-process mode"):
        return released_adams.Adams_ZeRO(params, master_dtype=master, **kwargs)


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 5), (2, 3, 3, 2), (7,), (5, 1), (1, 5)], ids=str)
@pytest.mark.parametrize("spectral", [True, False])
@pytest.mark.parametrize("weight_decay", [0.3, 0.0])
def test_the_released_adams_is_our_as_released_form(shape, spectral, weight_decay):
    rng = np.random.default_rng(1)
    w, gs = rng.standard_normal(shape), [rng.standard_normal(shape) for _ in range(50)]
    p = parameter(w)
    vars(p)["use_spectral_decay"] = spectral
    kwargs: dict[str, Any] = {"lr": 0.01, "weight_decay": weight_decay, "scalar_vector_weight_decay": 0.2}
    optimizer = released_adams_optimizer([p], torch.float64, betas=(0.9, 0.95), **kwargs)
    # the package's step count is float32, and so are its bias corrections: 6e-8 relative to each step
    theirs = released_run(optimizer, p, gs)
    ours = reference_run(adams, w, gs, beta1=0.9, beta2=0.95, use_spectral_decay=spectral, as_released=True, **kwargs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_first_step_of_the_released_adams_is_0997_gamma_where_the_picture_has_a_quarter_of_pi():
    w, g = np.zeros(1), np.array([3.0])
    p = parameter(w)
    optimizer = released_adams_optimizer([p], torch.float64, lr=1.0, betas=(0.9, 0.95))
    theirs = -released_run(optimizer, p, [g]).item()
    ours = -reference_run(adams, w, [g], lr=1.0, beta1=0.9, beta2=0.95).item()
    assert theirs == pytest.approx(10 * atan2(0.1, 1), rel=1e-6)
    assert round(theirs, 3) == 0.997
    assert ours == pytest.approx(pi / 4, rel=1e-12)


def test_a_matrix_that_was_zero_is_never_decayed_again_by_the_released_adams():
    """Nor by lines 6-7 as written; with `reseed` it is, one step later."""
    p = parameter(np.zeros((3, 4)))
    optimizer = released_adams_optimizer([p], torch.float64, lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    zero = np.zeros((3, 4))
    w, plain, mended = zero, adams.init(zero), adams.init(zero)
    for _ in range(2):
        w_plain, plain = adams.step(w, zero, plain, lr=0.1, weight_decay=0.5)
        w_mended, mended = adams.step(w, zero, mended, lr=0.1, weight_decay=0.5, reseed=True)
        released_run(optimizer, p, [zero])
        assert not w_plain.any() and not w_mended.any() and not p.any()
    assert not optimizer.state[p]["u"].any() and not plain.u.any() and (mended.u == 1).all()

    grown = np.ones((3, 4))  # now it has grown, and nothing but the decay moves it
    with torch.no_grad():
        optimizer.state[p]["master_param"].fill_(1.0)
        p.fill_(1.0)
    theirs = released_run(optimizer, p, [zero] * 5)
    assert np.array_equal(theirs, grown)
    assert np.array_equal(reference_run_from(plain, grown, 5), grown)
    np.testing.assert_allclose(reference_run_from(mended, grown, 5, reseed=True), (1 - 0.05 * sqrt(3)) ** 5, rtol=1e-12)


def reference_run_from(state: Any, w: np.ndarray, steps: int, **kwargs: Any) -> np.ndarray:
    for _ in range(steps):
        w, state = adams.step(w, 0 * w, state, lr=0.1, weight_decay=0.5, **kwargs)
    return w


def test_the_released_adams_skips_the_scalar_decay_where_the_spectral_one_is_zero():
    w, zero = np.array([1.0, 2.0]), np.zeros(2)
    p = parameter(w)
    kwargs: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.0, "scalar_vector_weight_decay": 0.5}
    theirs = released_run(released_adams_optimizer([p], torch.float64, **kwargs), p, [zero])
    assert np.array_equal(theirs, w)
    np.testing.assert_allclose(reference_run(adams, w, [zero], **kwargs), 0.95 * w, rtol=1e-15)
    assert np.array_equal(reference_run(adams, w, [zero], **kwargs, as_released=True), w)


def test_the_released_adams_takes_line_6_from_the_rounded_weight():
    """Its update, with a bf16-rounded weight beside a float32 master: sigma is off by bf16's rounding."""
    rng = np.random.default_rng(2)
    master = torch.tensor(rng.standard_normal((16, 16)), dtype=torch.float32)
    sigma, param = torch.zeros(()), master.to(torch.bfloat16).float()  # the model's copy, of which line 6 is taken
    adams_zero._adams_zero_distributed(
        param=param, grad=torch.zeros(16, 16), master_param=master.clone().view(-1), exp_avg=torch.zeros(256),
        exp_avg_sq=torch.zeros(256), u=torch.ones(16), sigma=sigma, step=torch.tensor(0.0), lr=torch.tensor(0.0),
        betas=(0.9, 0.95), weight_decay=0.1, scalar_vector_weight_decay=0.1, rank=0, world_size=1, process_group=None,
    )  # fmt: skip
    w = master.double().numpy()
    _, state = adams.step(w, 0 * w, adams.init(w), lr=0.0)
    assert 1e-5 < abs(sigma.item() / state.sigma - 1) < 2**-8


def test_the_released_adams_crashes_on_bf16_parameters():
    p = parameter(np.ones((3, 4)), torch.bfloat16)
    optimizer = released_adams_optimizer([p], torch.float32, lr=0.1)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="dtype"):
        optimizer.step()


def test_neither_warns_where_the_spectral_decay_diverges():
    """lr lambda sqrt(M) = 2.4 > 2: the largest singular value grows by |1 - 2.4| = 1.4 a step."""
    w = np.ones((9, 4))
    p = parameter(w)
    optimizer = released_adams_optimizer([p], torch.float64, lr=0.8, weight_decay=1.0)
    theirs = released_run(optimizer, p, [0 * w] * 20)
    ours = reference_run(adams, w, [0 * w] * 20, lr=0.8, weight_decay=1.0)
    np.testing.assert_allclose(ours, 1.4**20, rtol=1e-12)
    np.testing.assert_allclose(theirs, ours, rtol=1e-12)
