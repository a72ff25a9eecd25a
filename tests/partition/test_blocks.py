"""Adam-mini's blocks as data: each case against block numbers made here by plain loops over the blocks' lengths."""

from __future__ import annotations

import pickle

import pytest
import torch
from blocks_by_hand import holds

from fast.partition.blocks import KINDS, Blocks

CASES = {
    "tensor": (Blocks((3, 4)), None, [12], 0),
    "scalar": (Blocks(()), None, [1], 0),
    "rows": (Blocks.along((5, 3), 0), 0, [1] * 5, 0),
    "columns": (Blocks.along((5, 3), 1, "columns"), 1, [1] * 3, 0),
    "positions": (Blocks.along((1, 6, 2), -2), 1, [1] * 6, 0),
    "heads": (Blocks.heads((6, 4), 2), 0, [3, 3], 0),
    "heads of columns": (Blocks.heads((4, 6), 3, axis=1), 1, [2, 2, 2], 0),
    "experts": (Blocks.along((2, 3, 4), 1, batch=1), 1, [1] * 3, 1),
    "experts transposed": (Blocks.along((2, 3, 4), 2, "columns", batch=1), 2, [1] * 4, 1),
    "[q|k|v]": (Blocks((12, 2), "fused", 0, ((2, 2), (2, 2), (4, 1))), 0, [2, 2, 2, 2, 1, 1, 1, 1], 0),
    "[q|k|v] by column": (Blocks((2, 8), "fused", 1, ((2, 2), (1, 2), (2, 1))), 1, [2, 2, 2, 1, 1], 0),
    "[head][q|k|v]": (Blocks((12, 2), "fused", 0, ((2, 2), (2, 1)), 2), 0, [2, 2, 1, 1] * 2, 0),
    "batch of [head][q|k|v]": (Blocks((2, 12, 2), "fused", 1, ((1, 4), (2, 1)), 2, 1), 1, [4, 1, 1] * 2, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_block_numbers_are_those_counted_by_hand(name):
    blocks, axis, lengths, batch = CASES[name]
    holds(blocks, axis, lengths, batch)
    assert blocks.state_bytes == 4 * blocks.count
    assert torch.Size(blocks.state_shape).numel() == blocks.count


@pytest.mark.parametrize("name", CASES)
def test_mean_of_squares_and_spread_are_those_of_the_block_numbers(name):
    blocks, *_ = CASES[name]
    x = torch.randn(blocks.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([x[blocks.ids() == block].square().mean() for block in range(blocks.count)])
    got = blocks.mean_of_squares(x)
    assert got.shape == blocks.state_shape
    # A mean of means against one mean: the order of summation differs, so a few ulps.
    torch.testing.assert_close(got.flatten(), by_hand, rtol=1e-14, atol=0)
    assert torch.equal(blocks.spread(got).expand(blocks.shape), got.flatten()[blocks.ids()])


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_plain_data(name, tmp_path):
    blocks, *_ = CASES[name]
    plain = blocks.to_plain()
    torch.save({"blocks": plain}, tmp_path / "blocks.pt")
    assert Blocks.from_plain(torch.load(tmp_path / "blocks.pt", weights_only=True)["blocks"]) == blocks
    assert Blocks.from_plain(pickle.loads(pickle.dumps(plain))) == blocks
    assert Blocks.from_plain([list(part) if isinstance(part, tuple) else part for part in plain]) == blocks


def test_equal_partitions_are_spelled_alike():
    rows = Blocks((4, 2), "rows", 0, ((1, 1), (3, 1)))
    assert rows == Blocks((4, 2), "rows", 0, ((2, 1),), 2) == Blocks.along((4, 2), 0)
    assert rows.uniform == (4, 1)
    assert Blocks((4, 2), "fused", 0, ((1, 2), (2, 1))).uniform is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (((4, 2), "row", 0, ((4, 1),)), "expected one of " + ", ".join(KINDS)),
        (((4, 2), "rows", 0, ((3, 1),)), "cover 3 indices of axis 0, which has 4"),
        (((4, 2), "rows", 2, ((4, 1),)), "axis 2"),
        (((4, 2), "rows", 0, ((4, 1),), 1, 1), "after 1 batch axes"),
        (((4, 2), "heads", 0, ((-4, -1),)), "at least 1"),
        (((4, 2), "rows"), "needs an axis"),
        (((4, 2), "tensor", 0, ((4, 1),)), "takes no axis"),
    ],
)
def test_impossible_blocks_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Blocks(*fields)


def test_plain_data_that_lost_its_empty_tuples_is_taken():
    """torch.distributed.checkpoint gives them back as None: of a number that stands alone the shape, too."""
    assert Blocks.from_plain(("tensor", None, None, None, 1, 0)) == Blocks(())
    assert Blocks.from_plain(("tensor", [3, 2], None, None, 1, 0)) == Blocks((3, 2))


def test_tensors_of_another_shape_are_refused():
    blocks = Blocks.along((4, 2), 0)
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(4, 2\), got \(2, 4\)"):
        blocks.mean_of_squares(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(4,\), got \(2,\)"):
        blocks.spread(torch.ones(2))
