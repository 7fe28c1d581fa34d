"""Positions by rotation, distances bounded, and results over parts of the keys merged."""

import math

import pytest
import torch
from torch.testing import assert_close

from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from genlab.kernel.merge import merge
from genlab.nn.attention import SelfAttention
from genlab.nn.extrapolate import ReRoPE, rerope
from genlab.nn.kv_cache import KVCache
from genlab.nn.rotary import Rotary

F64 = torch.float64


def numbers(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- rotation ------------------------------------------------------------------------------------


def by_complex_numbers(x, position, base):
    """A pair is x_i + 1j x_{i + d/2}; at place p it is multiplied by exp(1j p base^(-2 i / d))."""
    out = torch.empty_like(x)
    d = x.shape[3]
    for i in range(d // 2):
        turn = torch.exp(1j * position.to(F64) * base ** (-2 * i / d))
        pair = torch.complex(x[..., i], x[..., i + d // 2]) * turn
        out[..., i], out[..., i + d // 2] = pair.real, pair.imag
    return out


@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_each_pair_is_a_complex_number_that_is_turned(base):
    x, position = numbers(2, 3, 7, 16), torch.tensor([0, 1, 5, 900, 12345, 3, 3])
    assert_close(Rotary(16, base=base)(x, position), by_complex_numbers(x, position, base))


def test_positions_may_differ_over_the_batch_and_lie_between_places():
    x = numbers(2, 3, 4, 8)
    position = torch.tensor([[0.0, 1.5, 2.0, 7.25], [4.0, 3.0, 2.0, 1.0]])
    for row, out in enumerate(Rotary(8)(x, position)):
        assert_close(out[None], by_complex_numbers(x[row, None], position[row], 10000.0))


def test_on_the_plane_half_of_the_pairs_turn_by_the_row_and_half_by_the_column():
    x, places = (
        numbers(1, 2, 6, 16),
        torch.tensor([[0, 0], [0, 5], [3, 0], [3, 5], [7, 1], [2, 9]]),
    )
    out = Rotary(16, axes=2)(x, places)
    # pairs 0 .. 3 are numbers 0 .. 3 with 8 .. 11, those of the column 4 .. 7 with 12 .. 15
    for axis, own in ((0, [0, 1, 2, 3, 8, 9, 10, 11]), (1, [4, 5, 6, 7, 12, 13, 14, 15])):
        assert_close(out[..., own], by_complex_numbers(x[..., own], places[:, axis], 10000.0))


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("stretch", ["none", "interpolate", "ntk", "mixed"])
def test_a_score_depends_on_differences_alone_and_lengths_stay(axes, stretch):
    rotary = Rotary(16, axes=axes, stretch=stretch, factor=3.0)
    q, k = numbers(1, 1, 1, 16), numbers(1, 1, 1, 16, seed=1)

    def score(p, r):
        places = (torch.tensor([[*n]]) if axes == 2 else torch.tensor([n[0]]) for n in (p, r))
        a, b = (rotary(t, at) for t, at in zip((q, k), places, strict=True))
        assert_close(a.norm(), q.norm())
        return (a * b).sum()

    here = score((5, 2), (1, 9))
    assert_close(score((105, 32), (101, 39)), here)
    assert abs(score((6, 2), (1, 9)) - here) > 1e-3
    if axes == 2:
        assert abs(score((5, 3), (1, 9)) - here) > 1e-3


def test_interpolation_reads_k_places_as_one():
    x, position = numbers(1, 2, 9, 8), torch.arange(9)
    out = Rotary(8, stretch="interpolate", factor=4.0)(x, position)
    assert_close(out, by_complex_numbers(x, position / 4, 10000.0))


def test_ntk_changes_the_base_so_that_the_last_pair_turns_k_times_slower():
    x, position = numbers(1, 2, 9, 12), torch.arange(9)
    rotary = Rotary(12, stretch="ntk", factor=6.0)
    assert_close(rotary(x, position), by_complex_numbers(x, position, 10000 * 6 ** (12 / 10)))
    slower = Rotary(12).frequencies("cpu", F64) / rotary.frequencies("cpu", F64)
    assert_close(slower[[0, -1]], torch.tensor([1.0, 6.0], dtype=F64))


def test_ntk_mixed_slows_every_pair_and_the_last_k_times():
    d, k, b = 16, 12.0, 0.75
    w = Rotary(d, stretch="mixed", factor=k).frequencies("cpu", F64)
    a = math.log(k) / (d / 2) ** b
    for i in range(1, d // 2 + 1):
        assert w[i - 1].item() == pytest.approx(
            10000 ** (-2 * (i - 1) / d) * math.exp(-a * i**b), rel=1e-12
        )
    assert w[-1].item() == pytest.approx(10000 ** (-(d - 2) / d) / k, rel=1e-12)


def test_angles_are_wide_whatever_the_layer_is():
    x, position = numbers(1, 1, 2, 32, dtype=torch.float32), torch.tensor([4000, 4001])
    rotary = Rotary(32).to(torch.bfloat16)
    half = rotary(x.bfloat16(), position)
    assert half.dtype == torch.bfloat16
    assert_close(half, rotary(x.bfloat16().float(), position).bfloat16(), rtol=0, atol=0)
    exact = by_complex_numbers(x.double(), position, 10000.0)
    assert_close(rotary(x, position).double(), exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"width": 6, "axes": 2}, "multiple of 4"),
        ({"width": 7}, "multiple of 2"),
        ({"width": 8, "base": 1.0}, "base"),
        ({"width": 8, "factor": 0.5}, "factor"),
        ({"width": 4, "axes": 2, "stretch": "ntk"}, "more than one pair"),
    ],
)
def test_what_cannot_turn_is_refused(keys, word):
    with pytest.raises(ValueError, match=word):
        Rotary(**keys)


def test_places_of_the_wrong_kind_are_refused():
    with pytest.raises(ValueError, match="2 numbers a token"):
        Rotary(8, axes=2)(numbers(1, 1, 3, 8), torch.arange(3))


# --- merging -------------------------------------------------------------------------------------


def parts_of(mask, n, seed=0):
    """The mask over the keys of each of n random groups."""
    group = torch.randint(n, (1, mask.keys), generator=torch.Generator().manual_seed(seed))
    return [mask.padded(group == i) for i in range(n)]


@pytest.mark.parametrize(
    "mask",
    [MaskSpec.bidirectional(9), MaskSpec.causal(9), MaskSpec.sliding_window(9, left=1, right=0)],
)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_parts_merge_to_the_whole(mask, n):
    q, k, v = (numbers(2, 3, 9, 8, seed=s).requires_grad_() for s in range(3))
    whole = attention(q, k, v, mask, lse=True)
    merged = merge(*(attention(q, k, v, part, lse=True) for part in parts_of(mask, n)))
    for a, b in zip(merged, whole, strict=True):
        assert_close(a, b)
    weights = numbers(2, 3, 9, 8, seed=4), numbers(2, 3, 9, seed=5)
    grads = [
        torch.autograd.grad((out * weights[0]).sum() + (lse * weights[1]).sum(), (q, k, v))
        for out, lse in (merged, whole)
    ]
    for a, b in zip(*grads, strict=True):
        assert_close(a, b)


def test_a_query_that_sees_no_key_of_any_part_gives_zero_and_no_nan():
    q, k, v = (numbers(1, 2, 5, 4, seed=s).requires_grad_() for s in range(3))
    nothing = MaskSpec.bidirectional(5).padded(torch.zeros(5, dtype=torch.bool))
    late = MaskSpec.permuted(torch.arange(5), stream="query")  # query 0 sees nothing
    out, lse = merge(*(attention(q, k, v, m, lse=True) for m in (nothing, late)))
    (out.sum() + lse[..., 1:].sum()).backward()
    assert torch.all(out[:, :, 0] == 0)
    assert torch.all(lse[..., 0] == float("-inf"))
    assert torch.all(q.grad[:, :, 0] == 0)
    assert all(t.grad.isfinite().all() for t in (q, k, v))


# --- bounded distances ---------------------------------------------------------------------------

ORDER = torch.tensor([3, 0, 5, 1, 10, 2, 4, 6, 9, 8, 7])
MASKS = {
    "causal": MaskSpec.causal(11),
    "decode": MaskSpec.causal(1, 11),
    "bidirectional": MaskSpec.bidirectional(11),
    "prefix": MaskSpec.prefix(6, 11),
    "streams": MaskSpec.permuted(ORDER, stream="both"),
    "window": MaskSpec.sliding_window(11, left=5, right=3),
    "narrow": MaskSpec.sliding_window(11, left=1, right=0),
    "packed": MaskSpec.packed([7, 4], causal=True),
    "padded": MaskSpec.bidirectional(11).padded(torch.arange(11) != 2),
}


def two_scores(q, k, v, mask, base, reach):
    """Every score by itself: the pairs of q turned by the bounded distance, times those of k."""
    at_q, at_k = (t.expand(len(q), -1).tolist() for t in mask.positions())
    allowed = mask.dense().expand(len(q), -1, -1)
    b, heads, queries, d = q.shape
    out = torch.zeros_like(q)
    for n in range(b):
        for h in range(heads):
            g = h * k.shape[1] // heads
            for i in range(queries):
                seen = [j for j in range(k.shape[2]) if allowed[n, i, j]]
                if not seen:
                    continue
                scores = []
                for j in seen:
                    apart = max(-reach, min(reach, at_q[n][i] - at_k[n][j]))
                    one = torch.tensor([apart])
                    turned = by_complex_numbers(q[n, h, i].view(1, 1, 1, d), one, base).view(d)
                    scores.append(turned @ k[n, g, j] / math.sqrt(d))
                out[n, h, i] = torch.stack(scores).softmax(0) @ v[n, g, seen]
    return out


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("reach", [1, 3])
def test_every_score_has_its_own_bounded_distance(name, reach):
    mask = MASKS[name]
    q = numbers(2, 2, mask.queries, 8)
    k, v = (numbers(2, 1, mask.keys, 8, seed=s) for s in (1, 2))
    out = rerope(q, k, v, mask, Rotary(8), reach)
    assert_close(out, two_scores(q, k, v, mask, 10000.0, reach))


def test_its_gradient_is_that_of_the_scores_one_by_one():
    q, k, v = (numbers(1, 1, 6, 4, seed=s).requires_grad_() for s in range(3))
    mask, weight = MaskSpec.prefix(3, 6), numbers(1, 1, 6, 4, seed=3)
    one = torch.autograd.grad((rerope(q, k, v, mask, Rotary(4), 2) * weight).sum(), (q, k, v))
    two = torch.autograd.grad((two_scores(q, k, v, mask, 1e4, 2) * weight).sum(), (q, k, v))
    for a, b in zip(one, two, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("backend", ["plain", "sdpa"])
def test_it_is_the_same_in_single_precision(backend):
    mask = MaskSpec.causal(11)
    q, k, v = (numbers(2, 2, 11, 8, seed=s) for s in range(3))
    single = rerope(*(t.float() for t in (q, k, v)), mask, Rotary(8), 3, backend=backend)
    exact = rerope(q, k, v, mask, Rotary(8), 3)
    assert_close(single.double(), exact, rtol=0, atol=2e-6)


def test_a_reach_beyond_the_text_bounds_nothing():
    h = numbers(2, 11, 16)
    layers = [
        layer.double()
        for layer in (
            SelfAttention(16, 8, kv_heads=1, rotary=Rotary(8)),
            ReRoPE(16, 8, kv_heads=1, rotary=Rotary(8), reach=11),
        )
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    for mask in (MaskSpec.causal(11), MaskSpec.bidirectional(11), None):
        assert_close(layers[0](h, mask), layers[1](h, mask))


def test_positions_are_those_of_the_mask():
    layer, h = ReRoPE(16, 8, rotary=Rotary(8), reach=3), numbers(2, 4, 16, dtype=torch.float32)
    with pytest.raises(ValueError, match="positions of its mask"):
        layer(h, MaskSpec.causal(4), torch.arange(4))


def test_a_reach_of_nothing_is_refused_in_time():
    with pytest.raises(ValueError, match="1 or more, not 0"):
        ReRoPE(16, 8, rotary=Rotary(8), reach=0)


@pytest.mark.parametrize("filled", [0, 5])
def test_a_cache_that_looks_back_has_no_keys_far_after(filled, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "genlab.nn.extrapolate.attention",
        lambda *given, **options: calls.append(1) or attention(*given, **options),
    )
    cache = KVCache(1, 2, 2, 11, 8, dtype=F64)
    cache.advance(filled)
    q, k, v = numbers(2, 2, 3, 8), numbers(2, 2, 11, 8, seed=1), numbers(2, 2, 11, 8, seed=2)
    for whole, wanted in ((False, 2), (True, 3)):
        calls.clear()
        mask = cache.mask(3, whole=whole)
        out = rerope(q, k, v, mask, Rotary(8), 2)
        assert_close(out, two_scores(q, k, v, mask, 1e4, 2))
        assert len(calls) == wanted


def test_it_compiles_whole():
    layer = ReRoPE(16, 8, rotary=Rotary(8), reach=3)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    h, mask = numbers(2, 11, 16, dtype=torch.float32), MaskSpec.prefix(4, 11)
    assert_close(compiled(h, mask), layer(h, mask))


@pytest.mark.parametrize(
    ("mask", "reach", "word"),
    [
        (MaskSpec.causal(4).sloped(torch.ones(2)), 2, "ALiBi"),
        (MaskSpec.causal(4), 0, "1 or more"),
    ],
)
def test_what_cannot_be_bounded_is_refused(mask, reach, word):
    q = numbers(1, 2, 4, 8)
    with pytest.raises(ValueError, match=word):
        rerope(q, q, q, mask, Rotary(8), reach)
