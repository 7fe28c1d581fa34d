"""Two ranks of a run, as processes of their own."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from genlab.core import dist


def two_forked(act: Callable[[int], object], folder: Path) -> list[str]:
    """Runs act(rank) on two forked ranks, which may join a group; what each wrote on stderr."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    children, files = [], [folder / f"stderr{rank}" for rank in range(2)]
    for rank, file in enumerate(files):
        child = os.fork()  # not spawn: importing torch again would cost seconds
        if not child:
            status = 1
            try:
                sys.stderr = file.open("w")
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
                act(rank)
                dist.stop()
                status = 0
            finally:
                sys.stderr.close()
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    return [file.read_text() for file in files]
