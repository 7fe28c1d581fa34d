"""The lists of tiles against every pair of a mask: none that is alive is missing."""

import random

import pytest
import torch

from genlab.kernel.mask import MaskSpec
from genlab.kernel.tiles import BLOCK, tiles
from tests.helpers.masks import KINDS, random_mask

CPU = torch.device("cpu")
BLOCKS = (4, 8, 16)


def dense_tiles(mask, block):
    """(any, all) of the pairs of every tile, bool [R, nQ, nK]; not all where keys are lacking."""
    allowed = mask.dense()
    rows, columns = (range(0, n, block) for n in (mask.queries, mask.keys))
    some, every = [], []
    for i in rows:
        for j in columns:
            tile = allowed[:, i : i + block, j : j + block].flatten(1)
            some.append(tile.any(1))
            every.append(tile.all(1) & (j + block <= mask.keys))
    shape = (len(allowed), len(rows), len(columns))
    return torch.stack(some, 1).view(shape), torch.stack(every, 1).view(shape)


def listed(rows, other):
    """Lists [R, n, 2 + m] -> (full, live) bool [R, n, m], with every block once, in order."""
    assert rows.dtype == torch.int32 and rows.is_contiguous() and rows.shape[2] == 2 + other
    full, live = (torch.zeros(*rows.shape[:2], other, dtype=torch.bool) for _ in range(2))
    for r, lists in enumerate(rows.tolist()):
        for n, (whole, alive, *blocks) in enumerate(lists):
            assert sorted(blocks) == list(range(other))
            assert 0 <= whole <= alive <= other
            for part in (blocks[:whole], blocks[whole:alive]):
                assert part == sorted(part), "in order, so that memory is read in order"
            full[r, n, blocks[:whole]] = True
            live[r, n, blocks[:alive]] = True
    return full, live


def check(mask, block):
    some, every = dense_tiles(mask, block)
    lists = tiles(mask, CPU, block)
    assert lists.block == block
    full, live = listed(lists.k, some.shape[2])
    assert not (some & ~live).any(), "a tile with pairs is missing"
    assert not (full & ~every).any(), "a tile called full hides pairs, or has keys that are none"
    for mine, theirs in zip(listed(lists.q, some.shape[1]), (full, live), strict=True):
        assert torch.equal(mine.mT, theirs), "the two lists differ"
    return (live & ~some).sum().item(), (every & ~full).sum().item()


@pytest.mark.parametrize("block", BLOCKS)
def test_no_tile_is_missing_from_random_masks(block):
    rng = random.Random(block)
    torch.manual_seed(block)
    for _ in range(300):
        check(random_mask(rng), block)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("mask", KINDS.values(), ids=KINDS)
def test_no_tile_is_missing(mask, block):
    check(mask, block)


@pytest.mark.parametrize(
    "kind",
    [
        "bidirectional",
        "causal",
        "causal, more queries",
        "prefix",
        "block-causal",
        "window",
        "memory",
    ],
)
def test_ordered_masks_visit_no_tile_in_vain(kind):
    """Bounds decide exactly where ranks rise along the sequence."""
    assert check(KINDS[kind], 8) == (0, 0)


def test_lists_are_made_once_for_a_device_and_a_block():
    mask = MaskSpec.causal(300)
    assert tiles(mask, CPU) is tiles(mask, CPU)
    assert tiles(mask, CPU).block == BLOCK and tiles(mask, CPU, 64).block == 64
    assert tiles(mask, CPU).k.tolist() == [[[0, 1, 0, 1, 2], [1, 2, 0, 1, 2], [2, 3, 0, 1, 2]]]
