"""The attention function: every backend of a CPU against softmax written out by hand."""

import random

import pytest
import torch
from torch.autograd import gradcheck

from genlab.core.errors import DeviceError
from genlab.kernel import dispatch
from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from tests.helpers.dense_attention import assert_right, dense, tokens
from tests.helpers.masks import ALL, KINDS, SLOPES, random_mask

HERE = ("auto", "sdpa", "plain")


def close(found, wanted):
    """To the digits that the type of what was found has."""
    torch.testing.assert_close(found, wanted.to(found.dtype))


def assert_backend(backend, mask):
    def attend(q, k, v, lse):
        out = attention(q, k, v, mask, lse=lse, backend=backend)
        return out if lse else (out, None)

    assert_right(attend, mask)


@pytest.mark.parametrize("mask", ALL.values(), ids=ALL)
def test_the_products_written_out_are_those_by_hand(mask):
    q, k, v = tokens(mask, dtype=torch.float64)
    out, sums = attention(q, k, v, mask, backend="plain", lse=True)
    wanted, wanted_sums = dense(q, k, v, mask)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(sums, wanted_sums)
    scaled = attention(q, k, v, mask, backend="plain", scale=0.7)
    torch.testing.assert_close(scaled, dense(q, k, v, mask, 0.7)[0])


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("mask", ALL.values(), ids=ALL)
def test_values_sums_and_slopes_under_every_mask(mask, backend):
    assert_backend(backend, mask)


@pytest.mark.parametrize("backend", HERE)
def test_random_masks_and_odd_shapes(backend):
    rng = random.Random(0)
    for _ in range(12):
        mask = random_mask(rng, 20)
        mask = mask.sloped(SLOPES) if rng.random() < 0.3 else mask
        q, k, v = tokens(mask, shared=rng.choice([4, 2, 1]), width=rng.choice([1, 3, 16]))
        wanted, _ = dense(q, k, v, mask)
        close(attention(q, k, v, mask, backend=backend), wanted)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("alibi", [False, True])
def test_a_query_that_sees_nothing_gets_zero_and_no_slope(backend, alibi):
    mask = MaskSpec.permuted(torch.tensor([1, 0, 2]), stream="query")
    q, k, v = (t.requires_grad_() for t in tokens(mask))
    out = attention(q, k, v, mask.sloped(SLOPES) if alibi else mask, backend=backend)
    assert not out[:, :, 1].any() and out[:, :, [0, 2]].all()
    slopes = torch.autograd.grad(out.square().sum() + out.sum(), (q, k, v))
    assert all(slope.isfinite().all() for slope in slopes)
    assert not slopes[0][:, :, 1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["bidirectional", "causal", "prefix", "window", "packed"])
def test_half_precision_is_as_good_as_the_products_written_out(kind, dtype):
    mask = KINDS[kind]
    q, k, v = tokens(mask, width=32, dtype=dtype)
    wanted, _ = dense(q, k, v, mask)
    off = {b: (attention(q, k, v, mask, backend=b) - wanted).abs().max() for b in HERE}
    assert max(off.values()) <= 2 * off["plain"], off
    assert attention(q, k, v, mask).dtype == dtype


def test_strides_do_not_matter():
    q, k, v = torch.randn(2, 7, 3, 4, 8).permute(2, 0, 3, 1, 4)  # views of one product
    for backend in HERE:
        torch.testing.assert_close(
            attention(q, k, v, backend=backend),
            attention(*(t.contiguous() for t in (q, k, v)), backend=backend),
        )


# --- the sums ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bidirectional", "causal, more queries", "window"])
def test_slopes_of_the_sums(kind):
    mask = KINDS[kind]
    given = [t.requires_grad_() for t in tokens(mask, heads=1, width=2, dtype=torch.float64)]

    def function(q, k, v):
        out, sums = attention(q, k, v, mask, lse=True)
        return out, sums.masked_fill(sums == float("-inf"), 0.0)

    assert gradcheck(function, given, fast_mode=True)


# --- who computes, and what is refused -----------------------------------------------------------


def computed_by(monkeypatch, *given, **keys):
    """The backend that attention(...) on these chooses."""
    found, choose = [], dispatch._choose
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_choose", lambda *a: (found.append(choose(*a)), "plain")[1])
        attention(*given, **keys)
    return found[0]


