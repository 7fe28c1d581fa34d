"""Attention under all that torch does to functions: derivatives, compiling, casting, dropout."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradgradcheck
from torch.func import grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

from genlab.kernel import dispatch
from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from genlab.kernel.math import dropout_mask, philox
from genlab.nn.attention import AttentionLayer, SelfAttention2d
from tests.helpers.dense_attention import tokens
from tests.helpers.masks import KINDS
from tests.kernel.test_attention import HERE

KIND = ["bidirectional", "causal, more queries", "prefix", "window"]
FAST = ("auto", "triton", "flex", "sdpa")  # all of them hand over what they cannot differentiate


def function(mask, **keys):
    return lambda q, k, v: attention(q, k, v, mask, **keys)


def along(f, given, tangents):
    """Derivative of f along tangents, by a difference of float64 values."""
    h = 1e-6
    ahead, behind = (
        f(*(t + s * h * d for t, d in zip(given, tangents, strict=True))) for s in (1, -1)
    )
    return (ahead - behind) / (2 * h)


# --- derivatives that no fused kernel has --------------------------------------------------------


@pytest.mark.parametrize("backend", [*FAST, "plain"])
@pytest.mark.parametrize("kind", KIND)
def test_forward_mode_is_right(kind, backend):
    mask = KINDS[kind]
    given, tangents = (tokens(mask, dtype=torch.float64) for _ in range(2))
    wanted = along(function(mask, backend="plain"), given, tangents)
    f = function(mask, backend=backend)
    out, tangent = jvp(f, tuple(given), tuple(tangents))
    torch.testing.assert_close(tangent, wanted, rtol=1e-6, atol=1e-7)
    with forward_ad.dual_level():
        dual = f(*(forward_ad.make_dual(t, d) for t, d in zip(given, tangents, strict=True)))
        again = forward_ad.unpack_dual(dual)
    torch.testing.assert_close(again.tangent, tangent)
    torch.testing.assert_close(again.primal, f(*given) if backend in HERE else out)


@pytest.mark.parametrize("backend", HERE)
def test_reverse_over_forward(backend):
    """What MeanFlow does: the tangent is a target, its function is trained."""
    mask = MaskSpec.causal(5)
    given, tangents = (tokens(mask, heads=1, width=2, dtype=torch.float64) for _ in range(2))

    def length(q):
        f = function(mask, backend=backend)
        return jvp(f, (q, *given[1:]), tuple(tangents))[1].square().sum()

    (slope,) = torch.autograd.grad(length(given[0].requires_grad_()), given[0])
    step = torch.randn_like(given[0])
    wanted = along(lambda q: length(q), [given[0].detach()], [step])
    torch.testing.assert_close((slope * step).sum(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", [*FAST, "plain"])
@pytest.mark.parametrize("kind", KIND)
def test_second_derivatives(kind, backend):
    given = tokens(KINDS[kind], heads=1, width=2, dtype=torch.float64)
    f = function(KINDS[kind], backend=backend, double_backward=True)
    assert gradgradcheck(f, [t.requires_grad_() for t in given], fast_mode=True)


def test_second_derivatives_nobody_asked_for_are_an_error_and_not_zero():
    given = [t.requires_grad_() for t in tokens(MaskSpec.causal(5))]
    out = attention(*given, MaskSpec.causal(5), backend="sdpa")
    slopes = torch.autograd.grad(out.square().sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(sum(s.square().sum() for s in slopes), given)


@pytest.mark.parametrize("backend", [*FAST, "plain"])
def test_functions_of_torch_func(backend):
    mask = MaskSpec.prefix(2, 6)
    q, k, v = tokens(mask)

    def loss(q, k, v):
        return attention(q[None], k[None], v[None], mask, backend=backend).square().sum()

    each = vmap(grad(loss, argnums=(0, 1, 2)))(q, k, v)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    whole = torch.autograd.grad(attention(*leaves, mask).square().sum(), leaves)
    for mine, wanted in zip(each, whole, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_the_probes_of_torch_know_where_they_are():
    """Both are private names of torch: this fails on the day they mean something else."""
    x, found = torch.randn(3), {}

    def look(name):
        return lambda t: (found.setdefault(name, dispatch._transformed()), t * 2)[1]

    look("outside")(x)
    jvp(look("jvp"), (x,), (x,))
    grad(lambda t: look("grad")(t).sum())(x)
    vmap(look("vmap"))(x)
    with forward_ad.dual_level():
        look("dual")(x)
    look("afterwards")(x)
    assert found == {
        "outside": False,
        "jvp": True,
        "grad": True,
        "vmap": True,
        "dual": True,
        "afterwards": False,
    }


def compiled(f):
    torch._dynamo.reset()
    return torch.compile(f, backend="aot_eager", fullgraph=True)


def test_the_probes_inside_of_a_compiled_function():
    def look(t):
        return t + 1 if dispatch._transformed() else t

    x = torch.zeros(3)
    assert not compiled(look)(x).any()
    assert compiled(lambda x: jvp(look, (x,), (x,))[0])(x).all()

    def dual(x):
        with forward_ad.dual_level():
            return look(x)

    assert compiled(dual)(x).all()


@pytest.mark.parametrize("backend", FAST)
def test_a_compiled_tangent_is_not_zero(backend):
    mask = MaskSpec.prefix(2, 6)
    given, tangents = (tuple(tokens(mask)) for _ in range(2))
    f = function(mask, backend=backend)
    _, wanted = jvp(function(mask, backend="plain"), given, tangents)
    _, tangent = compiled(lambda *given: jvp(f, given, tangents))(*given)
    torch.testing.assert_close(tangent, wanted)


def test_a_compiled_layer_refuses_a_tangent_from_outside():
    """torch does; were it ever to let one through, it would be dropped at a custom operator."""
    f, x = compiled(function(None)), torch.randn(1, 1, 4, 8)
    with pytest.raises(Exception, match=r"(?i)jvp|functorch"):
        jvp(lambda x: f(x, x, x), (x,), (x,))


# --- compiling, recomputing, casting -------------------------------------------------------------


class Layer(AttentionLayer):
    """Self-attention over [B, T, 16] under a mask made at every call."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.qkv, self.dropout = nn.Linear(16, 48), dropout

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        mask = MaskSpec.prefix(3, x.shape[1])
        return self.attend(q, k, v, mask, self.dropout).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("make", [Layer, lambda: SelfAttention2d(16, 8)], ids=["1d", "2d"])
