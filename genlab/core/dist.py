"""Ranks of a data-parallel run; every function is the identity when alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
import torch.distributed as td
from torch import Tensor

__all__ = [
    "any_",
    "barrier",
    "broadcast_",
    "broadcast_text",
    "gather",
    "is_lost",
    "mean_",
    "rank",
    "start",
    "stop",
    "sum_",
    "sum_grads",
    "world",
]


def start(device: torch.device) -> None:
    """Joins the process group torchrun announces in the environment; nothing without one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not td.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        td.init_process_group(backend, timeout=timedelta(minutes=10))


def stop() -> None:
    """Leaves the process group."""
    if td.is_initialized():
        td.destroy_process_group()


def rank() -> int:
    """Our number among the processes, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def barrier() -> None:
    """Waits for all ranks."""
    if td.is_initialized():
        td.barrier()


def mean_(tensor: Tensor) -> Tensor:
    """Averages over ranks in place."""
    if td.is_initialized():
        td.all_reduce(tensor)
        tensor /= world()
    return tensor


def sum_(tensor: Tensor) -> Tensor:
    """Sums over ranks in place."""
    if td.is_initialized():
        td.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The ranks' tensors [n, ...] of one shape below each other, in the order of ranks."""
    if not td.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world())]
    td.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


_flags: td.ProcessGroup | None = None


def any_(*flags: int) -> list[int]:
    """The largest of the ranks' small non-negative integers, for each: one signal stops all.

    Through the CPU, so that a GPU's queue is not waited for.
    """
    if not td.is_initialized():
        return list(flags)
    global _flags
    if _flags is None and td.get_backend() == "nccl":
        _flags = td.new_group(backend="gloo")
    values = torch.tensor(flags)
    td.all_reduce(values, op=td.ReduceOp.MAX, group=_flags)
    return [int(v) for v in values]


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Copies rank 0's tensors to all."""
    if td.is_initialized():
        for tensor in tensors:
            td.broadcast(tensor.data, src=0)


def broadcast_text(text: str, device: torch.device) -> str:
    """Rank 0's text on every rank, of at most 4096 bytes; joins the group if need be."""
    start(device)
    if not td.is_initialized():
        return text
    raw = torch.zeros(4096, dtype=torch.uint8, device=device)
    given = text.encode()
    raw[: len(given)] = torch.tensor(list(given), dtype=torch.uint8)
    td.broadcast(raw, src=0)
    return bytes(raw.cpu().tolist()).rstrip(b"\0").decode()


def is_lost(error: RuntimeError) -> bool:
    """Whether an error says that another rank is gone; gloo has no class of its own for it."""
    if not td.is_initialized():
        return False
    return isinstance(error, td.DistBackendError) or any(
        word in str(error) for word in ("gloo", "Connection closed by peer", "Connection reset")
    )


def sum_grads(grads: Sequence[Tensor]) -> None:
    """Sums gradients over ranks in one flat all-reduce per dtype."""
    if not td.is_initialized():
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for g in grads:
        by_dtype.setdefault(g.dtype, []).append(g)
    for group in by_dtype.values():
        flat = torch.cat([g.reshape(-1) for g in group])
        td.all_reduce(flat)
        parts = flat.split([g.numel() for g in group])
        torch._foreach_copy_(group, [p.view(g.shape) for p, g in zip(parts, group, strict=True)])
