"""Attention by blocks of queries against the definition, and that it takes one block at a time."""

from __future__ import annotations

import random

import pytest
import torch

from genlab.kernel import chunked, dispatch, math
from genlab.kernel.backend import Arguments
from genlab.kernel.mask import MaskSpec
from genlab.nn.attention import attention
from tests.helpers.dense_attention import all_of, assert_right, dense, tokens
from tests.helpers.masks import MASKS, random_mask

SCALE = 0.4


@pytest.fixture(autouse=True)
def several(monkeypatch):
    """Blocks of 8 queries and tiles of 4 keys, so that there are several."""
    monkeypatch.setattr(chunked, "BLOCK", 8)
    monkeypatch.setattr(chunked, "TILE", 4)


@pytest.fixture(params=["native", "public"])
def form(request, monkeypatch):
    """With torch's private kernel, and as if it were not there."""
    if request.param == "public":
        monkeypatch.setattr(chunked, "FORWARD", "no_such_operator")
    return request.param


def attend(mask, compute=chunked.attend):
    def computed(q, k, v, lse=True):
        out, sums = compute(q, k, v, Arguments(mask, SCALE, lse=lse))
        assert (sums is not None) == lse
        assert out.dtype == q.dtype
        return out, sums

    return computed


@pytest.mark.parametrize("name", MASKS)
def test_results_and_gradients(name, form):
    assert_right(attend(MASKS[name]), MASKS[name], scale=SCALE)


@pytest.mark.parametrize("name", ["alibi", "permuted", "padding"])
def test_float64_is_exact(name, form):
    # torch's kernel reads a bias of another type than float64 as if it were one
    assert_right(attend(MASKS[name]), MASKS[name], scale=SCALE, dtype=torch.float64, near=1e-12)


@pytest.mark.parametrize("name", ["full", "causal", "query stream", "alibi, window"])
def test_bfloat16_is_as_near_as_the_products_written_out(name, form):
    mask = MASKS[name]
    given = tokens(mask, shared=2, dtype=torch.bfloat16)
    true = all_of(lambda *t: dense(*t, mask, SCALE), given)
    mine, theirs = (
        [(t.double() - exact).norm() for t, exact in zip(found, true, strict=True)]
        for found in (all_of(attend(mask, f), given) for f in (chunked.attend, math.attend))
    )
    assert all(error <= 2 * plain for error, plain in zip(mine, theirs, strict=True))


def test_a_gradient_of_the_sums_alone(form):
    mask = MASKS["query stream"]
    q, k, v = (t.requires_grad_() for t in tokens(mask, shared=2, dtype=torch.float64))
    weight = torch.randn(q.shape[:3]).where(mask.dense().any(2)[:, None], 0.0).double()
    found = []
    for compute in (
        lambda: chunked.attend(q, k, v, Arguments(mask, SCALE, lse=True)),
        lambda: dense(q, k, v, mask, SCALE),
    ):
        _, sums = compute()
        total = (weight * sums.masked_fill(weight == 0, 0.0)).sum()
        found.append(torch.autograd.grad(total, [q, k, v], allow_unused=True))
    for mine, theirs in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(mine, theirs)
    assert found[0][2] is None or not found[0][2].any()


def test_strided_inputs_and_expanded_gradients(form):
    mask = MASKS["window"]
    qkv = torch.randn(2, 41, 3, 4, 8, requires_grad=True)
    found = []
    for compute in (chunked.attend, math.attend):
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out, _ = compute(q, k, v, Arguments(mask, SCALE))
        found += [out, *torch.autograd.grad(out.sum(), qkv)]
    torch.testing.assert_close(found[:2], found[2:])


def test_the_heads_of_a_token_lie_together():
    q, k, v = tokens(MASKS["window"])
    out, _ = chunked.attend(q, k, v, Arguments(MASKS["window"], SCALE))
    assert out.transpose(1, 2).is_contiguous()


def test_a_second_derivative_raises(form):
    mask = MASKS["padding in front"]
    q, k, v = (t.requires_grad_() for t in tokens(mask, shared=2))
    out, _ = chunked.attend(q, k, v, Arguments(mask, SCALE))
    # the gradient given has no graph, where once_differentiable would give a constant
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(first.square().sum(), k)


def test_steps_hold_every_pair_that_is_seen():
    rng = random.Random(0)
    torch.manual_seed(0)
    for mask in [*MASKS.values(), *(random_mask(rng) for _ in range(200))]:
        allowed = mask.dense()
        inside = torch.zeros_like(allowed)
        at = 0
        for step in chunked.steps(mask):
            assert step.rows.start == at
            at = step.rows.stop
            inside[:, step.rows, step.keys] = True
            here = allowed[:, step.rows, step.keys]
            assert step.kind != "full" or here.all()
            assert torch.equal(chunked.part(mask, step).dense().expand_as(here), here)
        assert at == mask.queries
        assert not (allowed & ~inside).any()


def pairs(mask):
    return sum(
        len(range(*s.rows.indices(10**6))) * (s.keys.stop - s.keys.start)
        for s in chunked.steps(mask)
    )


def test_keys_that_no_query_of_a_block_sees_are_passed_over():
    n = 64
    assert pairs(MaskSpec.bidirectional(n)) == n * n
    assert pairs(MaskSpec.causal(n)) == sum(8 * 8 * (i + 1) for i in range(8))
    # 8 queries from i on see keys i - 4 ... i + 7: whole tiles of 4
    assert pairs(MaskSpec.sliding_window(n, left=4)) == 8 * 8 + 7 * 8 * 12
    assert pairs(MaskSpec.packed([16, 48], causal=False)) == 16 * 16 + 48 * 48
    far = torch.zeros(1, n, dtype=torch.int32)
    assert pairs(MaskSpec(n, n, far, far + 1)) == 0


def test_with_alibi_a_block_has_fewer_queries(monkeypatch):
    monkeypatch.setattr(chunked, "BLOCK", 32)
    mask = MaskSpec.bidirectional(64).sloped(torch.ones(2))
    assert [step.rows for step in chunked.steps(mask)][:2] == [slice(0, 16), slice(16, 32)]
    many = MaskSpec.bidirectional(64).sloped(torch.ones(64))
    assert chunked.steps(many)[0].rows == slice(0, 4)


def test_long_sequences_come_here(monkeypatch):
    monkeypatch.setattr(dispatch, "LONG", 32)
    called = []
    real = chunked.attend
    monkeypatch.setattr(chunked, "attend", lambda *a: called.append(1) or real(*a))
    for name, lse in (("permuted", False), ("alibi", False), ("causal", True), ("full", True)):
        mask = MASKS[name]
        q, k, v = tokens(mask, shared=2)
        mine = attention(q, k, v, mask, lse=lse)
        torch.testing.assert_close(mine, attention(q, k, v, mask, lse=lse, backend="plain"))
    assert len(called) == 4


def test_without_the_private_kernel_it_says_so_once(said, monkeypatch):
    monkeypatch.setattr(chunked, "FORWARD", "no_such_operator")
    q, k, v = tokens(MASKS["window"], shared=2)
    for _ in range(2):
        chunked.attend(q, k, v, Arguments(MASKS["window"], SCALE))
    assert len(said) == 1
    assert "computed twice" in said[0]
