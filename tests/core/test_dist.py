"""Two gloo ranks: texts that are exchanged, and the one that is waited for."""

from __future__ import annotations

import time

import torch

from genlab.core import dist
from tests.helpers.ranks import two_forked


def test_texts_of_any_length_reach_all(tmp_path):
    texts = ["", "naïve " * 10_000]

    def act(rank):
        assert dist.gather_texts(texts[rank], torch.device("cpu")) == texts

    two_forked(act, tmp_path)


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

    zero, one = two_forked(act, tmp_path)
    assert zero == "waiting for rank 1 since 1 s\n"
    assert one == "rank 1: waiting for rank 0 since 1 s\n"
