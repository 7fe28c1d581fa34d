"""The comparison of path models: that its sides do the same work, and that cells are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import bench_paths
from peers import paths
from peers.compare import Side, Target, missing

from genlab.contract import Batch

SMALL = [
    "schedule.batch=2",
    "network.net.width=8",
    "network.net.blocks=1",
    "network.net.head_width=8",
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(paths, "WORDS", [*paths.WORDS, *SMALL])
    monkeypatch.setattr(paths, "BATCH", 2)
    monkeypatch.setattr(paths, "DRAWN", 2)
    monkeypatch.setattr(paths, "LEVELS_OF_K", [16, 32, 32])
    monkeypatch.setattr(paths, "CHANNELS_OF_D", (32, 32, 32))


@pytest.mark.parametrize("make", [paths.genlab_train, paths.bare_train, paths.genlab_heun])
@pytest.mark.parametrize("mode", ["fp32", "bf16"])
def test_the_sides_of_genlab_run(make, mode):
    work = make(mode)
    work.step()
    assert work.amount == 2


@pytest.mark.parametrize("make", [paths.genlab_heun, paths.bare_heun])
def test_genlab_and_the_bare_network_are_evaluated_as_often(make, monkeypatch):
    calls = []
    forward = torch.nn.Conv2d.forward

    def counted(self, x):
        calls.append(self.out_channels == 1)
        return forward(self, x)

    work = make("fp32")
    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted)
    work.step()
    assert sum(calls) == 35  # the head, once an evaluation


def test_the_bare_loss_is_that_of_genlab():
    """The same data, noise and times by both: the loss agrees."""
    _, built = paths.ours.built(*paths.WORDS, "hardware.precision=fp32", side=32)
    model, x0 = built.model, paths.images(2)
    g = torch.Generator().manual_seed(3)
    for p in model.net.parameters():
        p.data.normal_(0, 0.1, generator=g)

    class Given:
        n = 2

        def normal(self, *shape):
            return torch.full((2, *shape), 0.5) if shape else torch.tensor([0.3, -1.0])

    batch = Batch(x0, None, Given())
    log_sigma = torch.tensor([0.3, -1.0]) * paths.DEVIATION + paths.MEAN
    sigma = log_sigma.exp()[:, None, None, None]
    root = (1 + sigma**2).sqrt()
    out = model.net((x0 + sigma * 0.5) / root, log_sigma / 4000, None)
    expected = (out - (sigma * x0 - 0.5) / root).square().mean()
    torch.testing.assert_close(model.loss(batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.peer
@pytest.mark.parametrize(
    "make",
    [
        lambda: paths.k_train("fp32", False),
        lambda: paths.k_heun("bf16", False),
        lambda: paths.k_train("bf16", True),
        lambda: paths.k_heun("fp32", True),
        lambda: paths.diffusers_train("fp32"),
        lambda: paths.diffusers_heun("bf16"),
    ],
    ids=["k train", "k heun", "k train own", "k heun own", "diffusers train", "diffusers heun"],
)
def test_the_sides_of_peers_run(make):
    try:
        work = make()
    except ImportError as e:
        pytest.skip(str(e))
    work.step()
    assert work.amount == 2


def test_finished_cells_are_kept_and_the_others_measured(tmp_path, monkeypatch):
    asked, file, said = [], tmp_path / "cells.json", []

    def measured(target, threads, rounds, clock):
        asked.append((target.key, threads))
        if target.key == "b" and len(asked) < 4:
            return [], ["b: genlab: gone"]
        row = {"target": target.key, "threads": threads, "peer": "other", "theirs": 1.0}
        return [{**row, "ours": 2.0, "ratio": 2.0}], []

    monkeypatch.setattr(bench_paths, "measure", measured)
    side = Side("genlab", lambda: None)
    targets = [
        Target(k, "images/s", "", side, (Side("x", lambda: None, "no_such"),)) for k in "ab"
    ]
    bench_paths.fill(file, targets, [1, 2], 3, say=said.append)
    assert asked == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert "could not take part: b: genlab: gone" in said
    assert len(bench_paths.cells(file)) == 3
    done = bench_paths.fill(file, targets, [1, 2], 3, say=said.append)
    assert asked[4:] == [("b", 1)], "what failed is tried again, and nothing else"
    assert done["a, 2 threads, wall"]["absent"] == ["x"]
    assert said[-1] == "| b | 2 | other | 1.0 | 2.0 | 2.00 |"


def test_every_kind_of_work_stands_beside_the_bare_network_and_the_peers():
    assert {t.key for t in paths.TARGETS} == {
        f"{work}-{mode}" for work in ("train", "heun") for mode in ("fp32", "bf16", "compiled")
    }
    for target in paths.TARGETS:
        names = [side.name for side in target.peers]
        assert len(set(names)) == 4
        assert not missing(target.peers[0])
