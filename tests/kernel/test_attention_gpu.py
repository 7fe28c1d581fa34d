"""Attention on a GPU: the Triton kernel with true bf16 products, and networks that use it."""

import pytest
import torch
from torch import nn

from genlab.assemble.components import build
from genlab.core.contract import Spec
from genlab.kernel.dispatch import BACKENDS, TRITON, attention
from genlab.kernel.mask import MaskSpec
from genlab.kernel.self_test import failure
from genlab.network.dit import DiT
from genlab.network.gpt import GPT
from genlab.nn.attention import AttentionLayer, SelfAttention2d
from tests.helpers.dense_attention import dense, tokens
from tests.helpers.masks import ALL, KINDS
from tests.helpers.trainers import make, tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
if TRITON:
    from genlab.kernel.triton import tuning
    from genlab.kernel.triton.tuning import CONFIGS
triton = pytest.mark.skipif(not TRITON, reason="needs Triton")

HALVES = (torch.bfloat16, torch.float16)
LONG = {
    "bidirectional": MaskSpec.bidirectional(1000, 777),
    "causal": MaskSpec.causal(1000),
    "prefix": MaskSpec.prefix(torch.tensor([0, 333]), 1000),
    "permuted": MaskSpec.permuted(torch.randperm(500), stream="both"),
    "window": MaskSpec.sliding_window(1000, left=200, right=50),
    "packed": MaskSpec.packed([129, 1, 370, 500], causal=True),
    "ends within a block": MaskSpec.prefix(50, 160),
    "half a tile of cuDNN": MaskSpec.prefix(50, 704),
}


def away(given):
    return [t.cuda().requires_grad_() for t in given]


def results(given, mask, backend, slope_of):
    """[result, dq, dk, dv] in float64 on the CPU."""
    leaves = away(given)
    out = attention(*leaves, mask, backend=backend)
    slopes = torch.autograd.grad(out, leaves, slope_of.to(out))
    return [t.detach().double().cpu() for t in (out, *slopes)]


def as_good(given, mask, backend):
    """At most twice the error of the products written out in the same type, and a last bit."""
    slope_of = torch.randn_like(given[0])
    wanted = results([t.double() for t in given], mask, "plain", slope_of)
    plain = results(given, mask, "plain", slope_of)
    found = results(given, mask, backend, slope_of)
    last = torch.finfo(given[0].dtype).eps
    for name, mine, theirs, true in zip(
        ("out", "dq", "dk", "dv"), found, plain, wanted, strict=True
    ):
        allowed = 2 * (theirs - true).abs().max() + last * true.abs().max().clamp_min(1)
        assert (mine - true).abs().max() <= allowed, name


@triton
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mask", ALL.values(), ids=ALL)
def test_triton_under_every_mask(mask, dtype):
    as_good(tokens(mask, shared=2, width=32, dtype=dtype), mask, "triton")


@triton
@pytest.mark.parametrize("width", [64, 128, 80, 256])
@pytest.mark.parametrize("kind", LONG)
def test_triton_on_sequences_of_many_tiles(kind, width):
    as_good(tokens(LONG[kind], shared=1, width=width, dtype=torch.bfloat16), LONG[kind], "triton")


def near_in_float32(given, mask, backend):
    """Three products of TF32 make one of float32, but tensor cores cut their sums off."""
    slope_of = torch.randn_like(given[0])
    wanted = results([t.double() for t in given], mask, "plain", slope_of)
    for mine, true in zip(results(given, mask, backend, slope_of), wanted, strict=True):
        assert (mine - true).abs().max() <= 1e-4 * true.abs().max()


SHIPPED = [(*where, c) for where, some in CONFIGS.items() for c in some] if TRITON else []


@pytest.mark.slow
@triton
@pytest.mark.parametrize("kind", ["bidirectional", "causal", "ends within a block"])
@pytest.mark.parametrize(("kernel", "width", "size", "config"), SHIPPED)
def test_every_configuration(kernel, width, size, config, kind, monkeypatch):
    """Not only those that are quick enough to be chosen."""
    real = tuning.best

    def best(which, *rest):
        return config if which == kernel else real(which, *rest)

    monkeypatch.setattr(tuning, "best", best)
    mask, dtype = LONG[kind], torch.float32 if size == 4 else torch.bfloat16
    given = tokens(mask, shared=2, width=width, dtype=dtype)
    (near_in_float32 if size == 4 else as_good)(given, mask, "triton")


@triton
@pytest.mark.parametrize("kind", LONG)
def test_triton_in_float32(kind):
    near_in_float32(tokens(LONG[kind], width=64), LONG[kind], "triton")


