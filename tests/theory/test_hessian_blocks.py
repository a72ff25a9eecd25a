"""M3: exact Hessians of two small networks, and how much of them lies in Algorithm 3's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from torch.func import functional_call

from reference.theory import hessian_blocks as hb
from reference.theory import small_nets
from reference.theory.intervals import mean_interval

STEPS = (0, 50, 200)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These tensors are tiny: threads only wait for each other, and for other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def trained(which: str) -> tuple[small_nets.Net, dict[int, small_nets.Weights]]:
    net = small_nets.digits_mlp() if which == "mlp" else small_nets.zen_transformer()
    return net, small_nets.train(net, STEPS)


@cache
def hessians(which: str) -> tuple[small_nets.Net, dict[int, np.ndarray]]:
    net, weights = trained(which)
    return net, {t: small_nets.hessian(net, w) for t, w in weights.items()}


def test_the_hessian_is_exact() -> None:
    """Against central differences of the gradient, along random directions."""
    net = small_nets.zen_transformer(width=4, context=6)
    flat = net.pack(net.init)
    h = small_nets.hessian(net, net.init)
    assert h.shape == (flat.numel(), flat.numel())
    np.testing.assert_array_equal(h, h.T)
    gradient = torch.func.grad(lambda x: net.loss(net.unpack(x)))
    for seed in range(3):
        e = torch.randn(flat.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        difference = (gradient(flat + 1e-6 * e) - gradient(flat - 1e-6 * e)) / 2e-6
        np.testing.assert_allclose(h @ e.numpy(), difference.numpy(), atol=2e-8)  # rounding / 1e-6, and (1e-6)^2


def test_the_mlp_is_torchs_own() -> None:
    net = small_nets.digits_mlp(hidden=6)
    module = torch.nn.Sequential(torch.nn.Linear(16, 6), torch.nn.Tanh(), torch.nn.Linear(6, 10)).double()
    renamed: dict[str, torch.Tensor] = dict(
        zip(("0.weight", "0.bias", "2.weight", "2.bias"), net.init.values(), strict=True)
    )
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.nn.functional.avg_pool2d(torch.tensor(images[:500]).reshape(-1, 1, 8, 8), 2).flatten(1) / 16
    loss = torch.nn.functional.cross_entropy(functional_call(module, renamed, x), torch.tensor(labels[:500]))
    assert float(net.loss(net.init)) == pytest.approx(float(loss), rel=1e-12)


def test_the_transformer_is_made_of_torchs_own_parts() -> None:
    """Against torch's causal attention, RMS norm and GELU, with 12 letters read for each 12 foretold."""
    net, f = small_nets.zen_transformer(), torch.nn.functional
    w = {name.removeprefix("model.").removeprefix("layers.0."): x for name, x in net.init.items()}
    text = small_nets.zen_of_python()
    letters = torch.tensor([sorted(set(text)).index(c) for c in text])
    n = (len(text) - 1) // 12 * 12
    read, foretold = letters[:n].reshape(-1, 12), letters[1 : n + 1]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.rms_norm(x, (8,), w[name + ".weight"], eps=1e-6)

    x = f.embedding(read, w["embed_tokens.weight"]) + w["embed_positions.weight"]
    h = norm(x, "input_layernorm")
    q, k, v = (f.linear(h, w[f"self_attn.{p}_proj.weight"]).reshape(-1, 12, 2, 4).transpose(1, 2) for p in "qkv")
    mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(-1, 12, 8)
    x = x + f.linear(mixed, w["self_attn.o_proj.weight"])
    h = f.gelu(f.linear(norm(x, "post_attention_layernorm"), w["mlp.up_proj.weight"]))
    x = x + f.linear(h, w["mlp.down_proj.weight"])
    loss = f.cross_entropy(f.linear(norm(x, "norm"), w["lm_head.weight"]).reshape(n, -1), foretold)
    assert float(net.loss(net.init)) == pytest.approx(float(loss), rel=1e-12)