def test_a_compiled_layer_is_the_layer(make, backend):
    layer = make()
    layer.backend = backend
    x = torch.randn(2, 9, 16) if isinstance(layer, Layer) else torch.randn(2, 16, 3, 3)
    if isinstance(layer, SelfAttention2d):
        nn.init.normal_(layer.out.weight)
    found = []
    for f in (layer, compiled(layer)):
        out = f(x)
        found.append([out, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_recomputation_draws_the_same_dropout():
    layer, x = Layer(dropout=0.5), torch.randn(2, 9, 16)
    found = []
    for f in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(3)
        (slope,) = torch.autograd.grad(f(x).square().sum(), layer.qkv.weight)
        found.append(slope)
    torch.testing.assert_close(*found)


def test_only_training_drops():
    layer, x = Layer(dropout=0.5).eval(), torch.randn(2, 9, 16)
    assert torch.equal(layer(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))


@pytest.mark.parametrize("backend", HERE)
def test_autocast(backend):
    mask = MaskSpec.causal(9)
    q, k, v = tokens(mask)
    with torch.autocast("cpu", torch.bfloat16):
        out, sums = attention(q, k.bfloat16(), v, mask, lse=True, backend=backend)
        wide = attention(q.double(), k.double(), v.double(), mask, backend=backend)
    assert (out.dtype, sums.dtype, wide.dtype) == (torch.bfloat16, torch.float32, torch.float64)
    halves = [t.bfloat16() for t in (q, k, v)]
    assert torch.equal(out, attention(*halves, mask, lse=True, backend=backend)[0])


# --- dropout -------------------------------------------------------------------------------------

KNOWN = """
00000000 00000000 00000000 00000000  00000000 00000000  6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff  ffffffff ffffffff  408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344  a4093822 299f31d0  d16cfe09 94fdcceb 5001e420 24126ea1
"""
"""Counter, key and words of Random123, file kat_vectors."""


@pytest.mark.parametrize("line", KNOWN.strip().splitlines())
def test_philox_is_philox(line):
    *counter, low, high, a, b, c, d = (int(word, 16) for word in line.split())
    signed = (high << 32 | low) - (1 << 64 if high >> 31 else 0)
    found = philox(torch.tensor([signed]), *(torch.tensor([n]) for n in counter))
    assert [int(word) for word in found] == [a, b, c, d]


def test_what_stays_is_a_function_of_the_place():
    seed, shape = torch.tensor([0x1234_5678_9ABC]), (2, 3, 5, 7)
    stay = dropout_mask(seed, shape, 0.3, seed.device)
    least = int(0.3 * 2**24)
    for b, h, i, j in ((0, 0, 0, 0), (1, 2, 4, 6), (1, 0, 3, 2), (0, 2, 1, 5)):
        place = [torch.tensor(n) for n in (j, i, b * 3 + h, 0)]
        assert stay[b, h, i, j] == ((int(philox(seed, *place)[0]) >> 8) >= least)


def test_as_many_stay_as_should():
    stay = dropout_mask(torch.tensor([7]), (4, 4, 128, 128), 0.3, torch.device("cpu")).double()
    n = stay.numel()
    assert abs(stay.mean() - 0.7) < 4 * (0.21 / n) ** 0.5
    lines = stay.flatten(0, 1).flatten(1) - 0.7
    correlation = lines @ lines.T / (0.21 * lines.shape[1])
    assert (correlation - correlation.diag().diag()).abs().max() < 5 / lines.shape[1] ** 0.5


@pytest.mark.parametrize("backend", ["auto", "sdpa", "plain"])
def test_dropout_drops_weights_and_scales_the_rest(backend):
    mask = MaskSpec.causal(6)
    q, k, _ = tokens(mask, width=6)
    v = torch.eye(6).expand(2, 4, 6, 6)  # the result is then the weights
    whole = attention(q, k, v, mask)
    torch.manual_seed(0)
    seed = torch.randint(2**62, (1,), dtype=torch.int64)
    torch.manual_seed(0)
    dropped = attention(q, k, v, mask, dropout=0.4, backend=backend)
    stay = dropout_mask(seed, whole.shape, 0.4, seed.device)
    torch.testing.assert_close(dropped, whole * stay / 0.6)
    torch.manual_seed(0)
    assert torch.equal(dropped, attention(q, k, v, mask, dropout=0.4, backend=backend))
    assert not torch.equal(dropped, attention(q, k, v, mask, dropout=0.4, backend=backend))


def test_the_mean_over_dropouts_is_the_result_without():
    mask = MaskSpec.prefix(2, 5)
    q, k, v = tokens(mask)
    many = attention(*(t.repeat(800, 1, 1, 1) for t in (q, k, v)), mask, dropout=0.3)
    many = many.unflatten(0, (800, -1))  # every place of the batch draws weights of its own
    off = (many.mean(0) - attention(q, k, v, mask)).abs()
    assert (off < 5 * many.std(0) / 800**0.5 + 1e-6).all()
