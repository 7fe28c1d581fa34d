"""What a mask keeps of what was made of it, and where it goes: copies, compilers, transforms."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from tests.helpers.masks import KINDS


def same(mask, wanted):
    assert torch.equal(mask.dense(), wanted)


def test_what_is_made_in_inference_can_be_trained_with():
    mask = MaskSpec.prefix(2, 4)
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    with torch.inference_mode():
        attention(q, q, q, mask)
    attention(q, q, q, mask, backend="plain").sum().backward()
    assert q.grad is not None


def test_a_mask_is_gone_with_its_last_name():
    """What is made each step must not wait on the GPU for a collection of cycles."""
    mask = MaskSpec.prefix(torch.tensor([2, 3]), 4)
    sides = weakref.ref(mask.to("cpu").sides(torch.device("cpu")).q)
    gc.disable()
    try:
        del mask
        assert sides() is None
    finally:
        gc.enable()


def test_nothing_of_a_transform_is_kept():
    mask = MaskSpec.prefix(2, 4)
    q = torch.randn(1, 1, 4, 8)
    torch.func.jvp(lambda q: attention(q, q, q, mask), (q,), (q,))
    with FakeTensorMode():
        attention(*(torch.randn(1, 1, 4, 8) for _ in range(3)), MaskSpec.causal(4))
        mask.once("made here", lambda: torch.zeros(1))
    assert not mask.cache
    copy.deepcopy(mask)


def test_what_is_moved_in_inference_can_be_trained_with():
    mask = MaskSpec.permuted(torch.arange(4), stream="both").sloped(torch.ones(2))
    with torch.inference_mode():
        mask.to("meta")
    moved = mask.to("meta")
    assert moved is mask.to("meta"), "once"
    for t in (moved.position_q, moved.slopes, moved.steepness(torch.device("meta"))):
        assert not t.is_inference()


def test_copies_see_the_same():
    for mask in KINDS.values():
        for other in (copy.deepcopy(mask), pickle.loads(pickle.dumps(mask)), mask.to("cpu")):
            same(other, mask.dense())
    mask.once("code", lambda: lambda: None)
    assert not pickle.loads(pickle.dumps(mask)).cache and not copy.deepcopy(mask).cache


MADE = {
    "bidirectional": lambda: MaskSpec.bidirectional(6),
    "causal": lambda: MaskSpec.causal(6),
    "causal, more queries": lambda: MaskSpec.causal(8, 6),
    "prefix": lambda: MaskSpec.prefix(3, 6),
    "block-causal": lambda: MaskSpec.block_causal([1, 2, 3]),
    "permuted": lambda: MaskSpec.permuted(torch.arange(6).flip(0), stream="query"),
    "window": lambda: MaskSpec.sliding_window(6, left=2, right=1),
    "packed": lambda: MaskSpec.packed([2, 4], causal=True),
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_masks_inside_and_outside_of_a_compiled_function(made):
    outside = made()
    torch._dynamo.reset()
    q, k = torch.randn(2, 1, outside.queries, 8), torch.randn(2, 1, 6, 8)
    for function in (
        lambda q, k: attention(q, k, k, made(), backend="plain"),
        lambda q, k: attention(q, k, k, outside, backend="plain"),
    ):
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(q, k), attention(q, k, k, made(), backend="plain"))
    assert not outside.cache, "what is traced belongs to its graph"


def test_a_mask_survives_recomputation():
    q, mask = torch.randn(1, 2, 6, 8, requires_grad=True), MaskSpec.prefix(2, 6)
    for make in (lambda: mask, lambda: MaskSpec.prefix(2, 6)):
        slopes = []
        for wrap in (lambda f, *a: f(*a), lambda f, *a: checkpoint(f, *a, use_reentrant=False)):
            (out,) = torch.autograd.grad(
                wrap(lambda q, make=make: attention(q, q, q, make()), q).square().sum(), q
            )
            slopes.append(out)
        torch.testing.assert_close(*slopes)