@triton
@pytest.mark.parametrize("kind", KINDS)
def test_the_sums_of_triton(kind):
    mask = KINDS[kind]
    given = tokens(mask, width=32, dtype=torch.bfloat16)
    _, sums = attention(*(t.cuda() for t in given), mask, lse=True, backend="triton")
    wanted = dense(*given, mask)[1]
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums.cpu(), wanted.float(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mask", ALL.values(), ids=ALL)
def test_sdpa_under_every_mask(mask, dtype):
    """Also queries that see nothing: zero, and no slope that is not finite."""
    as_good(tokens(mask, shared=2, width=32, dtype=dtype), mask, "sdpa")


@pytest.mark.slow
@pytest.mark.parametrize("mask", ALL.values(), ids=ALL)
def test_flex_under_every_mask(mask):
    as_good(tokens(mask, shared=2, width=32, dtype=torch.bfloat16), mask, "flex")


@triton
def test_triton_drops_the_same_weights():
    mask = MaskSpec.prefix(50, 300)
    given = [t.cuda() for t in tokens(mask, width=32, dtype=torch.bfloat16)]
    found = []
    for backend in ("triton", "plain"):
        torch.cuda.manual_seed(0)
        found.append(attention(*given, mask, dropout=0.3, backend=backend).double())
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


@triton
def test_triton_twice_is_the_same_to_the_bit():
    mask = LONG["packed"]
    given = tokens(mask, shared=1, width=64, dtype=torch.bfloat16)
    slope_of = torch.randn_like(given[0])
    first, second = (results(given, mask, "triton", slope_of) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@triton
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_trying_it_out_finds_nothing(dtype):
    widths = [24, 64, BACKENDS["triton"].widest[dtype]]
    assert failure(torch.device("cuda"), dtype, widths) == ""


def layer():
    torch.manual_seed(0)
    made = SelfAttention2d(64, 32).cuda()
    nn.init.normal_(made.out.weight, std=0.1)
    return made


@triton
def test_a_compiled_layer_is_the_layer():
    made, x = layer(), torch.randn(2, 64, 16, 16, device="cuda")
    found = []
    for f in (made, torch.compile(made, fullgraph=True)):
        with torch.autocast("cuda", torch.bfloat16):
            out = f(x)
        slopes = torch.autograd.grad(out.square().mean(), list(made.parameters()))
        found.append([out.detach(), *slopes])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=5e-2 * float(one.abs().max()))


@triton
def test_auto_is_triton_and_says_so():
    config = tiny_config("flow_matching", "hardware=cuda")
    config["hardware"]["precision"] = "bf16"
    built = build(config)
    assert built.hardware.attention_backend == "triton"
    assert {m.backend for m in built.model.modules() if isinstance(m, AttentionLayer)} == {"auto"}


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_training_goes_alike_under_every_backend(precision):
    """Same weights, data and noise: losses of twenty steps differ by rounding alone."""
    losses = {}
    for backend in ("plain", "sdpa", "flex", *(["triton"] if TRITON else [])):
        words = ["hardware=cuda", f"hardware.attention={backend}", "schedule.images=100_000"]
        config = tiny_config("flow_matching", *words)
        config["hardware"]["precision"] = precision
        _, trainer = make(config)
        for _ in range(20):
            trainer.one_step()
        losses[backend] = {k: v for k, v in trainer.read().items() if k.startswith("loss/")}
    for backend, values in losses.items():
        for name, value in values.items():
            assert value == pytest.approx(losses["plain"][name], rel=1e-2), (backend, name)


@triton
@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_dit_is_the_same(position):
    sizes = {"patch": 2, "width": 64, "depth": 2, "head_width": 32, "mlp": 2, "embedding": 32,
             "outputs": 1}  # fmt: skip
    net = DiT(Spec((3, 32, 32), 3), **sizes, position=position, qk_norm=True, dropout=0.0).cuda()
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    x, t = torch.randn(4, 3, 32, 32, device="cuda"), torch.rand(4, device="cuda")
    y = torch.tensor([0, 1, 2, -1], device="cuda")
    alike(net, lambda: net(x, t, y).square().mean())


@triton
@pytest.mark.parametrize("stream", ["content", "both"])
def test_gpt_is_the_same(stream):
    sizes = {"width": 64, "depth": 2, "head_width": 32, "kv_heads": 1, "mlp": 2}
    rotation = {"position": "rope", "base": 10000, "stretch": "none", "factor": 1, "reach": None}
    rest = {"logn": False, "qk_norm": False, "tied": True, "dropout": 0.0}
    net = GPT(Spec((200,), None, 11), **sizes, **rotation, **rest).cuda()
    tokens = torch.randint(11, (2, 200), device="cuda")
    mask = MaskSpec.permuted(torch.randperm(200), stream=stream)

    def loss():
        return nn.functional.cross_entropy(net(tokens, mask).flatten(0, 1), tokens.flatten())

    alike(net, loss)


def alike(net, loss):
    """Loss and slopes under every backend are those of the products written out, in bf16."""
    found = {}
    for backend in ("plain", "triton", "sdpa"):
        for layer in (m for m in net.modules() if isinstance(m, AttentionLayer)):
            layer.backend = backend
        net.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            value = loss()
        value.backward()
        slopes = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
        found[backend] = value.detach(), torch.cat(slopes)
    for backend in ("triton", "sdpa"):
        for mine, plain in zip(found[backend], found["plain"], strict=True):
            assert (mine - plain).norm() <= 0.02 * plain.norm(), backend
