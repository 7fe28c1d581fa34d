"""Ranks of a data-parallel run; every function is the identity when alone.

While ranks wait for each other a thread of each looks at the clock: a rank that has not come
within LAG seconds is named once, on stderr, by the lowest rank that waits for it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as td
from torch import Tensor

from genlab.core.console import log

__all__ = [
    "any_",
    "barrier",
    "broadcast_",
    "broadcast_text",
    "gather",
    "gather_texts",
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
        _watch.start()


def stop() -> None:
    """Leaves the process group."""
    if td.is_initialized():
        _watch.stop()
        td.destroy_process_group()


LAG = 20.0  # seconds that others wait for a rank before it is named
LOOK = 1.0  # between two looks at the clock


class _Watch:
    """Names ranks that the others wait for.

    Every rank makes the same calls in the same order; so a rank that waits says in the store of
    the group at which call, and those that have not said so are waited for. A call that is soon
    over costs a look at the clock.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._since: float | None = None  # of the call that is on
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def call(self) -> Iterator[None]:
        """Context of one call that waits for the other ranks."""
        self._calls += 1
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def start(self) -> None:
        store = td.distributed_c10d._get_default_store().clone()  # with a connection of its own
        self._end.clear()
        self._thread = threading.Thread(target=self._look, args=(store,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _look(self, store: td.Store) -> None:
        me, announced, named = rank(), 0, set[int]()
        try:
            while not self._end.wait(LOOK):
                since, call = self._since, self._calls
                if since is None or time.monotonic() - since < LOOK:
                    continue
                if announced != call:
                    store.set(f"genlab/waits/{me}", str(call))
                    announced = call
                if time.monotonic() - since < LAG:
                    continue
                late = [r for r in range(world()) if r != me and _at(store, r) < call]
                if me == min(set(range(world())).difference(late)):
                    for r in sorted(set(late) - named):
                        _say(me, f"waiting for rank {r} since {time.monotonic() - since:.0f} s")
                    named.update(late)
        except RuntimeError:  # the store is gone with its rank, and whoever waits is told so
            return


def _at(store: td.Store, other: int) -> int:
    """The call at which another rank waits, as far as it has said so."""
    key = f"genlab/waits/{other}"
    return int(store.get(key)) if store.check([key]) else -1


def _say(me: int, line: str) -> None:
    if me == 0:  # the lines of others are not shown
        log(line)
    else:
        print(f"rank {me}: {line}", file=sys.stderr, flush=True)


_watch = _Watch()


def rank() -> int:
    """Our number among the processes, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def barrier() -> None:
    """Waits for all ranks."""
    if td.is_initialized():
        with _watch.call():
            td.barrier()


def mean_(tensor: Tensor) -> Tensor:
    """Averages over ranks in place."""
    if td.is_initialized():
        with _watch.call():
            td.all_reduce(tensor)
        tensor /= world()
    return tensor


def sum_(tensor: Tensor) -> Tensor:
    """Sums over ranks in place."""
    if td.is_initialized():
        with _watch.call():
            td.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The ranks' tensors [n, ...] of one shape below each other, in the order of ranks."""
    if not td.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world())]
    with _watch.call():
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
    with _watch.call():
        td.all_reduce(values, op=td.ReduceOp.MAX, group=_flags)
    return [int(v) for v in values]


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Copies rank 0's tensors to all."""
    if td.is_initialized():
        with _watch.call():
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
    with _watch.call():
        td.broadcast(raw, src=0)
    return bytes(raw.cpu().tolist()).rstrip(b"\0").decode()


def gather_texts(text: str, device: torch.device) -> list[str]:
    """The texts of all ranks, in their order; joins the group if need be."""
    start(device)
    if not td.is_initialized():
        return [text]
    given = text.encode()
    sizes = gather(torch.tensor([len(given)], device=device)).tolist()
    raw = torch.zeros(1, max(sizes), dtype=torch.uint8, device=device)
    raw[0, : len(given)] = torch.tensor(list(given), dtype=torch.uint8)
    rows = gather(raw).cpu().tolist()
    return [bytes(row[:n]).decode() for row, n in zip(rows, sizes, strict=True)]


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
        with _watch.call():
            td.all_reduce(flat)
        parts = flat.split([g.numel() for g in group])
        torch._foreach_copy_(group, [p.view(g.shape) for p, g in zip(parts, group, strict=True)])
