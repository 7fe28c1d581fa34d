"""Norms over the numbers of a token: their formulas, and the type they return."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from genlab.nn.attention import SelfAttention
from genlab.nn.norm import GroupNorm, LayerNorm, RMSNorm
from genlab.nn.rotary import Rotary
from genlab.nn.transformer import MLP, AdaLNBlock
from tests.nn.test_transformer import CLOSE, B, C, D, T, drawn, normal, stirred


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_norms_keep_the_type_they_are_given(dtype, autocast):
    x = drawn(B, T, C).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for norm in (LayerNorm(C), LayerNorm(C, affine=False), RMSNorm(C)):
            assert norm(x).dtype == dtype
        shifted = LayerNorm(C, affine=False)(x, drawn(B, C), drawn(B, C))
        assert shifted.dtype == dtype


@pytest.fixture
def cuda_autocast():
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", before[0])
    torch.set_autocast_dtype("cuda", before[1])


def test_norms_keep_their_type_where_autocast_would_not(cuda_autocast):
    """On CUDA, told from tensors without storage: torch's own norms return float32 there."""
    with FakeTensorMode(), torch.device("cuda"):
        h, e = (torch.empty(*shape, dtype=torch.bfloat16) for shape in ((B, T, C), (B, C)))
        assert nn.LayerNorm(C)(h).dtype == torch.float32
        for norm in (LayerNorm(C), LayerNorm(C, affine=False), RMSNorm(C)):
            assert norm(h).dtype == torch.bfloat16
        assert LayerNorm(C, affine=False)(h, e, e).dtype == torch.bfloat16
        assert GroupNorm(T)(h[..., None]).dtype == torch.bfloat16
        attention = SelfAttention(C, D, qk_norm=True, rotary=Rotary(D))
        attention.backend = "plain"
        assert AdaLNBlock(C, C, attention, MLP(C, 2 * C))(h, e).dtype == torch.bfloat16


@torch.no_grad()
def test_norms_by_formula():
    x, scale, shift = 3 + 2 * drawn(B, T, C), drawn(B, C, seed=1), drawn(B, C, seed=2)
    layer, root = stirred(LayerNorm(C)), stirred(RMSNorm(C))
    affine = normal(x) * layer.weight.double() + layer.bias.double()
    torch.testing.assert_close(layer(x).double(), affine, **CLOSE)
    moved = affine * (1 + scale[:, None]) + shift[:, None]
    torch.testing.assert_close(layer(x, scale, shift).double(), moved, **CLOSE)
    wide = x.double()
    mean = wide.square().mean(-1, keepdim=True)
    expected = wide / (mean + 1e-6).sqrt() * root.weight.double()
    torch.testing.assert_close(root(x).double(), expected, **CLOSE)


def test_norms_have_first_and_second_derivatives():
    for norm in (LayerNorm(4).double(), RMSNorm(4).double()):
        x = drawn(2, 3, 4).double().requires_grad_()
        assert torch.autograd.gradcheck(norm, x)
        assert torch.autograd.gradgradcheck(norm, x)
