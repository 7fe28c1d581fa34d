"""Run by test_triton.py with TRITON_INTERPRET=1: the operator as autograd and compilers see it."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from genlab.core.contract import Spec
from genlab.kernel.backend import Arguments
from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from genlab.kernel.triton import operator
from genlab.network.dit import DiT
from genlab.network.gpt import GPT
from genlab.nn.attention import AttentionLayer
from tests.helpers.dense_attention import dense, inputs
from tests.helpers.masks import masks_of


def attend(q, k, v, mask=None, **more):
    return attention(q, k, v, mask, backend="triton", **more)


@pytest.mark.parametrize("kind", ["full", "causal", "query"])
def test_gradcheck(kind):
    """Finite differences of the float32 kernel along random directions."""
    mask = masks_of(5)[kind]
    given = inputs(mask, heads=2, shared=1, width=4, batch=1)

    def both(*t):
        out, lse = attend(*t, mask, lse=True)
        return out, lse.where(lse.isfinite(), 0)

    assert torch.autograd.gradcheck(
        both,
        given,
        eps=1e-2,
        atol=2e-3,
        rtol=1e-2,
        fast_mode=True,
        check_undefined_grad=kind == "query",
    )


def arguments(mask):
    q, k, v = inputs(mask, heads=2, shared=1, batch=1)
    sides, lists = mask.sides(q.device), operator.tiles(mask, q.device, operator.LISTED)
    tensors = (sides.q, sides.k, lists.k, lists.q, None, None)
    return (q, k, v, *tensors, 2, operator.LISTED, False, *mask.bounds(), 0.25, 0.0)


def test_opcheck():
    torch.library.opcheck(operator._attention, arguments(MaskSpec.prefix(4, 9)))


def test_opcheck_of_the_way_back():
    q, k, v, *rest = arguments(MaskSpec.prefix(4, 9))
    q, k, v = (t.detach() for t in (q, k, v))
    out, lse = operator._attention(q, k, v, *rest)
    given = (q, k, v, out, lse, torch.randn_like(out), torch.randn_like(lse), *rest)
    torch.library.opcheck(operator._backward, given)


@pytest.mark.parametrize("kind", ["full", "causal", "prefix", "alibi"])
def test_compiled_whole(kind):
    mask = masks_of(20)[kind]
    q, k, v = inputs(mask, batch=1)

    def loss(q, k, v):
        return attend(q * 2, k, v, mask).square().sum()

    true = torch.autograd.grad(loss(q, k, v), (q, k, v))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, b in zip(torch.autograd.grad(compiled(q, k, v), (q, k, v)), true, strict=True):
        torch.testing.assert_close(a, b)


def test_exported_as_one_node():
    class Net(torch.nn.Module):
        def forward(self, q, k, v):
            return attend(q, k, v, MaskSpec.causal(q.shape[2]))

    q, k, v = (t.detach() for t in inputs(MaskSpec.causal(20)))
    exported = torch.export.export(Net(), (q, k, v))
    names = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
    assert sum("genlab.attention" in name for name in names) == 1
    torch.testing.assert_close(exported.module()(q, k, v), attend(q, k, v, MaskSpec.causal(20)))


def test_checkpointed():
    mask = masks_of(20)["prefix"]
    q, k, v = inputs(mask, batch=1)
    torch.manual_seed(0)
    once = torch.autograd.grad(attend(q, k, v, mask, dropout=0.2).sum(), (q, k, v))
    torch.manual_seed(0)
    out = checkpoint(attend, q, k, v, mask, dropout=0.2, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(out.sum(), (q, k, v)), once, strict=True):
        assert torch.equal(a, b)


def test_autocast_brings_it_to_half_precision():
    mask = MaskSpec.causal(20)
    q, k, v = inputs(mask)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v, mask)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), dense(q, k, v, mask)[0], atol=3e-2, rtol=3e-2)
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32


def test_a_second_derivative_raises():
    q, k, v = inputs(MaskSpec.causal(9))
    (slope,) = torch.autograd.grad(attend(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        slope.sum().backward()


def test_a_second_derivative_where_it_is_announced():
    mask = MaskSpec.prefix(3, 9)
    slopes = []
    for second in (
        lambda *t: attend(*t, mask, double_backward=True),
        lambda *t: dense(*t, mask)[0],
    ):
        q, k, v = inputs(mask)
        (slope,) = torch.autograd.grad(second(q, k, v).square().sum(), q, create_graph=True)
        slopes.append(torch.autograd.grad(slope.square().sum(), k)[0])
    assert slopes[1].abs().max() > 0.1
    torch.testing.assert_close(slopes[0], slopes[1].float(), atol=1e-4, rtol=1e-4)


def test_forward_mode_is_never_zero():
    """Through the operator itself a tangent is lost without a word; so it never gets there."""
    q, k, v = (t.detach() for t in inputs(MaskSpec.causal(9)))
    mask = MaskSpec.causal(9)
    _, lost = torch.func.jvp(
        lambda t: operator.attend(t, k, v, Arguments(mask, 0.25))[0], (q,), (q,)
    )
    assert lost.abs().max() == 0  # once this fails, the detour can go
    _, tangent = torch.func.jvp(lambda t: attend(t, k, v, mask), (q,), (q,))
    _, true = torch.func.jvp(lambda t: dense(t, k, v, mask)[0], (q,), (q,))
    assert true.abs().max() > 0.01
    torch.testing.assert_close(tangent, true.float(), atol=1e-5, rtol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, q)
        found = torch.autograd.forward_ad.unpack_dual(attend(dual, k, v, mask)).tangent
    torch.testing.assert_close(found, true.float(), atol=1e-5, rtol=1e-5)


def trained(net, loss):
    """Loss and gradients of a network, by backend of its attention layers."""
    found = {}
    for backend in ("plain", "triton"):
        for layer in net.modules():
            if isinstance(layer, AttentionLayer):
                layer.backend = backend
        net.zero_grad()
        value = loss(net)
        value.backward()
        found[backend] = [value.detach(), *(p.grad for p in net.parameters())]
    return found


def assert_alike(found):
    for a, b in zip(found["plain"], found["triton"], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)


def randomized(net):
    """What starts at zero would hide a difference."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return net


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_dit_is_the_same(position):
    sizes = {
        "patch": 2,
        "width": 16,
        "depth": 1,
        "head_width": 8,
        "mlp": 2,
        "embedding": 8,
        "outputs": 1,
    }
    net = DiT(Spec((1, 8, 8), 3), **sizes, position=position, qk_norm=True, dropout=0.0)
    x, t, y = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, -1])
    assert_alike(trained(randomized(net), lambda net: net(x, t, y).square().mean()))


@pytest.mark.parametrize("kind", ["causal", "both"])
def test_gpt_is_the_same(kind):
    sizes = {"width": 16, "depth": 1, "head_width": 8, "kv_heads": 1, "mlp": 2}
    rotation = {"position": "rope", "base": 100, "stretch": "none", "factor": 1, "reach": None}
    rest = {"logn": True, "qk_norm": False, "tied": True, "dropout": 0.0}
    net = randomized(GPT(Spec((40,), None, 11), **sizes, **rotation, **rest))
    tokens = torch.randint(11, (1, 40))

    def loss(net):
        logits = net(tokens, masks_of(40)[kind])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    assert_alike(trained(net, loss))
