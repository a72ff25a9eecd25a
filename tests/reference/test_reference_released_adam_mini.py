"""The released adam-mini 1.1.1 beside the reference: where they agree, and by how much they differ where not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import adam_mini as released_adam_mini
import numpy as np
import pytest
import torch
from shelf import parameter, reference_run, released_run

from reference import adam, adam_mini
from reference.adam_mini_partition import partition

LLAMA = {
    "model.embed_tokens.weight": (11, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.norm.weight": (8,),
    "lm_head.weight": (11, 8),
}


def both_adam_minis(
    shapes: Mapping[str, tuple[int, ...]], *, steps: int = 30, weight_decay: float = 0.0, **sizes: Any
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (the package's parameter, ours) after `steps` random gradients; ours by `partition`."""
    rng = np.random.default_rng(4)
    start = {n: rng.standard_normal(s) for n, s in shapes.items()}
    gradients = {n: [rng.standard_normal(s) for _ in range(steps)] for n, s in shapes.items()}
    params = {n: parameter(w) for n, w in start.items()}
    kwargs: dict[str, Any] = {"lr": 0.01, "eps": 1e-6, "weight_decay": weight_decay}
    optimizer = released_adam_mini.Adam_mini(params.items(), betas=(0.9, 0.95), verbose=False, **kwargs, **sizes)
    for t in range(steps):
        for n, p in params.items():
            p.grad = torch.tensor(gradients[n][t])
        optimizer.step()
    table = partition(shapes, heads=sizes["n_heads"], kv_heads=sizes.get("n_kv_heads"))
    out = {}
    for n, w in start.items():
        ours = reference_run(adam_mini, w, gradients[n], beta1=0.9, beta2=0.95, blocks=table[n], **kwargs)
        out[n] = (params[n].detach().numpy(), ours)
    return out


def test_the_released_adam_mini_agrees_on_a_llama():
    for name, (theirs, ours) in both_adam_minis(LLAMA, dim=8, n_heads=4, n_kv_heads=2).items():
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12, err_msg=name)


def test_the_released_adam_mini_takes_the_decay_from_names_with_ln_norm_or_bias():
    both = both_adam_minis(LLAMA, dim=8, n_heads=4, n_kv_heads=2, weight_decay=0.5)
    differing = {name for name, (theirs, ours) in both.items() if not np.allclose(theirs, ours, rtol=1e-12, atol=1e-12)}
    assert differing == {"model.layers.0.input_layernorm.weight", "model.norm.weight"}
    rng = np.random.default_rng(0)
    w, zero = rng.standard_normal((6, 8)), np.zeros((6, 8))
    p = parameter(w)
    kwargs: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.5}
    named = [("layers.0.mlp.kiln.weight", p)]
    theirs = released_run(released_adam_mini.Adam_mini(named, verbose=False, **kwargs), p, [zero])
    assert np.array_equal(theirs, w)  # "kiln" contains "ln"
    np.testing.assert_allclose(reference_run(adam_mini, w, [zero], **kwargs, blocks="rows"), 0.95 * w, rtol=1e-15)


def test_the_released_adam_mini_gives_biases_a_full_adam():
    rng = np.random.default_rng(5)
    w, gs = rng.standard_normal(8), [rng.standard_normal(8) for _ in range(20)]
    p = parameter(w)
    named = [("layers.0.self_attn.q_proj.bias", p)]
    optimizer = released_adam_mini.Adam_mini(named, lr=0.01, eps=1e-8, dim=8, n_heads=2, verbose=False)
    theirs = released_run(optimizer, p, gs)
    np.testing.assert_allclose(reference_run(adam, w, gs, lr=0.01), theirs, rtol=1e-12, atol=1e-12)
    ours = reference_run(adam_mini, w, gs, lr=0.01, blocks=("heads", 2))
    assert np.abs(ours - theirs).max() > 0.01  # more than one lr in 20 steps
    assert optimizer.state[p]["v"].shape == (8,)


def test_the_released_adam_mini_miscounts_heads_where_their_width_is_not_dim_over_heads():
    """dim 8, 2 heads of width 8 (q_proj 16 x 8): the package takes dim dim / heads = 32 entries for a head: 4 heads."""
    p = parameter(np.ones((16, 8)))
    optimizer = released_adam_mini.Adam_mini([("q_proj.weight", p)], lr=0.01, dim=8, n_heads=2, verbose=False)
    released_run(optimizer, p, [np.ones((16, 8))])
    assert optimizer.state[p]["vmean"].numel() == 4
    blocks = partition({"q_proj.weight": (16, 8)}, heads=2)["q_proj.weight"]
    _, state = adam_mini.step(
        np.ones((16, 8)), np.ones((16, 8)), adam_mini.init(np.ones((16, 8))), lr=0.01, blocks=blocks
    )
    assert state.v.shape == (2,)


def test_a_bf16_v_of_the_released_adam_mini_never_decays():
    """0.999 v rounds back to v in bf16: a thousand steps without a gradient leave it, where float64 has 0.37 of it."""
    p = parameter(np.ones((2, 4)), torch.bfloat16)
    optimizer = released_adam_mini.Adam_mini([("mlp.weight", p)], lr=0.0, betas=(0.9, 0.999), verbose=False)
    released_run(optimizer, p, [np.full((2, 4), 100.0)])
    first = optimizer.state[p]["vmean"].clone()
    released_run(optimizer, p, [np.zeros((2, 4))] * 1000)
    assert torch.equal(optimizer.state[p]["vmean"], first)

    w = np.ones((2, 4))
    _, state = adam_mini.step(w, 100 * w, adam_mini.init(w), lr=0.0, blocks="rows")
    start = state.v
    for _ in range(1000):
        _, state = adam_mini.step(w, 0 * w, state, lr=0.0, blocks="rows")
    np.testing.assert_allclose(state.v / start, 0.999**1000, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "shape"), [("network.2.norm_free", (5,)), ("wolf.scale", (3,)), ("mlp.conv", (4, 3, 2, 2))]
)
def test_the_released_adam_mini_fails_on_names_that_contain_its_key_words(name, shape):
    """ "wo" is in "network": it takes rows where there are none. A 4-D tensor it cannot view as neurons."""
    p = parameter(np.ones(shape))
    optimizer = released_adam_mini.Adam_mini([(name, p)], lr=0.1, verbose=False)
    p.grad = torch.ones_like(p)
    with pytest.raises((IndexError, RuntimeError)):
        optimizer.step()
    blocks = partition({name: shape}, heads=2)[name]
    assert blocks == "tensor"  # Algorithm 3's last line
    assert np.isfinite(reference_run(adam_mini, np.ones(shape), [np.ones(shape)], lr=0.1, blocks=blocks)).all()
