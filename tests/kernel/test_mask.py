"""Every mask against loops over pairs of tokens, written from what its paper says is seen."""

import random

import pytest
import torch

from genlab.kernel.mask import ALWAYS, NEVER, MaskSpec
from genlab.kernel.rank_mask import RankMask
from tests.helpers.masks import random_mask, written_out


def pairs(queries, keys, seen):
    """bool [1, Sq, Sk] of a function of (query, key)."""
    return torch.tensor([[[bool(seen(i, j)) for j in range(keys)] for i in range(queries)]])


def same(mask, wanted):
    assert torch.equal(mask.dense(), wanted)


SHAPES = [(1, 1), (5, 5), (1, 7), (3, 7), (7, 3), (6, 1)]


@pytest.mark.parametrize(("queries", "keys"), SHAPES)
def test_bidirectional_and_causal(queries, keys):
    same(MaskSpec.bidirectional(queries, keys), pairs(queries, keys, lambda i, j: True))
    # the last query stands at the last key, so the first of more queries than keys see nothing
    same(
        MaskSpec.causal(queries, keys),
        pairs(queries, keys, lambda i, j: queries - 1 - i <= keys - 1 - j),
    )


@pytest.mark.parametrize("n", range(7))
def test_prefix(n):
    """UniLM: the source sees the source, the target sees the source and its own past."""

    def seen(i, j):
        return j < n if i < n else j < n or j <= i

    same(MaskSpec.prefix(n, 6), pairs(6, 6, seen))


def test_prefixes_of_a_batch():
    mask = MaskSpec.prefix(torch.tensor([0, 2, 6]), 6)
    assert mask.batch == 3
    same(mask, torch.cat([MaskSpec.prefix(n, 6).dense() for n in (0, 2, 6)]))


@pytest.mark.parametrize("sizes", [[1, 4, 9], [2, 2, 2], [3], [1, 1, 1], [0, 2, 1]])
def test_block_causal(sizes):
    """VAR: a token sees its own scale and coarser ones."""
    block = [b for b, size in enumerate(sizes) for _ in range(size)]
    n = len(block)
    same(MaskSpec.block_causal(sizes), pairs(n, n, lambda i, j: block[j] <= block[i]))


def xlnet(order, targets, separators, stream):
    """A token is hidden that is masked or a separator, unless its turn comes before mine.

    The rules of the paper's section 2.3, and of its figure 4 for tokens that are not predicted.
    """

    def seen(i, j):
        hidden_j = targets[j] or separators[j]
        if not hidden_j:
            return True
        hidden_i = targets[i] or separators[i]
        if i == j:
            return stream == "content" or not targets[i]
        return hidden_i and order[j] < order[i]

    return pairs(len(order), len(order), seen)


def test_permuted_streams():
    rng = random.Random(0)
    for _ in range(20):
        n = rng.randint(1, 9)
        order = rng.sample(range(n), n)
        kinds = [rng.choice("known target separator".split()) for _ in range(n)]
        targets, separators = ([k == w for k in kinds] for w in ("target", "separator"))
        given = [torch.tensor(x) for x in (order, targets, separators)]
        content, query = (xlnet(order, targets, separators, s) for s in ("content", "query"))
        same(MaskSpec.permuted(*given), content)
        same(MaskSpec.permuted(*given, stream="query"), query)
        same(MaskSpec.permuted(*given, stream="both"), torch.cat([content, query], 1))


def test_without_targets_all_but_separators_are_predicted():
    order = torch.tensor([2, 0, 3, 1])
    same(MaskSpec.permuted(order), xlnet(order, [True] * 4, [False] * 4, "content"))
    end = torch.tensor([False, False, True, False])
    same(
        MaskSpec.permuted(order, separators=end, stream="query"),
        xlnet(order, [True, True, False, True], end, "query"),
    )


def test_permuted_orders_of_a_batch():
    order = torch.stack([torch.randperm(6) for _ in range(3)])
    targets = torch.tensor([True, False, True, True, False, True])
    separators = torch.rand(3, 6) < 0.3
    wanted = [MaskSpec.permuted(order[i], targets, separators[i]).dense() for i in range(3)]
    same(MaskSpec.permuted(order, targets, separators), torch.cat(wanted))
    one = [MaskSpec.permuted(order[0], targets, s).dense() for s in separators]
    same(MaskSpec.permuted(order[0], targets, separators), torch.cat(one))


def test_both_streams_stand_at_the_places_of_their_tokens():
    mask = MaskSpec.permuted(torch.randperm(5), stream="both").within(1, 1)
    seen = mask.dense()[0]
    for i in range(10):
        assert all(abs(i % 5 - j) <= 1 for j in range(5) if seen[i, j])


