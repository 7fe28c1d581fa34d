"""A run directory on one process or several, here or under torchrun."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["launch", "shared"]


def launch(folder: Path, ranks: int, trust: bool, allow: Sequence[str]) -> int:
    """Trains a run directory in this process, or on `ranks` of this machine; the exit code."""
    from genlab.core import dist

    if ranks == 1 or dist.world() > 1:
        from genlab.training.run_loop import train_run

        return train_run(folder, trust=trust, allow=tuple(allow))
    from genlab.core import subprocesses

    return subprocesses.run_ranks(
        ["__work", str(folder), *allow, *(["trust"] if trust else [])], ranks
    )


def shared(folder: str, config: Mapping[str, Any]) -> str:
    """Rank 0's run directory, on every rank that torchrun started."""
    from genlab.core import dist

    if dist.world() == 1:
        return folder
    import torch

    from genlab.hardware.hardware import choose

    kind, _ = choose(config["hardware"]["device"])
    index = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device(kind, index) if kind == "cuda" else torch.device(kind)
    dist.start(device)
    path = torch.zeros(4096, dtype=torch.uint8, device=device)
    raw = folder.encode()
    path[: len(raw)] = torch.tensor(list(raw), dtype=torch.uint8)
    torch.distributed.broadcast(path, src=0)
    return bytes(path.cpu().tolist()).rstrip(b"\0").decode()
