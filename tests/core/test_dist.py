"""Two gloo ranks: texts that are exchanged, and the one that is waited for."""

from __future__ import annotations

import os
import socket
import sys
import time

import torch

from genlab.core import dist


def two(act, folder):
    """Runs act(rank) on two forked ranks; what each wrote on stderr."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    children, files = [], [folder / f"rank{rank}" for rank in range(2)]
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


def test_texts_of_any_length_reach_all(tmp_path):
    texts = ["", "naïve " * 10_000]

    def act(rank):
        assert dist.gather_texts(texts[rank], torch.device("cpu")) == texts

    two(act, tmp_path)


def test_a_rank_that_lags_is_named_once(tmp_path, monkeypatch):
    monkeypatch.setattr(dist, "LAG", 0.6)
    monkeypatch.setattr(dist, "LOOK", 0.1)

    def act(rank):
        dist.start(torch.device("cpu"))
        for late in (1, 1, 0):
            dist.any_(0)
            if rank == late:
                time.sleep(1.2)
        dist.any_(0)

    zero, one = two(act, tmp_path)
    assert zero == "waiting for rank 1 since 1 s\n"
    assert one == "rank 1: waiting for rank 0 since 1 s\n"
