"""The comparison of metrics: what its rows say, and that every side measures the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from bench_metrics import chosen, line
from peers.compare import missing
from peers.metrics import targets

TARGETS = {t.key: t for t in targets(60, 12)}


def figure(side):
    work = side.make()
    return float(work.note.split()[-1])


@pytest.mark.parametrize("key", TARGETS)
def test_the_side_of_genlab_runs(key):
    work = TARGETS[key].ours.make()
    assert work.step() == pytest.approx(float(work.note.split()[-1]))
    assert work.amount == 1


@pytest.mark.peer
@pytest.mark.parametrize("key", TARGETS)
def test_every_side_finds_the_same(key):
    sides = [side for side in TARGETS[key].peers if not missing(side)]
    if not sides:
        pytest.skip("no peer is installed")
    ours = figure(TARGETS[key].ours)
    for side in sides:  # every subset of KID is all images; some compute in float32
        assert figure(side) == pytest.approx(ours, rel=1e-3), side.name


def test_a_row_gives_seconds():
    row = {"target": "kid", "threads": 2, "peer": "other 1.0", "theirs": 0.25, "ours": 2.0}
    row |= {"ratio": 8.0, "met": True}
    cells = [cell.strip() for cell in line(row, 1 / 1.7).strip("|").split("|")]
    assert cells == ["kid", "2", "other 1.0", "4", "0.5", "8.00", "1.7 s, met"]
    assert line(row | {"met": None}, None).endswith("| 8.00 |  |")


def test_aims_are_those_of_full_size():
    floors = {t.key: t.floor for t in targets(10_000, 2048)}
    assert [key for key, floor in floors.items() if floor] == ["fid-distance", "prdc"]
    assert not any(t.floor for t in TARGETS.values())


def test_targets_are_chosen_by_how_they_begin():
    every = targets(60, 12)
    assert [t.key for t in chosen(every, ["fid", "prdc"])] == [
        "fid-moments",
        "fid-distance",
        "prdc",
    ]
    assert chosen(every, []) == list(every)
    with pytest.raises(SystemExit, match="no target nonsense"):
        chosen(every, ["nonsense"])
