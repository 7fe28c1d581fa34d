"""Runs side by side: which are one seed group, which numbers share a column, which is the best."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from genlab.core.errors import ConfigError
from genlab.report import compare
from genlab.report.columns import Column
from tests.helpers.side_by_side import PROTOCOL, Maker, best_rows, cells, evaluate, table


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path / "out")


# --- groups --------------------------------------------------------------------------------------


def test_runs_that_differ_in_seed_and_folders_are_one_group(make):
    runs = [
        make(seed=2),
        make(seed=0, outputs="elsewhere", data__root="/data", every__log=5),
        make(seed=1, promise={"value": 3}),
        make(optimizer__lr=0.002),
    ]
    found = table(*runs)
    assert [g.seeds for g in found.groups] == [["0", "1", "2"], ["0"]]
    assert [f.path for f in found.groups[0].runs] == [runs[1], runs[2], runs[0]]
    assert found.keys.shown == ["optimizer.lr"] and found.keys.following == []
    assert set(found.keys.ignored) == {"outputs", "every.log", "data.root", "promise.value"}
    assert [found.description(g) for g in found.groups] == ["lr 0.001", "lr 0.002"]


def test_a_run_from_before_a_key_is_grouped_by_what_it_did(make):
    """A spike was said, labels were even; the latter is nothing where nothing is measured."""
    earlier = {"hardware": {"name": "auto"}, "eval": {"n": "auto"}}
    now = {
        "hardware": {"name": "auto", "on_spike": "warn"},
        "eval": {"n": "auto", "labels": "data"},
    }
    assert len(table(make(**earlier), make(seed=1, **now)).groups) == 1
    skips = {"hardware": {"name": "auto", "on_spike": "skip"}}
    assert table(make(**earlier), make(**skips)).keys.shown == ["hardware.on_spike"]
    measured = earlier | {"metric": {"fid": {"name": "fid"}}}
    data = measured | {"eval": {"n": "auto", "labels": "data"}}
    even = measured | {"eval": {"n": "auto", "labels": "even"}}
    assert table(make(**measured), make(**data)).keys.shown == ["eval.labels"]
    assert len(table(make(**measured), make(seed=1, **even)).groups) == 1


def test_a_difference_far_down_a_list_is_one(make):
    one, other = list(range(40)), [*range(39), 99]
    found = table(make(data__labels=one), make(data__labels=other))
    assert len(found.groups) == 2


def test_runs_without_a_config_stand_alone(make):
    runs = [make(), make(), make()]
    for folder in runs[:2]:
        (folder / "config.yaml").unlink()
    found = table(*runs)
    assert [len(g.runs) for g in found.groups] == [1, 1, 1]
    assert found.keys.shown == [], "what is not there to be read differs in nothing"
    assert any("no config to read" in note for note in found.notes)
    losses = [c for c in found.columns if c.name == "loss/net"]
    assert len(losses) == 3, "a loss of nobody knows what is ranked with none"


def test_keys_that_go_with_the_components_are_folded(make):
    glow = {"model__name": "glow", "network__generator": None, "optimizer__lr": 0.1}
    found = table(make(), make(model__ema=5), make(**glow), make(**glow, model__ema=5))
    assert found.keys.shown == ["model.name", "model.ema"]
    assert "optimizer.lr" in found.keys.following
    assert "network.generator.width" in found.keys.following
    typed = table(make(), make(**glow, typed=["optimizer.lr"]))
    assert "optimizer.lr" in typed.keys.shown, "somebody asked for it"


# --- numbers -------------------------------------------------------------------------------------


def test_mean_and_range_over_seeds(make):
    runs = [make(seed=s, losses=[9.0, v]) for s, v in enumerate((1.0, 2.0, 6.0))]
    for folder, fid in zip(runs, (10.0, 20.0, 60.0), strict=True):
        evaluate(folder, {"fid": fid})
    found = table(*runs)
    loss, fid = cells(found, "loss/net")["A"], cells(found, "fid")["A"]
    assert (loss.mean, loss.low, loss.high, loss.count) == (3.0, 1.0, 6.0, 3)
    assert (fid.mean, fid.low, fid.high, fid.count) == (30.0, 10.0, 60.0, 3)


def test_a_number_that_was_not_finite_is_counted_and_never_the_best(make):
    runs = [make(seed=0), make(seed=1, losses=[1.0, None]), make(optimizer__lr=1)]
    for folder, fid in zip(runs, (1.0, None, 5.0), strict=True):
        evaluate(folder, {"fid": fid})
    found = table(*runs)
    fid, loss = cells(found, "fid")["A"], cells(found, "loss/net")["A"]
    assert (fid.mean, fid.not_finite, fid.count) == (1.0, 1, 2)
    assert (loss.values, loss.not_finite) == ((1.0,), 1), "the value before it does not stand in"
    assert best_rows(found, "fid") == ["B"]
    assert "1 (1 of 2 not finite)" in compare.as_text(found, 200)
    values = [row["values"] for row in json.loads(compare.as_json(found))["rows"]]
    assert [v[0]["not_finite"] for v in values] == [1, 0]
    for folder in runs:
        evaluate(folder, {"fid": float("nan")}, tag="b", when="2026-01-02")
    assert best_rows(table(*runs), "fid") == []


def test_numbers_of_two_protocols_never_share_a_column(make):
    """Against brute force: pairs of numbers share a column just when their protocols are equal."""
    draw = random.Random(0)
    choices = {
        "images": [2000, 10_000, None],
        "features": ["small", "inception"],
        "size": [1, "1"],
    }
    given, runs = {}, []
    for i in range(12):
        runs.append(make(optimizer__lr=i))
        given[i + 0.5] = {k: draw.choice(v) for k, v in choices.items() if draw.random() < 0.8}
        evaluate(runs[-1], {"fid": i + 0.5}, protocol=given[i + 0.5])
    found = table(*runs)
    place = {
        value: column
        for row in found.rows
        for column, cell in row.cells.items()
        for value in cell.values
        if column.name == "fid"
    }
    assert set(place) == set(given)
    text = {v: {k: str(x).replace("None", "null") for k, x in p.items()} for v, p in given.items()}
    for a, b in itertools.combinations(given, 2):
        assert (place[a] == place[b]) == (text[a] == text[b])
    titles = [found.title(c) for c in set(place.values())]
    assert len(set(titles)) == len(titles), "each is called by what sets it apart"


def test_a_note_names_how_protocols_differ(make):
    few, many = make(), make(optimizer__lr=1)
    evaluate(few, {"fid": 9.0, "fid_bias": 1.0}, protocol=PROTOCOL | {"reference_digest": "a"})
    more = PROTOCOL | {"images": 10_000, "reference_digest": "a"}
    evaluate(many, {"fid": 8.0, "fid_bias": 1.0}, protocol=more)
    found = table(few, many)
    assert "fid and fid_bias are each in 2 columns: images 2000 and 10000" in found.notes
    assert best_rows(found, "fid") == [], "nothing is ranked"
    assert {found.title(c) for c in found.columns if c.name == "fid"} == {
        "fid (images 2000)",
        "fid (images 10000)",
    }
    evaluate(many, {"fid": 7.0}, tag="b", protocol=PROTOCOL | {"features": "big", "more": 1})
    notes = " ".join(table(few, many).notes)
    assert "images 2000 and 10000" in notes and "features small and big" in notes


@pytest.mark.parametrize(
    ("better", "best"), [({"fid": "low"}, ["B"]), ({"fid": "high"}, ["A"]), ({}, [])]
)
def test_the_best_is_marked_by_its_direction(make, better, best):
    for lr, fid in ((1, 5.0), (2, -3.0), (3, 4.0)):
        evaluate(make(optimizer__lr=lr), {"fid": fid}, better)
    found = table(*compare.find_runs([], str(make().parents[1])))
    assert best_rows(found, "fid") == best
    assert [line[:1] for line in compare.as_text(found, 500).splitlines() if " *" in line] == best


def test_one_number_alone_is_not_the_best(make):
    evaluate(only := make(), {"fid": 1.0})
    assert best_rows(table(only, make(optimizer__lr=1)), "fid") == []


def test_losses_are_ranked_where_they_mean_the_same(make):
    def held(folder, loss, players=("net",)):
        line = {"images": 300, "heldout/loss": loss} | {f"loss/{p}": 1.0 for p in players}
        (folder / "metrics.jsonl").write_text(json.dumps(line))
        return folder

    runs = [held(make(), 1.0), held(make(optimizer__lr=1), 0.5), held(make(model__ema=2), 0.7)]
    found = table(*runs, held(make(model__name="glow"), 0.1), held(make(data__size=32), 0.1))
    assert best_rows(found, "heldout/loss") == ["B"]
    names = ["model gan, data.size none", "model glow, data.size none", "model gan, data.size 32"]
    assert sorted(
        found.distinctions[c] for c in found.columns if c.name == "heldout/loss"
    ) == sorted(names)
    assert any("differ in model.ema, which may change what it" in note for note in found.notes)
    aims = [held(make(model__predict=what), loss) for what, loss in (("eps", 0.1), ("x0", 0.2))]
    assert best_rows(table(*aims), "heldout/loss") == [], "errors of two predictions"
    two = [held(make(optimizer__lr=lr), lr, ("d", "g")) for lr in (3, 4)]
    assert best_rows(table(*two), "heldout/loss") == [], "a critic's loss has no order"


def test_a_run_has_a_row_for_each_way_it_was_evaluated(make):
    run = make()
    evaluate(run, {"fid": 5.0}, sampler={"name": "heun", "steps": 18})
    evaluate(run, {"fid": 4.0}, tag="b", sampler={"name": "heun", "steps": 18}, seed=1, batch=7)
    evaluate(run, {"fid": 9.0}, tag="c", sampler={"name": "heun", "steps": 6})
    evaluate(run, {"fid": 8.0}, tag="d", sampler={"name": "heun", "steps": 6}, when="2026-02-01")
    evaluate(run, {"fid": 7.0}, tag="e", sampler={"name": "heun", "steps": 6}, checkpoint=100)
    found = table(run)
    assert found.settings == ["checkpoint", "sampler.steps"]
    values = {label: cell.values for label, cell in cells(found, "fid").items()}
    assert values == {"A1": (5.0, 4.0), "A2": (8.0,), "A3": (7.0,)}, "seeds pool, newer counts"
    assert best_rows(found, "fid") == ["A1"]
    assert cells(found, "loss/net")["A3"].values == (1.0,)


def test_a_setting_that_repeats_a_key_is_shown_once(make):
    for steps in (6, 18):
        run = make(sampler__steps=steps)
        sampler = {"steps": steps, "temperature": steps / 6}
        evaluate(run, {"fid": 1.0}, sampler=sampler, temperature=steps / 6, evaluations=2 * steps)
    found = table(*compare.find_runs([], str(run.parents[1])))
    assert found.keys.shown == ["sampler.steps"]
    assert found.settings == ["evaluations", "temperature"], "not also sampler.*"


def test_metric_chooses_values(make):
    run = make(losses=[])
    line = {"images": 1, "loss/net": 1.0, "heldout/psnr": 20.0, "lr/net": 1e-3}
    (run / "metrics.jsonl").write_text(json.dumps(line))
    evaluate(run, {"fid": 1.0, "fid_bias": 2.0})

    def names(*patterns):
        return [c.name for c in table(run, metric=patterns).columns]

    assert names() == ["fid", "fid_bias", "loss/net"]
    assert names("heldout/*", "fid_bias") == ["fid_bias", "heldout/psnr"]
    assert names("fid") == ["fid", "fid_bias"], "a metric's name stands for all its values"
    evaluate(run, {"other": 1.0}, tag="b", weights="raw")
    assert len(table(run).rows) == 2
    assert len(table(run, metric=["fid_bias"]).rows) == 1, "a row has something to show"
    with pytest.raises(ConfigError, match=r"metric=psnr: .*'heldout/psnr'"):
        names("psnr")
    with pytest.raises(ConfigError, match="metric=nothing"):
        table(run, metric=["fid", "nothing"])


def test_sort_puts_the_best_first_and_what_lacks_a_value_last(make):
    for lr, fid in ((10, 3.0), (2, None), (1, 1.0), (3, 2.0)):
        run = make(optimizer__lr=lr)
        if fid:
            evaluate(run, {"fid": fid, "recall": fid}, {"fid": "low", "recall": "high"})
    runs = compare.find_runs([], str(run.parents[1]))

    def order(sort):
        found = table(*runs, sort=sort)
        assert [row.label for row in found.rows] == list("ABCD")
        return [int(row.group.values["optimizer.lr"]) for row in found.rows]

    assert order("fid") == [1, 3, 10, 2]
    assert order("-fid") == [10, 3, 1, 2]
    assert order("recall") == [10, 3, 1, 2]
    assert order("optimizer.lr") == [1, 2, 3, 10], "as numbers"
    with pytest.raises(ConfigError, match=r"sort=optimizer\.l: .*'optimizer\.lr'"):
        order("optimizer.l")


def test_a_sort_takes_the_name_that_the_best_checkpoint_is_chosen_by(make):
    """Of what was measured: metric/fid as journals have it, fid as evaluations do."""
    for fid in (3.0, 1.0, 2.0):
        evaluate(make(optimizer__lr=fid), {"fid": fid})
    evaluated = compare.find_runs([], str(make(optimizer__lr=9).parents[1]))

    def order(*folders, **options):
        rows = table(*folders, **options).rows
        return [float(row.group.values["optimizer.lr"]) for row in rows]

    assert order(*evaluated, sort="metric/fid") == order(*evaluated, sort="fid") == [1, 2, 3, 9]
    assert order(*evaluated, sort="-metric/fid") == [3, 2, 1, 9]
    logged = [measured(make(optimizer__lr=fid, data__x=1), fid) for fid in (5.0, 4.0)]
    for name in ("fid", "metric/fid"):
        assert order(*logged, sort=name, metric=[name]) == [4, 5]


def test_bounds_and_biases_are_no_primary_columns():
    def is_primary(name, metric, better=""):
        return Column(name, metric, (), better).is_primary

    assert (
        is_primary("fid", "fid", "low")
        and is_primary("nearest", "nearest")
        and is_primary("recall", "pr", "high")
    )
    assert is_primary("loss/d", "journal") and not is_primary("fid_bias", "fid")


# --- metrics measured during training: the journal lacks their protocol --------------------------


def measured(folder, fid, protocol=None):
    """A run that found a FID during training, with the result that holds its protocol."""
    line = {"images": 300, "loss/net": 1.0, "metric/fid": fid}
    (folder / "metrics.jsonl").write_text(json.dumps(line))
    if protocol is not None:
        evaluate(folder, {"fid": fid}, tag="training", protocol=protocol)
        (folder / "eval/000000000200-training").rename(folder / "eval/training")
    return folder


def configured(name, n):
    return {"features": {"name": name}, "eval__n": n, "metric__fid": {"name": "fid"}}


SMALL = PROTOCOL | {"images": 1000}
INCEPTION = PROTOCOL | {"features": "inception"}


def test_metrics_of_two_protocols_share_no_column(make):
    """A small FID of 1,000 and one of 2,000 by Inception have no mean."""
    small = measured(make(**configured("small", 1000)), 3.0, SMALL)
    other = measured(make(seed=1, **configured("inception", 2000)), 90.0, INCEPTION)
    found = table(small, other, metric=["metric/*"])
    values = [c.values for row in found.rows for c in row.cells.values()]
    assert sorted(values) == [(3.0,), (90.0,)]
    assert best_rows(found, "metric/fid") == []
    assert found.keys.shown == ["features.name"] and found.keys.following == ["eval.n"]
    assert not any("nothing but seeds" in note for note in found.notes)
    assert any("features small and inception" in note for note in found.notes)


def test_metrics_of_two_models_share_a_column_of_one_protocol(make):
    own = configured("inception", 2000)
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
    known = measured(make(**configured("inception", 2000)), 9.0, INCEPTION)
    lost = [
        measured(make(optimizer__lr=lr, **configured(name, n)), fid)
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