@pytest.mark.parametrize(("queries", "keys"), [*SHAPES, (9, 9)])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (2, 0), (2, 1), (-1, 1), (3, -1), (-1, 0)])
def test_windows_include_their_ends(queries, keys, left, right):
    def seen(i, j):
        at = i + keys - queries
        return (left < 0 or at - j <= left) and (right < 0 or j - at <= right)

    same(
        MaskSpec.sliding_window(queries, keys, left=left, right=right),
        pairs(queries, keys, seen),
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("lengths", "key_lengths"),
    [([3, 1, 4], None), ([2, 3], [4, 3]), ([3, 2], [1, 5]), ([4], [6]), ([0, 2, 3], None)],
)
def test_packed_sequences_are_alone(lengths, key_lengths, causal):
    """Blocks on the diagonal, each the mask of its own sequence."""
    ends = key_lengths or lengths
    alone = MaskSpec.causal if causal else MaskSpec.bidirectional
    each = [alone(q, k).dense()[0] for q, k in zip(lengths, ends, strict=True)]
    mask = MaskSpec.packed(lengths, key_lengths, causal=causal)
    same(mask, torch.block_diag(*each).bool()[None])


def test_windows_and_slopes_of_packed_sequences_count_from_their_own_start():
    mask = MaskSpec.packed([3, 4], [5, 4], causal=True).within(1).sloped(torch.tensor([0.5]))
    first = MaskSpec.causal(3, 5).within(1).sloped(torch.tensor([0.5]))
    assert torch.equal(mask.dense()[0, :3, :5], first.dense()[0])
    assert torch.equal(mask.bias()[0, 0, :3, :5], first.bias()[0, 0])


def test_any_mask_is_its_definition():
    rng = random.Random(0)
    for _ in range(20):
        mask = random_mask(rng, 12)
        same(mask, written_out(mask))


# --- what any of them may have -------------------------------------------------------------------

KINDS = {
    "bidirectional": MaskSpec.bidirectional(6),
    "causal": MaskSpec.causal(6),
    "causal, more queries": MaskSpec.causal(8, 6),
    "prefix": MaskSpec.prefix(3, 6),
    "block-causal": MaskSpec.block_causal([1, 2, 3]),
    "permuted": MaskSpec.permuted(torch.tensor([3, 0, 5, 1, 4, 2]), stream="query"),
    "window": MaskSpec.sliding_window(6, left=2, right=1),
    "packed": MaskSpec.packed([2, 4], causal=True),
}


@pytest.mark.parametrize("mask", KINDS.values(), ids=KINDS)
def test_padding(mask):
    valid = torch.tensor([[True] * 4 + [False] * 2, [False, True] * 3])
    same(mask.padded(valid), mask.dense() & valid[:, None])
    same(mask.padded(valid[0]), mask.dense() & valid[0])
    same(mask.padded(valid[0]).padded(valid[1]), mask.dense() & (valid[0] & valid[1]))


@pytest.mark.parametrize("mask", KINDS.values(), ids=KINDS)
def test_a_window_is_inside_of_what_was_seen(mask):
    for window in ((1, -1), (-1, 0), (2, 2)):
        other = RankMask(
            mask.queries,
            mask.keys,
            position_q=mask.position_q,
            position_k=mask.position_k,
            window=window,
        )
        same(mask.within(*window), mask.dense() & other.dense())


@pytest.mark.parametrize("kind", ["bidirectional", "causal", "prefix", "block-causal", "permuted"])
def test_memory_is_seen_by_all(kind):
    mask = KINDS[kind]
    front = torch.ones(1, mask.queries, 3, dtype=torch.bool)
    same(mask.with_memory(3), torch.cat([front, mask.dense()], 2))
    valid = torch.arange(6) < 4
    padded = torch.cat([front, mask.padded(valid).dense()], 2)
    same(mask.padded(valid).with_memory(3), padded)


def test_alibi_is_minus_slope_times_distance():
    slopes = torch.tensor([0.5, 0.25])
    bias = MaskSpec.causal(3, 5).sloped(slopes).bias()
    for h, slope in enumerate(slopes):
        for i in range(3):
            for j in range(5):
                assert bias[0, h, i, j] == -slope * abs(i + 2 - j)
    assert MaskSpec.causal(3).bias() is None


def test_ranks_at_the_ends():
    """ALWAYS is seen even by the least query, NEVER not even by the greatest."""
    rank_q, rank_k = torch.tensor([[ALWAYS, 0, NEVER]]), torch.tensor([[ALWAYS, NEVER]])
    same(MaskSpec(3, 2, rank_q, rank_k), torch.tensor([[[True, False]] * 3]))


