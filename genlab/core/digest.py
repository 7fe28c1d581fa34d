"""What tells two tensors apart."""

from __future__ import annotations

import hashlib

from torch import Tensor

__all__ = ["tensor_digest"]

BLOCK = 2**24  # numbers copied at a time


def tensor_digest(x: Tensor) -> str:
    """SHA-256 of type, shape [N, ...] without N, and contents, in whatever layout they lie."""
    found = hashlib.sha256(f"{x.dtype} {list(x.shape[1:])} ".encode())
    rows = max(1, BLOCK // max(1, x[:1].numel()))
    for part in x.cpu().split(rows):
        found.update(memoryview(part.contiguous().numpy()).cast("B"))
    return found.hexdigest()