def test_the_transformer_learns_its_text() -> None:
    text = small_nets.zen_of_python()
    assert text.startswith("the zen of python by tim peters beautiful is better than ugly")
    assert text.endswith("namespaces are one honking great idea let s do more of those")
    net, weights = trained("transformer")
    assert net.shapes["lm_head.weight"] == (len(set(text)), 8)
    assert torch.equal(net.pack(net.unpack(net.pack(net.init))), net.pack(net.init))
    start, end = (float(net.loss(weights[t])) for t in (0, 200))
    letters = np.unique(list(text), return_counts=True)[1] / len(text)
    assert start > -(letters * np.log(letters)).sum() > 2 * end  # far better than knowing how frequent each letter is


def test_attention_is_the_only_place_where_positions_meet() -> None:
    net, name = small_nets.zen_transformer(width=4, context=6), "model.embed_positions.weight"
    block = hb.grouping(net.shapes, "tensor") == list(net.shapes).index(name)
    silent = {**net.init, "model.layers.0.self_attn.v_proj.weight": torch.zeros(4, 4, dtype=torch.float64)}
    with_it, without = (
        small_nets.hessian(net, w)[np.ix_(block, block)].reshape(6, 4, 6, 4) for w in (net.init, silent)
    )
    for i in range(6):
        for j in range(i):
            assert np.abs(with_it[i, :, j]).max() > 1e-6
            assert np.abs(without[i, :, j]).max() < 1e-15


def test_measures_by_hand() -> None:
    h = np.array([[1.0, 2.0, 0.0], [2.0, 3.0, 1.0], [0.0, 1.0, 1.0]])
    group = np.array([0, 0, 1])
    assert hb.mass_share(h, group) == pytest.approx((1 + 4 + 4 + 9 + 1) / 21)
    assert hb.mass_share(h, group, power=1) == pytest.approx((1 + 2 + 2 + 3 + 1) / 11)
    assert hb.contrast(h, group) == pytest.approx(4 / (2 / 4))
    pairs = [hb.mass_share(h, np.array(g)) for g in ([0, 0, 1], [0, 1, 0], [1, 0, 0])]
    assert hb.chance_share(h, group) == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="at least two"):
        hb.contrast(h, np.arange(3))


