"""The layers of Transformers, against arithmetic written out in float64."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor, nn

from genlab.kernel.mask import MaskSpec
from genlab.nn.attention import SelfAttention
from genlab.nn.norm import RMSNorm
from genlab.nn.position import LearnedPositions, grid, sincos
from genlab.nn.rotary import Rotary
from genlab.nn.transformer import MLP, AdaLNBlock, Block

B, T, C, D, E = 2, 6, 24, 8, 5
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stirred(module: nn.Module) -> nn.Module:
    """A module none of whose parameters has its starting value."""
    g = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=g)
    return module


def linear(layer: nn.Linear, h: Tensor) -> Tensor:
    return h.double() @ layer.weight.double().T + layer.bias.double()


def turned(x: Tensor, at: tuple[float, ...]) -> Tensor:
    """One head of one token, turned pair by pair as complex numbers."""
    half, each = len(x) // 2, len(x) // (2 * len(at))
    out = x.clone()
    for i in range(half):
        angle = at[i // each] * 10000 ** (-(i % each) / each)
        z = complex(x[i], x[half + i]) * cmath.exp(1j * angle)
        out[i], out[half + i] = z.real, z.imag
    return out


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / math.sqrt(float((x * x).mean()) + 1e-6) * weight.double()


def by_hand(
    layer: SelfAttention, h: Tensor, allowed: Tensor, at: list[tuple[float, ...]]
) -> Tensor:
    """SelfAttention, a head, a query and a key at a time; allowed [T, T]."""
    shared = layer.heads // layer.kv_heads
    q, k, v = linear(layer.qkv, h).split(
        [layer.heads * D, layer.kv_heads * D, layer.kv_heads * D], 2
    )
    mixed = torch.zeros(*h.shape[:2], layer.heads * D, dtype=torch.float64)
    for b in range(len(h)):
        for head in range(layer.heads):
            mine = slice(head * D, (head + 1) * D)
            theirs = slice(head // shared * D, (head // shared + 1) * D)
            for i in range(h.shape[1]):
                scores, values = [], []
                for j in range(h.shape[1]):
                    if not allowed[i, j]:
                        continue
                    a, c = q[b, i, mine], k[b, j, theirs]
                    if isinstance(layer.norm_q, RMSNorm):
                        a, c = rms(a, layer.norm_q.weight), rms(c, layer.norm_k.weight)
                    if layer.rotary is not None:
                        a, c = turned(a, at[i]), turned(c, at[j])
                    if layer.logn is not None:
                        a = a * max(1.0, math.log(at[i][0] + 1) / math.log(layer.logn))
                    scores.append(float(a @ c) / math.sqrt(D))
                    values.append(v[b, j, theirs])
                weight = [math.exp(s) for s in scores]
                mixed[b, i, mine] = sum(
                    w / sum(weight) * x for w, x in zip(weight, values, strict=True)
                )
    return linear(layer.out, mixed)


# --- attention -----------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"kv_heads": 1},
    {"qk_norm": True},
    {"rotary": 1},
    {"rotary": 2},
    {"logn": 3},
    {"kv_heads": 1, "qk_norm": True, "rotary": 1, "logn": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_attention_is_what_it_says_it_is(options, causal):
    axes = options.get("rotary")
    rotary = {"rotary": Rotary(D, axes=axes)} if axes else {}
    layer = stirred(SelfAttention(C, D, **{**options, **rotary}))
    h = drawn(B, T, C)
    mask = MaskSpec.causal(T) if causal else None
    allowed = torch.ones(T, T).tril() if causal else torch.ones(T, T)
    places = [(float(i // 3), float(i % 3)) if axes == 2 else (float(i),) for i in range(T)]
    position = grid(2, 3) if axes == 2 else None
    expected = by_hand(layer, h, allowed.bool(), places)
    torch.testing.assert_close(layer(h, mask, position).double(), expected, **CLOSE)


@torch.no_grad()
def test_positions_of_each_row_of_a_batch():
    layer = stirred(SelfAttention(C, D, rotary=Rotary(D), logn=3))
    h, at = drawn(B, T, C), torch.stack([torch.arange(T), torch.arange(T) + 9])
    both = layer(h, position=at)
    for b in range(B):
        torch.testing.assert_close(both[b : b + 1], layer(h[b : b + 1], position=at[b]), **CLOSE)


@torch.no_grad()
def test_two_streams_over_the_keys_of_one():
    layer = stirred(SelfAttention(C, D, kv_heads=1, qk_norm=True, rotary=Rotary(D)))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    content, query = drawn(B, T, C), drawn(B, T, C, seed=5)
    mask = MaskSpec.permuted(order, stream="both")
    at = torch.arange(T)
    both = layer(torch.cat([content, query], 1), mask, torch.cat([at, at]), T)
    alone = layer(content, MaskSpec.permuted(order), at)
    torch.testing.assert_close(both[:, :T], alone, **CLOSE)
    for i in range(T):  # a query token among the content it may see, last and alone as a query
        seen = [j for j in range(T) if order[j] < order[i]]
        if seen:
            tokens = torch.cat([content[:, seen], query[:, i : i + 1]], 1)
            one = MaskSpec.bidirectional(len(seen) + 1).padded(
                torch.arange(len(seen) + 1) < len(seen)
            )
            expected = layer(tokens, one, torch.tensor([*seen, i]))[:, -1]
            torch.testing.assert_close(both[:, T + i], expected, **CLOSE)
        else:
            torch.testing.assert_close(both[:, T + i], layer.out.bias.expand(B, C), **CLOSE)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {"position": torch.arange(3)}),
        ({"rotary": Rotary(D)}, {"mask": MaskSpec.causal(3)}),
        ({"logn": 3}, {"mask": MaskSpec.causal(3)}),
    ],
)
def test_a_cache_needs_a_mask_and_positions(options, given):
    layer, h = SelfAttention(C, D, **options), drawn(B, 3, C)
    with pytest.raises(ValueError, match="a cache does not say"):
        layer(h, cache=object(), **given)


# --- blocks --------------------------------------------------------------------------------------


def normal(h: Tensor) -> Tensor:
    h = h.double()
    centred = h - h.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def perceptron(mlp: MLP, h: Tensor) -> Tensor:
    return linear(mlp[2], gelu(linear(mlp[0], h)))


@torch.no_grad()
def test_the_two_gelus_by_formula():
    """tanh is DiT's; the two differ by at most 5e-4."""
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)[:, None]
    cubic = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    wanted = {"exact": gelu(x), "tanh": x * (1 + cubic.tanh()) / 2}
    assert 1e-4 < (wanted["exact"] - wanted["tanh"]).abs().max() < 5e-4
    for kind, expected in wanted.items():
        mlp = MLP(1, 1, kind).double()
        for layer in (mlp[0], mlp[2]):
            layer.weight.fill_(1)
            layer.bias.fill_(0)
        torch.testing.assert_close(mlp(x), expected)


