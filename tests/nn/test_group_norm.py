"""Group norm: that of torch in every layout and type, with its derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genlab.nn.norm import GroupNorm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("conditioned", [False, True])
def test_group_norm_is_that_of_torch_in_both_layouts(layout, conditioned):
    g = torch.Generator().manual_seed(0)
    norm = GroupNorm(12)
    norm.weight.data.normal_(generator=g)
    norm.bias.data.normal_(generator=g)
    x = (5 + torch.randn(3, 12, 4, 5, generator=g)).to(memory_format=layout)
    scale, shift = torch.randn(2, 3, 12, generator=g) if conditioned else (None, None)
    expected = F.group_norm(x.double(), 3, norm.weight.double(), norm.bias.double())
    if conditioned:
        expected = expected * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    y = norm(x, scale, shift)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("side", [3, 8, 16, 24])
def test_group_norm_of_bf16_is_as_good_as_its_rounding(side):
    """Maps of any size, against float64 on the same bf16 numbers.

    y = A x + B, where A, B, y and the sums behind A and B are rounded by 2^-9 of themselves, and
    |A x| + |B| + |y| + |mean| < 16 here.
    """
    g = torch.Generator().manual_seed(0)
    norm = GroupNorm(12)
    x = (2 + torch.randn(2, 12, side, side, generator=g)).bfloat16()
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    ahead = torch.randn(x.shape, generator=g).to(memory_format=torch.channels_last)
    exact = x.detach().double().requires_grad_()
    expected = F.group_norm(exact, 3)
    y = norm(x)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=16 * 2**-9)
    y.backward(ahead.bfloat16())
    expected.backward(ahead.bfloat16().double())
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=0, atol=16 * 2**-9)


def test_group_norm_has_first_and_second_derivatives():
    g = torch.Generator().manual_seed(0)
    norm = GroupNorm(8).double()
    x = torch.randn(2, 8, 3, 2, generator=g, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    scale, shift = torch.randn(2, 2, 8, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(norm, (x, scale, shift))
    assert torch.autograd.gradgradcheck(norm, (x, scale, shift))


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 1), (32, 8), (96, 24), (256, 32)])
def test_group_norm(channels, groups):
    norm = GroupNorm(channels)
    assert norm.num_groups == groups
    x = 3 + 2 * torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    per_group = norm(x).detach().view(2, groups, -1)
    torch.testing.assert_close(per_group.mean(-1), torch.zeros(2, groups), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        per_group.var(-1, correction=0), torch.ones(2, groups), atol=1e-4, rtol=0
    )
    assert norm(x.bfloat16()).dtype == torch.bfloat16