# --- fast paths, keeping, compiling --------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (MaskSpec.bidirectional(4, 6), "full"),
        (MaskSpec.causal(4, 6), "causal"),
        (MaskSpec.causal(1, 6), "full"),
        (MaskSpec.prefix(0, 4), "causal"),
        (MaskSpec.prefix(1, 4), "causal"),
        (MaskSpec.prefix(2, 4), "rank_mask"),
        (MaskSpec.prefix(4, 4), "full"),
        (MaskSpec.block_causal([1, 1, 1]), "causal"),
        (MaskSpec.block_causal([5]), "full"),
        (MaskSpec.sliding_window(4, left=-1, right=-1), "full"),
        (MaskSpec.sliding_window(4, 6, left=5, right=3), "full"),
        (MaskSpec.sliding_window(4, 6, left=5), "causal"),
        (MaskSpec.sliding_window(4, 6, left=4), "rank_mask"),
        (MaskSpec.sliding_window(4, 6, left=5, right=2), "rank_mask"),
        (MaskSpec.packed([4], [6], causal=True), "causal"),
        (MaskSpec.packed([4], causal=False), "full"),
        (MaskSpec.causal(4).padded(torch.ones(4, dtype=torch.bool)), "rank_mask"),
        (MaskSpec.causal(4).within(2), "rank_mask"),
        (MaskSpec.causal(4).with_memory(2), "rank_mask"),
        (MaskSpec.causal(4).sloped(torch.ones(2)), "causal"),
    ],
)
def test_fast_paths_are_recognised(mask, kind):
    """And are the mask that they name: ranks written out by hand see the same."""
    assert mask.kind == kind
    if kind != "rank_mask":
        at_q, at_k = mask.positions()
        ranks = (at_q, at_k) if kind == "causal" else (at_q * 0, at_k * 0)
        same(mask, MaskSpec(mask.queries, mask.keys, *ranks).dense())


def test_ranks_of_any_whole_type():
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int64):
        rank = torch.arange(4, dtype=dtype)[None]
        same(MaskSpec(4, 4, rank, rank).padded(torch.ones(4) > 0), MaskSpec.causal(4).dense())


# --- what is refused -----------------------------------------------------------------------------

ROW = torch.zeros(1, 4, dtype=torch.int32)
WRONG = {
    "rank_q of a mask is [R, 4], one value": lambda: MaskSpec(4, 4, ROW[:, :3], ROW),
    "rank_k of a mask is [R, 5], one value": lambda: MaskSpec(4, 5, ROW, ROW),
    "position_q of a mask is [R, 4]": lambda: MaskSpec(4, 4, position_q=ROW[0]),
    "segment_q and segment_k or neither": lambda: MaskSpec(4, 4, segment_q=ROW),
    "rank_q and rank_k or neither": lambda: MaskSpec(4, 4, rank_k=ROW),
    "rank_q of a mask is whole numbers, not torch.float32": lambda: MaskSpec(
        4, 4, ROW.float(), ROW
    ),
    "valid of a mask is bool, not torch.int32": lambda: MaskSpec.causal(4).padded(ROW),
    "valid of a mask is [R, 4]": lambda: MaskSpec.causal(4).padded(torch.ones(5).bool()),
    "batches of [2, 3]": lambda: MaskSpec(4, 4, ROW.expand(2, 4), ROW.expand(3, 4)),
    "each -1 or more, not (-2, 0)": lambda: MaskSpec.sliding_window(4, left=-2),
    "each -1 or more, not (1, -3)": lambda: MaskSpec.causal(4).within(1, -3),
    "one slope a head, [Hq], not a tensor of [1, 4]": lambda: MaskSpec.causal(4).sloped(ROW),
    "learns ALiBi's slopes; detach": lambda: MaskSpec.causal(4).sloped(
        torch.ones(2, requires_grad=True)
    ),
    "a prefix of 4 tokens is 0 to 4, not 5": lambda: MaskSpec.prefix(5, 4),
    "prefixes are [B], one a sequence, not [1, 4]": lambda: MaskSpec.prefix(ROW, 4),
    "2 sequences of queries are packed with 1 of keys": lambda: MaskSpec.packed(
        [1, 2], [3], causal=True
    ),
    "memory keys have no segment": lambda: MaskSpec.packed([1, 2], causal=True).with_memory(1),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_errors_are_one_sentence(sentence):
    with pytest.raises(ValueError) as e:
        WRONG[sentence]()
    assert sentence in str(e.value) and "\n" not in str(e.value)
