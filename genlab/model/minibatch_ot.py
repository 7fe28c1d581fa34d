"""Which noise belongs to which datum."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.nn.full_precision import full_precision

__all__ = ["optimal_pairing"]


def optimal_pairing(x: Tensor, noise: Tensor, y: Tensor | None) -> Tensor:
    """[B] indices into noise [B, *S]: the pairing with x [B, *S] of least squared distance.

    Exact optimal transport between the two sets, O(B^3) on the CPU, which waits for the device.
    With labels y [B] a datum takes noise that was drawn for its own class, so that the noise of
    every class stays standard normal.
    """
    from scipy.optimize import linear_sum_assignment

    # |x - z|^2 differs from -2 <x, z> by what no pairing changes
    with full_precision(x.device):  # rounded to bf16 the products would pair others
        cost = -(x.flatten(1).float() @ noise.flatten(1).float().T)
    if y is not None:
        cost = cost.masked_fill(y[:, None] != y, torch.inf)
    _, order = linear_sum_assignment(cost.double().cpu().numpy())
    return torch.from_numpy(order).to(x.device)
