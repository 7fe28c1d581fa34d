"""Run by test_triton.py with TRITON_INTERPRET=1: numbers against dense ones in float64."""

import random

import pytest
import torch

from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from genlab.kernel.triton import operator, tuning
from genlab.kernel.triton.tuning import Config
from tests.helpers.dense_attention import all_of, dense, inputs
from tests.helpers.masks import masks_of, random_mask

assert tuning.INTERPRETED


def slow(*values):
    """Parameters beyond those that reach every branch of the kernels."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def compared(mask, dtype=torch.float32, **shape):
    """Largest errors of the kernel and of the math backend: of out, lse and the gradients.

    The smallest batch and heads that fit the mask, as every program takes a tenth of a second.
    """
    least = {"batch": mask.batch, "heads": 1 if mask.slopes is None else 2}
    given = inputs(mask, dtype=dtype, **least | shape)
    true = all_of(lambda *t: dense(*t, mask), given)

    def errors(backend):
        found = all_of(lambda *t: attention(*t, mask, lse=True, backend=backend), given)
        return [float((a.double() - b).abs().max()) for a, b in zip(found, true, strict=True)]

    return errors("triton"), errors("plain"), [float(t.abs().max()) for t in true]


def assert_near(found, plain, sizes, least=1e-6):
    """At most twice the error of the dense computation of the same type."""
    for mine, theirs, size in zip(found, plain, sizes, strict=True):
        assert mine <= max(2 * theirs, least * max(1, size))


@pytest.mark.parametrize("kind", masks_of(66))
def test_every_mask(kind):
    assert_near(*compared(masks_of(66)[kind]), least=3e-6)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("full", torch.bfloat16),
        ("causal", torch.float16),
        ("both", torch.bfloat16),
        ("packed window", torch.float16),
        ("alibi", torch.bfloat16),
    ],
)
def test_half_precision(kind, dtype):
    assert_near(*compared(masks_of(40)[kind], dtype))


@pytest.mark.parametrize("kind", ["full", "causal", "padded"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (17, 1), (33, 17), (65, 129), *slow((1, 17), (129, 65))]
)
def test_odd_lengths(shape, kind):
    """More queries than keys leave causal rows empty."""
    assert_near(*compared(masks_of(*shape)[kind]), least=3e-6)


@pytest.mark.parametrize(("kind", "shared"), [("causal", 1), ("prefix", 2)])
def test_heads_that_share_keys(kind, shared):
    assert_near(*compared(masks_of(40)[kind], heads=4, shared=shared, batch=2), least=3e-6)


@pytest.mark.parametrize("width", [1, 24, 256, *slow(5, 64, 128)])
def test_widths_of_a_head(width):
    """Those that are no power of two are padded."""
    dtype = torch.float32 if width <= 128 else torch.float16
    found, plain, sizes = compared(MaskSpec.causal(20), dtype, width=width)
    assert_near(found, plain, sizes, least=3e-6)


def test_a_query_that_sees_nothing():
    mask = MaskSpec.permuted(torch.arange(40).flip(0), stream="query")
    q, k, v = inputs(mask)
    out, lse = attention(q, k, v, mask, lse=True, backend="triton")
    (out.sum() + lse.where(lse.isfinite(), 0).sum()).backward()
    assert (out[:, :, 39] == 0).all() and (lse[:, :, 39] == -torch.inf).all()
    assert (q.grad[:, :, 39] == 0).all()
    assert all(t.grad.isfinite().all() for t in (q, k, v))


def test_no_keys_and_no_queries():
    q, k = torch.randn(2, 2, 3, 16), torch.randn(2, 2, 0, 16)
    out, lse = attention(q, k, k, lse=True, backend="triton")
    assert (out == 0).all() and (lse == -torch.inf).all()
    assert attention(k, q, q, backend="triton").shape == (2, 2, 0, 16)


@pytest.mark.parametrize(
    ("kind", "tile"),
    [
        ("causal", Config(32, 32, 4, 1)),
        ("packed", Config(32, 64, 4, 1)),
        ("content", Config(64, 64, 4, 1)),
    ],
)
def test_tiles_of_other_sizes(kind, tile, monkeypatch):
    """A block of the lists is one, two or four tiles."""
    monkeypatch.setattr(tuning, "INTERPRETER", tile)
    assert_near(*compared(masks_of(66)[kind]), least=3e-6)


@pytest.mark.parametrize("kind", ["causal", "prefix"])
def test_tiles_by_descriptors(kind, monkeypatch):
    monkeypatch.setattr(tuning, "INTERPRETER", Config(64, 32, 4, 1, True))
    assert_near(*compared(masks_of(66)[kind]), least=3e-6)


def test_strides():
    """Views of one projection, and gradients that were expanded."""
    mask = MaskSpec.prefix(20, 50)
    qkv = torch.randn(2, 50, 3, 2, 16, requires_grad=True)

    def slope(attend):
        (grad,) = torch.autograd.grad(attend(*qkv.permute(2, 0, 3, 1, 4)).sum(), qkv)
        return grad

    found = slope(lambda *t: attention(*t, mask, backend="triton"))
    true = slope(lambda *t: dense(*t, mask)[0])
    torch.testing.assert_close(found, true.float(), atol=1e-5, rtol=1e-5)
    q, k, v = (torch.randn(2, 2, 16, 50).mT for _ in range(3))  # the width is not the inner axis
    found = attention(q, k, v, mask, backend="triton")
    torch.testing.assert_close(found, dense(q, k, v, mask)[0].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "packed window"])
def test_dropout_takes_the_places_of_the_plain_products(kind):
    mask = masks_of(40)[kind]
    given = inputs(mask)
    found = []
    for backend in ("triton", "plain"):

        def attend(*t, backend=backend):
            torch.manual_seed(3)
            return attention(*t, mask, dropout=0.3, lse=True, backend=backend)

        found.append(all_of(attend, given))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0][0], all_of(lambda *t: dense(*t, mask), given)[0].float())


def test_the_backward_pass_is_the_same_every_time():
    mask = masks_of(40)["both"]
    given = inputs(mask, dtype=torch.float16, batch=1)
    runs = [
        all_of(lambda *t: attention(*t, mask, lse=True, backend="triton"), given) for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("seed", [0, 1, *slow(*range(2, 20))])
def test_any_mask(seed, monkeypatch):
    """Every term with or without the others, of any lengths, over several blocks of the lists."""
    monkeypatch.setattr(operator, "LISTED", 32)
    monkeypatch.setattr(
        tuning, "INTERPRETER", Config(32, 16, 4, 1) if seed % 2 else Config(16, 32, 4, 1)
    )
    mask = random_mask(random.Random(seed), longest=60)
    assert_near(*compared(mask, batch=mask.batch), least=3e-6)


@pytest.mark.parametrize("kind", ["causal", "prefix", *slow("both", "packed")])
def test_nothing_is_read_behind_the_last_token(kind, monkeypatch):
    """Lists end with whole blocks, whose last tiles may lie behind all queries or keys."""
    monkeypatch.setattr(tuning, "INTERPRETER", Config(32, 32, 4, 1))
    mask = masks_of(96)[kind]

    def among_nan(t):
        wide = torch.full((*t.shape[:2], t.shape[2] + 64, t.shape[3]), torch.nan)
        wide[:, :, : t.shape[2]] = t.detach()
        return wide[:, :, : t.shape[2]]

    given = inputs(mask, heads=1, shared=1, batch=mask.batch)
    slope = among_nan(torch.ones_like(given[0]))
    found = []
    for tensors in (given, [among_nan(t).requires_grad_() for t in given]):
        out = attention(*tensors, mask, backend="triton")
        found.append([out, *torch.autograd.grad(out, tensors, slope)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_heads_far_apart_in_memory():
    """More than 2^31 numbers from the first to the last; pages nobody touches cost nothing."""
    try:
        far = torch.empty(3 * (2**30 + 64), dtype=torch.float16)
    except RuntimeError:
        pytest.skip("this machine promises no 6 GB of memory")
    q, k, v = (
        far.as_strided((1, 3, 8, 16), (0, 2**30 + 64, 16, 1), 128 * i).normal_() for i in range(3)
    )
    near = [t.clone() for t in (q, k, v)]
    for t in (q, k, v):
        t.requires_grad_()
    found = attention(q, k, v, MaskSpec.causal(8), backend="triton")
    torch.testing.assert_close(found, attention(*near, MaskSpec.causal(8), backend="triton"))
    torch.autograd.grad(found.sum(), (q, k, v))


def test_what_comes_back_to_the_sum_of_nothing_is_nothing():
    mask = MaskSpec.causal(20, 10)  # ten queries see no key
    slopes = []
    for backend in ("triton", "plain"):
        q, k, v = inputs(mask)
        _, lse = attention(q, k, v, mask, lse=True, backend=backend)
        doubled = torch.logaddexp(lse, lse)  # its slope at -inf is not a number
        doubled.where(lse.isfinite(), 0).sum().backward()
        slopes.append((q.grad, k.grad))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
