"""Exactness: Adam and AdamW against torch.optim, and the two places of Grams' decay against each other."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import torch
from shelf import RULES, draws, run

# ---------------------------------------------------------------------------------------------- torch.optim


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.37, 0.61), (0.0, 0.9), (0.99, 0.95)], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.13])
@pytest.mark.parametrize(("name", "optimizer"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_and_adamw_are_those_of_torch(name, optimizer, betas, weight_decay):
    w, gs = draws((5, 7), 200, seed=1)
    gs[40] = np.zeros_like(w)
    out, state = run(RULES[name], w, gs, lr=0.021, beta1=betas[0], beta2=betas[1], eps=3e-7, weight_decay=weight_decay)
    param = torch.nn.Parameter(torch.tensor(w))
    opt = optimizer([param], lr=0.021, betas=betas, eps=3e-7, weight_decay=weight_decay, amsgrad=False)
    for g in gs:
        param.grad = torch.tensor(g)
        opt.step()
    np.testing.assert_allclose(out, param.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.m, opt.state[param]["exp_avg"].numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.v, opt.state[param]["exp_avg_sq"].numpy(), rtol=1e-12, atol=1e-12)
    assert state.t == opt.state[param]["step"] == 200


# ---------------------------------------------------------------------------------------------- where the decay stands


def test_grams_decay_after_and_before_the_update_differ_by_lr2_gamma_uhat_symbolically():
    w, g, m, v = (sp.Symbol(s, real=True) for s in "wgmv")
    lr, gamma, b1, b2, eps = sp.symbols("lr gamma beta1 beta2 eps", positive=True)
    rule = RULES["grams"]
    state = rule.init(w)._replace(t=6, m=m, v=v)
    kwargs = {"lr": lr, "beta1": b1, "beta2": b2, "eps": eps}
    after, _ = rule.step(w, g, state, weight_decay=gamma, **kwargs)
    undecayed, _ = rule.step(w, g, state, weight_decay=0, **kwargs)
    uhat = (w - undecayed) / lr
    before, _ = rule.step(w - lr * gamma * w, g, state, weight_decay=0, **kwargs)
    assert sp.simplify(after - before - lr**2 * gamma * uhat) == 0
    assert sp.simplify(after - before) != 0


def test_grams_decay_after_and_before_the_update_differ_by_lr2_gamma_uhat_in_numbers():
    # uhat = 0.8 (hand-computed below): after (1 - 0.08) 0.95 = 0.874, before 0.95 - 0.08 = 0.87, 0.1^2 0.5 0.8 = 0.004
    one, four, rule = np.array(1.0), np.array(4.0), RULES["grams"]
    kwargs = {"lr": 0.1, "beta1": 0.5, "beta2": 0.25, "eps": 1.0}
    after, _ = rule.step(one, four, rule.init(one), weight_decay=0.5, **kwargs)
    before, _ = rule.step(one * (1 - 0.1 * 0.5), four, rule.init(one), **kwargs)
    assert after == pytest.approx(0.874, abs=1e-15)
    assert before == pytest.approx(0.87, abs=1e-15)
    assert after - before == pytest.approx(0.004, abs=1e-15)
