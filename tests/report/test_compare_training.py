"""Metrics measured while training, side by side: by their protocol, which the journal lacks."""

from __future__ import annotations

import json

import pytest

from tests.helpers.side_by_side import PROTOCOL, Maker, best_rows, cells, evaluate, table


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path / "out")


def measured(folder, fid, protocol=None):
    """A run that found a FID while training, with the result that holds its protocol."""
    line = {"images": 300, "loss/net": 1.0, "metric/fid": fid}
    (folder / "metrics.jsonl").write_text(json.dumps(line))
    if protocol is not None:
        evaluate(folder, {"fid": fid}, tag="training", protocol=protocol)
        (folder / "eval/000000000200-training").rename(folder / "eval/training")
    return folder


def asked(name, n):
    return {"features": {"name": name}, "eval__n": n, "metric__fid": {"name": "fid"}}


SMALL = PROTOCOL | {"images": 1000}
INCEPTION = PROTOCOL | {"features": "inception"}


def test_metrics_of_two_protocols_while_training_are_told_apart(make):
    """A small FID of 1,000 and one of 2,000 by Inception have no mean."""
    small = measured(make(**asked("small", 1000)), 3.0, SMALL)
    other = measured(make(seed=1, **asked("inception", 2000)), 90.0, INCEPTION)
    found = table(small, other, metric=["metric/*"])
    values = [c.values for row in found.rows for c in row.cells.values()]
    assert sorted(values) == [(3.0,), (90.0,)]
    assert best_rows(found, "metric/fid") == []
    assert found.keys.shown == ["features.name"] and found.keys.following == ["eval.n"]
    assert not any("nothing but seeds" in note for note in found.notes)
    assert any("features small and inception" in note for note in found.notes)


def test_metrics_of_two_models_while_training_share_a_column_of_one_protocol(make):
    own = asked("inception", 2000)
    runs = [
        measured(make(**own), 9.0, INCEPTION),
        measured(make(seed=1, **own), 11.0, INCEPTION),
        measured(make(model__name="glow", **own), 20.0, INCEPTION),
    ]
    found = table(*runs, metric=["metric/*"])
    spreads = {label: cell.values for label, cell in cells(found, "metric/fid").items()}
    assert spreads == {"A": (9.0, 11.0), "B": (20.0,)}
    assert best_rows(found, "metric/fid") == ["A"]
    assert not any("may change what it measures" in note for note in found.notes)


def test_metrics_of_an_unknown_protocol_are_ranked_with_none(make):
    known = measured(make(**asked("inception", 2000)), 9.0, INCEPTION)
    lost = [
        measured(make(optimizer__lr=lr, **asked(name, n)), fid)
        for lr, name, n, fid in (
            (1, "inception", 2000, 1.0),
            (2, "inception", 2000, 2.0),
            (3, "inception", 1000, 3.0),
            (4, "small", 2000, 4.0),
        )
    ]
    found = table(known, *lost, metric=["metric/*"])
    columns = {v: c for row in found.rows for c, cell in row.cells.items() for v in cell.values}
    assert columns[1.0] == columns[2.0], "as far as the config tells, they are of one"
    assert len({columns[v] for v in (9.0, 1.0, 3.0, 4.0)}) == 4
    assert best_rows(found, "metric/fid") == []
