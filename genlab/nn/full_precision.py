"""Products of 32 bits, whatever a run has chosen for its own networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, and on a GPU no TF32, whose products have 10 bits."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        modes = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [m.allow_tf32 for m in modes]
        try:
            for m in modes:
                m.allow_tf32 = False
            yield
        finally:
            for m, value in zip(modes, before, strict=True):
                m.allow_tf32 = value
