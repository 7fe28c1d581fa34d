"""`genlab compare`: which runs are meant, and what is printed."""

from __future__ import annotations

import fcntl
import json

import pytest

from genlab.cli import main as cli
from genlab.core.errors import ConfigError
from genlab.report import compare
from genlab.report.compare_text import as_text
from tests.helpers.side_by_side import Maker, evaluate, table


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path / "out")


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


def test_a_narrow_terminal_gets_one_table_and_the_names_of_what_it_leaves_out(make):
    for i in range(6):
        evaluate(make(**{f"data__key{i}": "x" * 20}), {f"value{i}": float(i)}, protocol={"n": i})
    runs = compare.find_runs([], str(make(optimizer__lr=7).parents[1]))
    found = table(*runs, sort="optimizer.lr")
    wide = as_text(found, 10_000, True).splitlines()
    for width in (40, 80, 120):
        lines = as_text(found, width, True).splitlines()
        assert max(map(len, lines)) <= width
        rows = lines[: lines.index("")]
        assert len(rows) <= 6 + len(runs), "three heads with what differs folded, and the rows"
        ids = [row.split()[1] for row in rows[-len(runs) :]]
        assert {*ids} == {f.name[-6:] for f in runs}, "whatever the order"
        words = " ".join(lines).split("columns: ")[1]
        for name in {f"data.key{i}" for i in range(6)} - {*rows[1].split()}:
            assert name in words
    assert "optimizer.lr" in rows[1] and "columns:" not in "".join(wide)
    assert all(f"value{i}" in wide[1] and f"data.key{i}" in wide[1] for i in range(6))


def test_ids_stand_in_the_rows_and_what_differs_before_what_was_measured(make):
    first, second = make(seed=1), make(seed=2)
    other = make(optimizer__lr=0.01)
    evaluate(other, {"fid": 2.0})
    text = as_text(table(first, second, other), 80)
    rows = text.splitlines()
    assert [row.split()[:2] for row in rows[-2:]] == [["A", "a00000"], ["B", "a00002"]]
    assert "a00000 +1" in text, "the first of a group, and how many more"
    head = next(row for row in rows if " run " in row).split()
    assert head.index("run") < head.index("optimizer.lr") < head.index("fid") < head.index("seeds")


def test_a_page_is_called_as_what_was_compared(make, capsys):
    runs = [make(), make(model__name="glow"), make(model__name="glow", seed=1)]
    out = runs[0].parents[1]

    def page(*words):
        last = run(capsys, *words, f"outputs={out}")[1].splitlines()[-1]
        assert last.startswith(f"page: {out}/compare") and last.endswith(".html")
        return last

    asked = [(), ("a00000", "a00001"), ("gan",), ("gl*",), ("gl?",), (str(runs[0]),)]
    asked += [("gan", "metric=loss/*")]
    pages = [page(*words) for words in asked]
    assert len({*pages}) == len(pages) and [page(*words) for words in asked] == pages
    assert pages[:2] == [f"page: {out}/compare.html", f"page: {out}/compare-a00000+a00001.html"]
    names = [compare.page_name(words) for words in (["a+b"], ["a", "b"], ["a-b"], ["x" * 3000])]
    assert len({*names}) == 4 and max(map(len, names)) < 100


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
