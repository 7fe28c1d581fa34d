"""The comparison with other packages: what its rows say, and that genlab's sides run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from bench_peers import TARGETS, chosen, line
from peers import compare, glow, pipeline, unet, vq, wgan
from peers.compare import Absent, Side, Target, Work, missing

SMALL = {
    unet: ["schedule.batch=2", "network.net.blocks=1"],
    glow: ["schedule.batch=2", "network.net.depth=1", "network.net.width=8"],
    wgan: ["schedule.batch=2", "network.generator.width=4", "network.discriminator.width=4"],
}


def nothing() -> Work:
    return Work(lambda: None, 1, "")


def test_a_row_compares_rates_round_by_round():
    ours, peer = Side("genlab", nothing), Side("other", nothing, package="pytest", aim=3)
    target = Target("thing", "images/s", "", ours, (peer,))
    times = {"genlab": [1.0, 2.0, 8.0], "other": [5.0, 8.0, 10.0]}  # 5, 4 and 1.25 times as fast
    row = compare._row(target, peer, 1, {"genlab": (64, "a"), "other": (32, "b")}, times)
    assert row["ours"] == 32  # 64 images in 2 s
    assert row["theirs"] == 4
    assert row["ratio"] == 8  # twice the images a step
    assert row["met"] is True
    assert row["peer"] == f"other {pytest.__version__}"
    cells = [cell.strip() for cell in line(row, None).strip("|").split("|")]
    assert cells == ["thing", "1", row["peer"], "4.0", "32.0 images/s", "8.00", "3x", "met"]


def test_a_floor_counts_whatever_the_peers_do():
    ours, peer = Side("genlab", nothing), Side("other", nothing)
    target = Target("thing", "images/s", "", ours, (peer,), floor=50)
    built = {"genlab": (64, ""), "other": (64, "")}
    row = compare._row(target, peer, 1, built, {"genlab": [2.0], "other": [4.0]})
    assert (row["ratio"], row["met"], row["aim"]) == (2, False, "50 images/s")


class Fake:
    """Stands in for a process; its rounds take these seconds, None is where it dies."""

    rounds: ClassVar[dict[str, list[float | None]]] = {}

    def __init__(self, side: Side, threads: int, clock: str) -> None:
        self.left, self.built = list(self.rounds[side.name]), (10, side.name)

    def seconds(self) -> float:
        if (taken := self.left.pop(0)) is None:
            raise Absent("gone")
        return taken

    def end(self) -> None:
        pass


def test_a_peer_that_dies_on_the_way_costs_its_row_alone(monkeypatch):
    monkeypatch.setattr(compare, "_Process", Fake)
    peers = (Side("a", nothing, aim=2), Side("b", nothing, aim=2), Side("c", nothing, "no_such"))
    target = Target("thing", "images/s", "", Side("genlab", nothing), peers)
    monkeypatch.setattr(Fake, "rounds", {"genlab": [1, 1, 1], "a": [1, None], "b": [3, 4, 5]})
    rows, notes = compare.measure(target, threads=1, rounds=3)
    assert [(row["peer"], row["ratio"]) for row in rows] == [("b", 4)]
    assert notes == ["thing: a: gone"]
    monkeypatch.setattr(Fake, "rounds", {"genlab": [1, None], "a": [1, 1], "b": [3, 4]})
    assert compare.measure(target, threads=1, rounds=2) == ([], ["thing: genlab: gone"])


def test_a_package_that_is_not_installed_is_missing():
    assert missing(Side("x", nothing, "no_such_package_at_all"))
    assert not missing(Side("x", nothing, "pytest"))
    assert not missing(Side("x", nothing))


def test_every_peer_has_an_aim_or_its_target_a_floor():
    for target in TARGETS.values():
        assert target.floor or all(side.aim for side in target.peers)
        names = [side.name for side in (target.ours, *target.peers)]
        assert len(set(names)) == len(names)


def test_targets_are_chosen_by_how_they_begin():
    assert [t.key for t in chosen(["glow", "unet"])] == ["unet", "glow-train", "glow-sample"]
    assert len(chosen([])) == len(TARGETS)
    with pytest.raises(SystemExit, match="no target nonsense"):
        chosen(["nonsense"])


@pytest.mark.parametrize("module", SMALL, ids=lambda m: m.__name__)
def test_the_sides_of_genlab_run(module, monkeypatch):
    monkeypatch.setattr(module, "WORDS", [*module.WORDS, *SMALL[module]])
    monkeypatch.setattr(module, "BATCH", 2)
    for target in module.TARGETS:
        work = target.ours.make()
        work.step()
        assert work.amount == 2


def test_the_side_of_genlab_quantizes():
    work = vq.genlab(tokens=2048, codes=16)
    work.step()
    assert work.amount == 2048


def test_the_side_of_genlab_streams():
    work = pipeline.genlab()
    work.step()
    assert work.amount == pipeline.BATCH