@torch.no_grad()
def test_a_plain_block_by_hand():
    block = stirred(Block(C, SelfAttention(C, D), MLP(C, 2 * C)))
    h, all_of_them = drawn(B, T, C), torch.ones(T, T).bool()
    normed = [
        lambda h, n=n: normal(h) * n.weight.double() + n.bias.double()
        for n in (block.norm1, block.norm2)
    ]
    expected = h.double() + by_hand(block.attention, normed[0](h), all_of_them, [])
    expected = expected + perceptron(block.mlp, normed[1](expected))
    torch.testing.assert_close(block(h).double(), expected, **CLOSE)


@torch.no_grad()
def test_a_block_under_a_condition_by_hand():
    block = stirred(AdaLNBlock(C, E, SelfAttention(C, D, qk_norm=True), MLP(C, 2 * C)))
    h, e, all_of_them = drawn(B, T, C), drawn(B, E, seed=3), torch.ones(T, T).bool()
    b1, s1, g1, b2, s2, g2 = linear(block.modulation, e)[:, None].split(C, 2)
    expected = h.double() + g1 * by_hand(
        block.attention, (1 + s1) * normal(h) + b1, all_of_them, []
    )
    expected = expected + g2 * perceptron(block.mlp, (1 + s2) * normal(expected) + b2)
    torch.testing.assert_close(block(h, e).double(), expected, **CLOSE)


def test_a_block_under_a_condition_starts_as_the_identity():
    block = AdaLNBlock(C, E, SelfAttention(C, D), MLP(C, 2 * C))
    h = drawn(B, T, C)
    assert torch.equal(block(h, drawn(B, E)), h)


@pytest.mark.parametrize("kind", ["plain", "adaln"])
@pytest.mark.parametrize(("weights", "added"), [(0.5, 0.0), (0.0, 0.5)])
def test_dropout_is_for_training(kind, weights, added):
    layers = SelfAttention(C, D, dropout=weights), MLP(C, 2 * C), added
    block = Block(C, *layers) if kind == "plain" else AdaLNBlock(C, E, *layers)
    more = () if kind == "plain" else (drawn(B, E),)
    stirred(block)
    h = drawn(B, T, C)
    assert not torch.equal(block(h, *more), block(h, *more))
    block.eval()
    assert torch.equal(block(h, *more), block(h, *more))


# --- positions -----------------------------------------------------------------------------------


def test_sines_and_cosines_of_rows_and_columns():
    table = sincos(grid(2, 3), 12)
    assert table.dtype == torch.float32
    for token in range(6):
        for axis, place in enumerate(divmod(token, 3)):
            for i in range(3):
                angle = place * 10000 ** (-i / 3)
                assert table[token, 6 * axis + i].item() == pytest.approx(math.sin(angle))
                assert table[token, 6 * axis + 3 + i].item() == pytest.approx(math.cos(angle))


def test_learned_positions_of_places():
    positions = LearnedPositions(T, C)
    assert 0.015 < positions.table.std() < 0.025
    h, at = drawn(B, 2, C), torch.tensor([[3, 4], [0, 5]])
    assert torch.equal(positions(h, at), h + positions.table[at])
    assert torch.equal(positions(h, at[0]), h + positions.table[3:5])


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SelfAttention(24, 7), "7 does not"),
        (lambda: SelfAttention(24, 8, kv_heads=2), "kv_heads that divides"),
        (lambda: SelfAttention(24, 8, logn=1), "2 or more, not 1"),
        (lambda: SelfAttention(24, 8, dropout=1.0), "below 1, and not 1.0"),
        (lambda: MLP(24, round(0.001 * 24)), "use a larger mlp"),
        (lambda: sincos(grid(2, 2), 6), "multiple of 4, not 6"),
    ],
)
def test_refusals_name_the_fix(make, says):
    with pytest.raises(ValueError, match=says):
        make()
