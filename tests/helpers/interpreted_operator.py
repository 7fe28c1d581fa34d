"""Run by test_triton.py with TRITON_INTERPRET=1: the operator as autograd and compilers see it."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from genlab.core.contract import Spec
from genlab.kernel.backend import Arguments
from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from genlab.kernel.triton import operator
from genlab.network.gpt import GPT
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

    assert torch.autograd.gradcheck(both, given, eps=1e-2, atol=2e-3, rtol=1e-2, fast_mode=True,
                                    check_undefined_grad=kind == "query")  # fmt: skip


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


def test_through_the_operator_itself_a_tangent_is_lost():
    """Without a word; so none gets there, as tests/kernel/test_attention_transforms.py checks."""
    q, k, v = (t.detach() for t in inputs(MaskSpec.causal(9)))
    args = Arguments(MaskSpec.causal(9), 0.25)
    _, lost = torch.func.jvp(lambda t: operator.attend(t, k, v, args)[0], (q,), (q,))
    assert lost.abs().max() == 0  # once this fails, the detour can go


@pytest.mark.parametrize("kind", ["causal", "both"])
def test_gpt_is_the_same(kind):
    sizes = {"width": 16, "depth": 1, "head_width": 8, "kv_heads": 1, "mlp": 2}
    rotation = {"position": "rope", "base": 100, "stretch": "none", "factor": 1, "reach": None}
    rest = {"logn": True, "qk_norm": False, "tied": True, "dropout": 0.0}
    net = GPT(Spec((40,), None, 11), **sizes, **rotation, **rest)
    for p in net.parameters():  # what starts at zero would hide a difference
        torch.nn.init.normal_(p, std=0.1)
    tokens, found = torch.randint(11, (1, 40)), []
    parameters = [p for name, p in net.named_parameters() if kind == "both" or name != "query"]
    for backend in ("plain", "triton"):
        for block in net.blocks:
            block.attention.backend = backend
        logits = net(tokens, masks_of(40)[kind])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        found.append([loss.detach(), *torch.autograd.grad(loss, parameters)])
    for plain, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-5, rtol=1e-4)
