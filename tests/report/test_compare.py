"""`genlab compare`: which runs are one group, which numbers share a column, and who leads."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genlab.cli import main as cli
from genlab.core.errors import ConfigError
from genlab.report import compare
from genlab.report.columns import Column
from genlab.run import pictures
from tests.helpers.side_by_side import PROTOCOL, Maker, best_rows, cells, evaluate, table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path / "out")


# --- groups --------------------------------------------------------------------------------------


def test_runs_that_differ_in_seed_and_places_are_one_group(make):
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


def test_keys_that_go_with_the_members_are_told_from_others(make):
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


def test_a_number_that_was_not_finite_is_told_and_never_leads(make):
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


def test_a_sentence_says_in_what_protocols_differ(make):
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


def test_one_number_alone_leads_nothing(make):
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


def test_a_run_has_a_row_for_each_way_it_was_judged(make):
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


def test_what_a_subject_repeats_is_shown_once(make):
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


# --- which runs ----------------------------------------------------------------------------------


def test_words_are_paths_ids_parts_and_folders(make, tmp_path):
    a, b, c = make(), make(model__name="glow"), make(model__name="glow", seed=1)
    out = str(tmp_path / "out")
    ids = {f.name.rpartition("-")[2]: f for f in (a, b, c)}
    assert compare.find_runs([], out) == [a, b, c]
    assert compare.find_runs(["latest"], out) == [c]
    assert compare.find_runs([str(b), str(b), *ids], out) == [b, a, c], "each once, as first named"
    assert compare.find_runs(["glow-"], out) == compare.find_runs(["gl*digits/"], out) == [b, c]
    assert compare.find_runs([str(b.parent)], "nowhere") == [b, c]
    assert compare.find_runs([out], "nowhere") == [a, b, c]
    alone = tmp_path / "copied"
    a.rename(alone)
    assert compare.find_runs([str(alone)], out) == [alone]
    (alone / "config.yaml").unlink()
    assert compare.find_runs([str(alone)], out) == [alone], "a young run, named by its path"
    with pytest.raises(ConfigError) as e:
        compare.find_runs(["no_such", str(tmp_path / "out" / "gan-digits"), __file__], out)
    assert len(e.value.problems) == 3 and "is a file" in e.value.problems[2]
    with pytest.raises(ConfigError, match=r"no runs in .*genlab train"):
        compare.find_runs([], str(tmp_path / "nowhere"))


def test_a_sweep_is_the_runs_of_its_jobs(make, tmp_path):
    words = {
        1: ["seed=1", "optimizer.lr=0.001"],
        2: ["seed=2", "optimizer.lr=0.001"],
        3: ["seed=1"],
    }
    runs = {i: make(seed=i) for i in words}
    for i, typed in words.items():
        (runs[i] / "overrides.txt").write_text(
            "\n".join([*typed, "schedule.images=9"] if i == 2 else typed)
        )
    sweep = tmp_path / "out" / "sweeps" / "20260102-030405"
    sweep.mkdir(parents=True)
    task = ["seed=1,2", "optimizer.lr=1e-3"]
    (sweep / "multirun.yaml").write_text(json.dumps({"hydra": {"overrides": {"task": task}}}))
    assert compare.find_runs([str(sweep)], "nowhere") == [runs[1], runs[2]]
    (sweep / "multirun.yaml").write_text("[")
    with pytest.raises(ConfigError, match="does not name the jobs"):
        compare.find_runs([str(sweep)], "nowhere")


# --- what is printed -----------------------------------------------------------------------------


def run(capsys, *argv):
    """(exit code, stdout, stderr) of a command line, in this process."""
    code = cli.main(["compare", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def test_table_and_page(make, capsys):
    evaluate(make(), {"fid": 1.5, "fid_bias": 1.0})
    evaluate(last := make(optimizer__lr=0.01), {"fid": 2.5, "fid_bias": 1.0})
    out = last.parents[1]
    code, text, err = run(capsys, f"outputs={out}")
    assert (code, err) == (0, "")
    assert "0.001" in text and "1.5 *" in text and "2.5\n" not in text.partition("1.5 *")[0]
    assert "metric='*' shows also fid_bias" in text
    assert text.endswith(f"page: {out / 'compare.html'}\n") and (out / "compare.html").is_file()
    (out / "compare.html").unlink()
    assert "page" not in run(capsys, f"outputs={out}", "page=null")[1]
    assert json.loads(run(capsys, f"outputs={out}", "--json")[1])["rows"][0]["values"][0]["best"]
    assert not (out / "compare.html").exists()
    page = out / "mine.html"
    json.loads(run(capsys, f"outputs={out}", "--json", f"page={page}")[1])
    assert page.is_file()
    for words in ("page=x.txt", f"page={out}/no/such/x.html", "metric=x", "sort=x", "no_run"):
        code, text, err = run(capsys, f"outputs={out}", words)
        assert code in (2, 7) and err.startswith("genlab: ") and err.count("\n") == 1, words


def test_a_narrow_terminal_gets_blocks_that_lose_nothing(make):
    for i in range(6):
        evaluate(make(**{f"data__key{i}": "x" * 20}), {f"value{i}": float(i)}, protocol={"n": i})
    found = table(*compare.find_runs([], str(make().parents[1])))
    wide, narrow = compare.as_text(found, 10_000, True), compare.as_text(found, 80, True)
    blocks = narrow.partition("* the best")[0]
    assert all(len(line) <= 80 for line in blocks.splitlines() if "columns:" not in line)
    assert {*wide.split()} == {*narrow.split()}


def test_one_run_and_a_running_one(make, capsys):
    alone = make()
    (alone / "STATUS").write_text("running\n")
    with (alone / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, text, _ = run(capsys, alone, "page=null")
    assert code == 0 and "nothing to compare" in text and "running: a00000" in text


def test_broken_and_hostile_runs_are_lines_not_errors(make, capsys):
    runs = [make(losses=[]), make(seed="\x1b[2J\n"), make(data__name="\x1b[31m")]
    (runs[0] / "metrics.jsonl").unlink()
    evaluate(runs[1], {"fid": 1.0})
    result = runs[1] / "eval" / "000000000200-a" / "result.json"
    for i, text in enumerate(("{", "[]", '{"format": 2}', '{"format": 1}', "[" * 10_000)):
        (result.parents[1] / str(i)).mkdir()
        (result.parents[1] / str(i) / "result.json").write_text(text)
    code, out, err = run(capsys, *runs, "page=null")
    assert (code, err) == (0, "") and "\x1b" not in out
    assert "not readable" in out and "0/result.json" in out
    assert json.loads(run(capsys, *runs, "--json")[1])["rows"]


def test_comparing_imports_no_torch(make):
    evaluate(folder := make(), {"fid": 1.0})
    pictures.save(
        pictures.grid(np.zeros((4, 1, 8, 8), np.uint8)), folder / "samples/train/000000000100.png"
    )
    program = (
        "import sys\nfrom genlab.cli import main as cli\n"
        f"assert cli.main(['compare', {str(folder)!r}, 'page=x.html']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "x.html").is_file()


def test_a_column_says_whether_it_stands_for_itself():
    def leads(name, metric, better=""):
        return Column(name, metric, (), better).is_primary

    assert (
        leads("fid", "fid", "low")
        and leads("nearest", "nearest")
        and leads("recall", "pr", "high")
    )
    assert leads("loss/d", "journal") and not leads("fid_bias", "fid")
