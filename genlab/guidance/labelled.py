"""The rule of classifier-free guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.core.contract import BoundDenoiser, Denoiser

__all__ = ["labelled"]


def labelled(denoise: Denoiser, y: Tensor | None, scale: float) -> BoundDenoiser:
    """(x, t) -> x0(x, t, none) + scale (x0(x, t, y) - x0(x, t, none)), labels y [B] or None.

    With scale 1 only the labelled estimate is computed (bit for bit the plain conditional one),
    with scale 0 only the unlabelled one, else both in one batch of twice the size. Without labels
    it is the plain denoiser.
    """
    if y is None or scale == 1:
        return lambda x, t: denoise(x, t, y)
    if scale == 0:
        return lambda x, t: denoise(x, t, None)
    both = torch.cat([y, torch.full_like(y, -1)])  # a label below 0 is no label

    def guided(x: Tensor, t: Tensor) -> Tensor:
        with_label, none = denoise(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return none.lerp(with_label, scale)

    return guided