def test_what_auto_means_on_a_cpu(monkeypatch):
    def chosen(mask, dtype=torch.float32, **keys):
        return computed_by(monkeypatch, *tokens(mask, dtype=dtype), mask, **keys)

    short, long = MaskSpec.bidirectional(8), MaskSpec.bidirectional(dispatch.SHORT + 1)
    assert chosen(short) == "sdpa"
    assert chosen(short, torch.bfloat16) == "plain"
    assert chosen(long, torch.bfloat16) == "sdpa"
    assert chosen(short, torch.float64) == "plain"
    assert chosen(MaskSpec.prefix(2, 8)) == "sdpa"
    assert (
        chosen(short, lse=True)
        == chosen(short, dropout=0.1)
        == chosen(short, double_backward=True)
    )
    monkeypatch.setattr(dispatch, "LONG", 8)
    assert chosen(MaskSpec.prefix(2, 9)) == "chunked"
    assert chosen(MaskSpec.bidirectional(9)) == chosen(MaskSpec.causal(9)) == "sdpa"
    assert chosen(MaskSpec.causal(4, 9)) == "chunked", "torch's causal flag is for squares"
    assert chosen(MaskSpec.causal(9), lse=True) == "chunked"


def test_a_fallback_is_said_once(said):
    q, k, v = tokens(MaskSpec.bidirectional(4))
    for _ in range(2):
        attention(q, k, v, backend="sdpa", dropout=0.5)
        attention(q, k, v, backend="flex", double_backward=True)
    assert said == [
        "attention: sdpa has no dropout here, so plain is used",
        "attention: flex has no second and no forward-mode derivatives, so plain is used where "
        "they are taken",
    ]
    attention(q, k, v, dropout=0.5, double_backward=True)
    assert len(said) == 2, "auto chooses; it does not fall back"


Q, LESS = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 4)
WRONG = {
    "takes q of [batch, heads, tokens, width], not [4, 6, 8]": (Q[0], Q, Q),
    "takes v of [batch, heads, tokens, width]": (Q, Q, Q[0]),
    "k and v of one shape, not [2, 4, 6, 8] and [2, 4, 6, 4]": (Q, Q, LESS),
    "differ in batch or width": (Q, LESS, LESS),
    "q [2, 4, 6, 8] and k [1, 4, 6, 8] differ in batch": (Q, Q[:1], Q[:1]),
    "4 query heads cannot share 3 key heads": (Q, Q[:, :3], Q[:, :3]),
    "q, k and v are torch.float32, torch.bfloat16": (Q, Q.bfloat16(), Q),
    "computes floating-point numbers, not torch.int64": (Q.long(), Q.long(), Q.long()),
    "lie on cpu, meta and cpu": (Q, Q.to("meta"), Q),
    "for 6 queries and 5 keys, and q and k have 6 and 6": (Q, Q, Q, MaskSpec.causal(6, 5)),
    "a batch of 3, and q has 2": (Q, Q, Q, MaskSpec.prefix(torch.tensor([1, 2, 3]), 6)),
    "have no heads or no width": (Q[..., :0], Q[..., :0], Q[..., :0]),
    "[2, 0, 6, 8] have no heads": (Q, Q[:, :0], Q[:, :0]),
    "a mask is a MaskSpec, not a Tensor": (Q, Q, Q, torch.ones(6, 6)),
    "2 ALiBi slopes for 4 heads": (Q, Q, Q, MaskSpec.causal(6).sloped(SLOPES[:2])),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_errors_are_one_sentence(sentence):
    with pytest.raises(ValueError) as e:
        attention(*WRONG[sentence])
    assert sentence in str(e.value) and "\n" not in str(e.value)


def test_a_backend_that_is_none():
    with pytest.raises(ValueError, match="by auto, triton, flex, sdpa, plain, not by 'cudnn'"):
        attention(Q, Q, Q, backend="cudnn")


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_is_none(dropout):
    with pytest.raises(ValueError, match=r"dropout is in \[0, 1\), not"):
        attention(Q, Q, Q, dropout=dropout)


def test_backends_that_are_not_there(monkeypatch):
    slope = Q.clone().requires_grad_()
    monkeypatch.setattr(dispatch, "TRITON", False)
    with pytest.raises(DeviceError, match="Triton is not installed"):
        attention(Q, Q, Q, backend="triton")
    monkeypatch.setattr(dispatch, "TRITON", True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(DeviceError, match="needs a GPU, and the device is cpu"):
        attention(Q, Q, Q, backend="triton")
    with pytest.raises(DeviceError, match="cannot train on a CPU"):
        attention(slope, slope, slope, backend="flex")
    for backend in ("triton", "flex"):
        with pytest.raises(DeviceError, match="not float64; use hardware"):
            attention(Q.double(), Q.double(), Q.double(), backend=backend)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for dtype, most in dispatch.BACKENDS["triton"].widest.items():
        wide = torch.randn(1, 1, 2, most + 1, dtype=dtype)
        with pytest.raises(
            DeviceError, match=f"no tiles for heads of {most + 1}.* use more heads"
        ):
            attention(wide, wide, wide, backend="triton")
