"""How much memory a process took, and what to do when there is no more."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from genlab.core.errors import OutOfMemory

__all__ = ["is_out_of_memory", "memory", "memory_advice"]


def memory(device: torch.device) -> int:
    """Peak bytes: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_out_of_memory(e: BaseException) -> bool:
    """Whether an error says that memory is exhausted; torch has no class of it for the CPU."""
    known = isinstance(e, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(e)


@contextmanager
def memory_advice(config: Mapping[str, Any]) -> Iterator[None]:
    """Turns running out of device memory into advice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as e:
        half = max(1, config["schedule"]["batch"] // 2)
        raise OutOfMemory(
            f"out of memory ({str(e).splitlines()[0] if str(e) else 'host'}); keep the batch and "
            f"compute it in parts with hardware.micro_batch={half}, or lower schedule.batch"
        ) from e
