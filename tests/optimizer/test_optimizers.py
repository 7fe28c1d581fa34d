"""Optimizers against their papers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.optimizer.adamax import Adamax
from genlab.optimizer.adamw import Adam, AdamW


def test_adamax_is_algorithm_2():
    p = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    keys = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-12, "weight_decay": 0.0, "clip": None}
    optimizer = Adamax([p], **keys)
    theta, m, u = p.detach().double(), torch.zeros(3).double(), torch.zeros(3).double()
    for t, g in enumerate([[1.0, 0.1, -3.0], [0.5, 0.2, 0.1], [-2.0, 0.1, 0.0]], start=1):
        p.grad = torch.tensor(g)
        optimizer.step()
        wide = torch.tensor(g).double()
        m = 0.9 * m + 0.1 * wide
        u = torch.maximum(0.99 * u, wide.abs())
        theta = theta - 0.1 / (1 - 0.9**t) * m / u
        torch.testing.assert_close(p.detach().double(), theta, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="betas"):
        Adamax([p], **{**keys, "betas": (0.9,)})


@pytest.mark.parametrize(
    ("ours", "torchs"), [(AdamW, torch.optim.AdamW), (Adam, torch.optim.Adam)]
)
def test_keys_reach_the_optimizer_of_torch(ours, torchs):
    keys = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2}
    a, b = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    for p, optimizer in ((a, ours([a], clip=None, **keys)), (b, torchs([b], fused=True, **keys))):
        for _ in range(3):
            p.grad = 2 * p.detach() + 1
            optimizer.step()
    assert torch.equal(a, b)