def test_groupings_and_the_control() -> None:
    shapes = {"a": (2, 3), "b": (2,)}
    np.testing.assert_array_equal(hb.grouping(shapes, "tensor"), [0, 0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(hb.grouping(shapes, "rows"), [0, 0, 0, 1, 1, 1, 2, 3])
    np.testing.assert_array_equal(hb.grouping(shapes, "columns"), [0, 1, 2, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(hb.grouping(shapes, {"a": ("heads", 1), "b": "rows"}), [0, 0, 0, 0, 0, 0, 1, 2])
    net = small_nets.zen_transformer()
    table = hb.algorithm3(net)
    by = {name.split(".")[-2]: blocks for name, blocks in table.items()}
    assert all(by[part] == "rows" for part in ("embed_tokens", "embed_positions", "lm_head", "v_proj", "o_proj"))
    assert by["up_proj"] == by["down_proj"] == "rows"
    assert by["q_proj"] == by["k_proj"] == ("heads", 2)
    assert table["model.norm.weight"] == "tensor"
    group, tensors = hb.grouping(net.shapes, table), hb.grouping(net.shapes, "tensor")
    control = hb.shuffled(group, tensors, seed=1)
    np.testing.assert_array_equal(np.bincount(control), np.bincount(group))
    assert (control != group).mean() > 0.5
    assert all(set(control[tensors == b]) == set(group[tensors == b]) for b in range(tensors.max() + 1))


@pytest.mark.claim("M3")
@pytest.mark.parametrize("which", ["mlp", "transformer"])
def test_the_whole_hessian_is_not_nearly_block_diagonal(which: str) -> None:
    """Most of the squared norm lies outside Algorithm 3's blocks, at the start and along training."""
    net, found = hessians(which)
    group = hb.grouping(net.shapes, hb.algorithm3(net))
    for t, h in found.items():
        share = hb.mass_share(h, group)
        assert share < 0.4, (t, share)
        assert hb.mass_share(h, group, power=1) < 0.16, t
        between = hb.between_tensors(h, net.shapes)
        assert between.sum() == pytest.approx(1)
        assert 1 - np.trace(between) > 0.4, t  # even whole tensors leave this much between them


@pytest.mark.claim("M3")
@pytest.mark.parametrize("which", ["mlp", "transformer"])
def test_algorithm_3s_blocks_beat_every_control(which: str) -> None:
    """The blocks are no accident: chance, columns and 20 shuffles within the tensors all catch less."""
    net, found = hessians(which)
    group = hb.grouping(net.shapes, hb.algorithm3(net))
    tensors, columns = (hb.grouping(net.shapes, by) for by in ("tensor", "columns"))
    for t, h in found.items():
        share = hb.mass_share(h, group)
        shuffles = [hb.mass_share(h, hb.shuffled(group, tensors, seed)) for seed in range(20)]
        assert share > 1.4 * max(*shuffles, hb.chance_share(h, group), hb.mass_share(h, columns)), t
        assert hb.contrast(h, group) > 3.5, t


def within(net: small_nets.Net, w: small_nets.Weights, part: str) -> tuple[float, float, float]:
    """Of one tensor's own Hessian: the share in Algorithm 3's blocks, by chance, and in the columns."""
    (name,) = (name for name in net.shapes if name.split(".")[-2] == part)
    shape, h = {name: net.shapes[name]}, small_nets.hessian(net, w, tensor=name)
    group = hb.grouping(shape, {name: hb.algorithm3(net)[name]})
    return hb.mass_share(h, group), hb.chance_share(h, group), hb.mass_share(h, hb.grouping(shape, "columns"))


def output_shares(seeds: range) -> np.ndarray:
    """(seeds, 2): the output layer's share before training and after 200 steps, held against chance and the columns."""
    shares = []
    for seed in seeds:
        net = small_nets.zen_transformer(seed=seed)
        found = [within(net, w, "lm_head") for w in small_nets.train(net, (0, 200)).values()]
        assert all(share > max(chance, columns) + 0.15 for share, chance, columns in found), (seed, found)
        shares.append([share for share, _, _ in found])
    return np.array(shares)


@pytest.mark.claim("M3")
def test_the_shares_of_query_and_key_are_of_two_heads() -> None:
    """The ledger once named no heads. With one, query and key are one block each, and nothing lies outside."""
    for part in ("q_proj", "k_proj"):
        one, two = (small_nets.zen_transformer(heads=heads, seed=47) for heads in (1, 2))
        assert within(one, one.init, part)[0] == pytest.approx(1, abs=1e-12) and within(two, two.init, part)[0] < 0.999


@pytest.mark.claim("M3")
def test_only_the_output_layer_is_block_diagonal_from_every_start() -> None:
    """The condition: one tensor at a time, and the output layer. The others' shares are the starting weights' luck."""
    shares = output_shares(range(40, 43))
    assert shares.min() > 0.82 and shares.max() < 0.97
    low = output_shares(range(807, 810))  # two of 30 fresh starts end below the 85 % that the ledger once named
    assert low[:, 0].min() > 0.9 and 0.81 < low[:, 1].min() < 0.845
    nets = [small_nets.zen_transformer(seed=seed) for seed in range(40, 48)]
    first = {p: np.array([within(n, n.init, p) for n in nets]) for p in ("embed_positions", "v_proj", "o_proj")}
    assert first["embed_positions"][:, 0].min() < 0.74  # the least at seed 0, once taken for the least of all
    # beyond the 77 to 100 % and 65 to 99 % that the ledger once gave for the bounds of key and query
    assert within(nets[7], nets[7].init, "k_proj")[0] < 0.76
    lucky = small_nets.zen_transformer(seed=6008)
    assert within(lucky, lucky.init, "q_proj")[0] > 0.993
    # and below the 65 and 74 % that it gave next, as what had been seen
    unlucky = small_nets.zen_transformer(seed=5022)
    assert within(unlucky, unlucky.init, "q_proj")[0] < 0.56 and within(unlucky, unlucky.init, "k_proj")[0] < 0.64
    for part in ("v_proj", "o_proj"):
        assert first[part][:, 0].max() < 0.7 and (first[part][:, 2] > first[part][:, 0]).any()


@pytest.mark.slow
@pytest.mark.claim("M3")
@pytest.mark.parametrize("first", range(200, 260, 6))
def test_the_output_layer_holds_on_ten_fresh_seed_sets(first: int) -> None:
    for shares in output_shares(range(first, first + 6)).T:
        middle, low, high = mean_interval(shares)
        assert 0.82 < low < middle < high < 0.97


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_one_tensors_hessian_is_its_part_of_the_whole(name: str) -> None:
    net = small_nets.zen_transformer(width=4, context=6)
    place = hb.grouping(net.shapes, "tensor") == list(net.shapes).index(name)
    whole = small_nets.hessian(net, net.init)[np.ix_(place, place)]
    np.testing.assert_allclose(small_nets.hessian(net, net.init, tensor=name), whole, rtol=0, atol=1e-14)


@pytest.mark.claim("M3")
@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_output_layer_by_rows_holds_one_minus_one_over_classes(classes: int) -> None:
    """Proved for uniform predictions, and met by the exact Hessian: nearly block-diagonal with many classes."""
    share, c = hb.output_rows_share()
    assert (share - (1 - 1 / c)).simplify() == 0
    net = small_nets.digits_mlp(hidden=5, classes=classes)
    uniform = {name: w if name.startswith("hidden") else 0 * w for name, w in net.init.items()}
    own = hb.within_tensor(small_nets.hessian(net, uniform), net.shapes, hb.algorithm3(net), "output.weight")
    assert own.share == pytest.approx(1 - 1 / classes, abs=1e-12)


@pytest.mark.slow
@pytest.mark.claim("M3")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("which", ["mlp 8", "mlp 32", "transformer 8", "transformer 12"])
def test_other_sizes_and_seeds_say_the_same(which: str, seed: int) -> None:
    kind, size = which.split()
    make = {
        "mlp": lambda: small_nets.digits_mlp(int(size), seed=seed),
        "transformer": lambda: small_nets.zen_transformer(int(size), seed=seed),
    }
    net = make[kind]()
    group = hb.grouping(net.shapes, hb.algorithm3(net))
    for t, w in small_nets.train(net, (0, 50, 300)).items():
        h = small_nets.hessian(net, w)
        share = hb.mass_share(h, group)
        assert share < 0.6, (t, share)
        assert share > 1.25 * hb.chance_share(h, group), t
        assert hb.contrast(h, group) > 2, t


@pytest.mark.claim("M3")
def test_one_hidden_unit_passes_sixty_per_cent() -> None:
    """The ledger once said "below 60 % at other sizes": the block of one unit is its whole layer."""
    net = small_nets.digits_mlp(1, seed=1)
    group = hb.grouping(net.shapes, hb.algorithm3(net))
    (w,) = small_nets.train(net, (300,)).values()
    assert hb.mass_share(small_nets.hessian(net, w), group) > 0.6


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 to 10"):
        small_nets.digits_mlp(classes=11)
    with pytest.raises(ValueError, match="multiple of heads"):
        small_nets.zen_transformer(width=7)
    with pytest.raises(ValueError, match="no tensor"):
        hb.within_tensor(np.eye(2), {"a": (2,)}, {"a": "rows"}, "b")
