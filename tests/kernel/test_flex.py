"""FlexAttention behind the mask specification: results on a CPU, and the tiles it is given."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from genlab.core.errors import DeviceError
from genlab.kernel import flex
from genlab.kernel.backend import Arguments
from genlab.kernel.mask import MaskSpec
from genlab.nn.attention import attention
from tests.helpers.dense_attention import assert_right, dense, tokens
from tests.helpers.masks import MASKS

SCALE, BLOCK = 0.4, 8
IN_ORDER = ["causal", "causal, square", "prefix", "window", "packed, bidirectional"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def several(monkeypatch):
    """Tiles of 8 x 8, so that there are several, and no graph of another test."""
    monkeypatch.setattr(flex, "BLOCK", BLOCK)
    torch._dynamo.reset()


def assert_flex(mask):
    def attend(q, k, v, lse):
        out, sums = flex.attend(q, k, v, Arguments(mask, SCALE, lse=lse))
        assert (sums is not None) == lse
        return out, sums

    assert_right(attend, mask, scale=SCALE, backward=False)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_results(mask, monkeypatch):
    """Of the functions that would be compiled, which takes a second for each kind of mask."""
    monkeypatch.setattr(
        torch.nn.attention.flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True
    )
    monkeypatch.setattr(flex, "_compiled", lambda device: flex.flex_attention)
    assert_flex(mask)


@pytest.mark.parametrize("kind", ["full", "causal, square", "prefix", "alibi, window"])
def test_compiled_results(kind):
    assert_flex(MASKS[kind])


def kinds(block_mask, rows):
    """[R, nQ, nK]: 0 where a tile is not listed, 1 listed in part, 2 in full."""
    found = torch.zeros(rows, *block_mask.kv_indices.shape[2:], dtype=torch.int64)
    lists = [(block_mask.kv_num_blocks, block_mask.kv_indices, 1)]
    lists.append((block_mask.full_kv_num_blocks, block_mask.full_kv_indices, 2))
    for counts, indices, kind in lists:
        for r in range(rows):
            for i in range(found.shape[1]):
                for j in indices[r, 0, i, : counts[r, 0, i]].tolist():
                    assert found[r, i, j] == 0, "a tile is listed twice"
                    found[r, i, j] = kind
    return found


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_block_mask_lists_every_tile(mask):
    made = flex.block_mask(mask, CPU)
    assert made.seq_lengths == (mask.queries, mask.keys)
    assert flex.block_mask(mask, CPU) is made
    allowed = mask.dense()
    listed = kinds(made, len(allowed))
    b, i, j = torch.meshgrid(*map(torch.arange, allowed.shape), indexing="ij")
    assert torch.equal(made.mask_mod(b, torch.zeros_like(b), i, j), allowed)
    for r in range(len(allowed)):
        for i in range(listed.shape[1]):
            for j in range(listed.shape[2]):
                tile = allowed[r, i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
                assert listed[r, i, j] != 2 or (tile.all() and tile.shape == (BLOCK, BLOCK))
                assert listed[r, i, j] != 0 or not tile.any()


@pytest.mark.parametrize(
    "mask",
    [MASKS[name] for name in IN_ORDER],
    ids=IN_ORDER,
)
def test_where_ranks_are_in_order_it_is_the_one_torch_finds(mask):
    rows = mask.batch
    theirs = create_block_mask(flex.block_mask(mask, CPU).mask_mod, rows, 1, mask.queries,
                               mask.keys, device="cpu", BLOCK_SIZE=BLOCK)  # fmt: skip
    assert torch.equal(kinds(flex.block_mask(mask, CPU), rows), kinds(theirs, rows))


def test_masks_of_one_kind_share_a_graph():
    for seed in range(3):
        torch.manual_seed(seed)
        mask = MaskSpec.permuted(torch.randperm(37))
        q, k, v = tokens(mask, shared=2, width=16)
        with torch._dynamo.config.patch(error_on_recompile=True):
            out, _ = flex.attend(q, k, v, Arguments(mask, SCALE))
        theirs, _ = dense(q, k, v, mask, SCALE)
        torch.testing.assert_close(out.double(), theirs, rtol=1e-5, atol=1e-5)


def test_half_precision_and_the_way_through_the_dispatcher():
    mask = MASKS["query stream"]
    q, k, v = tokens(mask, shared=2, width=16, dtype=torch.bfloat16)
    out, sums = attention(q, k, v, mask, lse=True, backend="flex")
    theirs = dense(q, k, v, mask, 0.25)
    assert (out.dtype, sums.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out.double(), theirs[0], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(sums.double(), theirs[1], rtol=2e-2, atol=2e-2)
    with torch.no_grad():
        again = attention(q.requires_grad_(), k, v, mask, backend="flex")
    assert torch.equal(again, out)
    with pytest.raises(DeviceError, match="cannot train on a CPU"):
        attention(q, k, v, mask, backend="flex")


def test_inside_a_compiled_model():
    mask = MASKS["causal, square"]
    q, k, v = tokens(mask, shared=2, width=16)

    def model(q):
        return 2 * attention(q * 1.0, k, v, mask, backend="flex")

    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(q), model(q))
