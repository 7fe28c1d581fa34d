"""`genlab list`: config groups, components, and runs in whatever state they are."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from genlab.cli import main as cli
from genlab.cli.list import components, listing
from genlab.config import catalog
from genlab.core import registry
from genlab.core.console import log

ROOT = Path(__file__).parents[2]


def run(capsys, *argv):
    """(exit code, stdout, stderr) of a command line, in this process."""
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_list_groups_and_components(capsys):
    groups = json.loads(run(capsys, "list", "--json")[1])
    assert groups == {group: registry.names(group) for group in catalog.groups()}
    for what in ("optimizer", "optimizers"):
        rows = json.loads(run(capsys, "list", what, "--json")[1])
        assert [r["name"] for r in rows] == registry.names("optimizer")
    adamw = next(r for r in rows if r["name"] == "adamw")
    assert adamw["doc"] == registry.signature("optimizer", "adamw").doc
    assert (ROOT / adamw["file"]).is_file()
    out = run(capsys, "list", "optimizers")[1]
    assert any(line.split() == ["adamw", *adamw["doc"].split()] for line in out.splitlines())


@pytest.mark.parametrize("group", catalog.groups())
def test_every_component_has_a_line_that_says_what_it_is(group):
    for row in components(group):
        assert row["doc"], f"{row['file']}: no docstring and no comment on its first line"


def make_run(outputs, name="20250102-030405-abc123", *, status="done\n", metrics="", config=True):
    path = outputs / "gan-digits" / name
    path.mkdir(parents=True)
    if config:
        (path / "config.yaml").write_text("seed: 0\nschedule:\n  name: c\n  images: 2000\n")
    if status is not None:
        (path / "STATUS").write_text(status)
    (path / "metrics.jsonl").write_text(metrics)
    (path / ".lock").touch()
    return path


def line(**values):
    return json.dumps(values) + "\n"


def test_list_runs(tmp_path, capsys):
    losses = {"loss/d": 1.5, "loss/g": 0.25}
    make_run(
        tmp_path,
        metrics=line(step=1, images=64, **losses)
        + line(step=2, images=128, lr=1)
        + '{"step": 3, "im',
    )
    busy = make_run(tmp_path, "20250102-030406-abc124", status="running\n")
    make_run(tmp_path, "20250102-030407-abc125", status="running\n")
    make_run(tmp_path, "20250102-030408-abc126", status="failed: no space\n")
    nan = make_run(
        tmp_path, "20250102-030409-abc127", metrics=line(images=8, **{"loss/net": float("nan")})
    )
    (nan / "checkpoints").mkdir()
    (nan / "checkpoints" / "latest").write_text("000000000512\n")
    with open(busy / ".lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, out, _ = run(capsys, "list", "runs", f"outputs={tmp_path}", "--json")
        rows = {r["id"]: r for r in json.loads(out)}
        table = run(capsys, "list", "runs", f"outputs={tmp_path}")[1]
    assert code == 0
    assert list(rows) == ["abc127", "abc126", "abc125", "abc124", "abc123"], "newest first"
    states = {i: r["state"].partition(":")[0] for i, r in rows.items()}
    assert states == {"abc123": "done", "abc124": "running", "abc125": "interrupted",
                      "abc126": "failed", "abc127": "done"}  # fmt: skip
    done = rows["abc123"]
    assert (done["images"], done["total"], done["loss"]) == (128, 2000, {"d": 1.5, "g": 0.25})
    assert done["name"] == "gan-digits" and done["path"].endswith("abc123")
    assert done["bytes"] == sum(p.stat().st_size for p in Path(done["path"]).iterdir())
    assert rows["abc127"]["images"] == 512 and rows["abc127"]["loss"] == {"net": None}
    assert "failed: no space" in table and "128 / 2k" in table and "d 1.5 g 0.25" in table
    assert len(table.splitlines()) == 6


def test_list_runs_survives_what_it_finds(tmp_path, capsys):
    broken = make_run(tmp_path, status=None, metrics="[1]\nnot json\n{}\n")
    (broken / "config.yaml").write_bytes(b"\xff\xfe\x00: [")
    (broken / "STATUS").write_bytes(b"\xff\xff")
    (broken / "checkpoints").mkdir()
    (broken / "checkpoints" / "latest").write_text("garbage")
    make_run(tmp_path, "20250102-030406-abc124", config=False)
    make_run(tmp_path, "99999999-999999-abc125")
    (tmp_path / "a file").touch()
    (tmp_path / "foreign" / "thing").mkdir(parents=True)
    code, out, err = run(capsys, "list", "runs", f"outputs={tmp_path}", "--json")
    assert (code, err) == (0, "")
    rows = {r["id"]: r for r in json.loads(out)}
    assert set(rows) == {"abc123", "abc125"}
    assert rows["abc123"]["total"] is None and rows["abc123"]["images"] == 0
    assert rows["abc125"]["seconds"] is None
    assert run(capsys, "list", "runs", f"outputs={tmp_path}")[0] == 0
    assert "no runs" in run(capsys, "list", "runs", f"outputs={tmp_path / 'nowhere'}")[1]


def typed(outputs, name, seed, *words, model="gan"):
    path = make_run(outputs / "x", name, metrics=line(images=64, **{"loss/d": 1.5, "loss/g": 2}))
    (path / "config.yaml").write_text(
        f"seed: {seed}\nmodel:\n  name: {model}\ndata:\n  name: digits\n"
        f"optimizer:\n  lr: {words[0].partition('=')[2]}\nschedule:\n  images: 64\n"
    )
    (path / "overrides.txt").write_text("\n".join([f"model={model}", "n=1", *words]))
    place = outputs / f"{model}-digits" / name
    place.parent.mkdir(exist_ok=True)
    path.rename(place)


def test_list_runs_says_what_sets_them_apart_in_80_columns(tmp_path):
    long = "a_rather_long_name_of_a_model_of_ones_own"
    typed(tmp_path, "20250102-030405-abc123", 7, "optimizer.lr=0.001")
    typed(tmp_path, "20250102-030406-abc124", 8, "optimizer.lr=0.01", "b=" + "c" * 200, model=long)
    for width in (80, 120):
        head, *rows = listing("runs", str(tmp_path), width=width).splitlines()
        assert max(map(len, (head, *rows))) <= width
        assert [row.split()[0] for row in rows] == ["abc124", "abc123"]
        assert "seed" in head.split() and rows[1].endswith("  lr=0.001"), rows
        assert "n=1" not in "".join(rows), "what all were given sets none apart"
        assert "lr=0.01 b=c" in rows[0]
    whole = listing("runs", str(tmp_path))
    assert "c" * 200 in whole and long in whole


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("model=gan", {"abc123"}),
        ("model=g*,wgan", {"abc123", "abc124"}),
        ("data=digits state=done", {"abc123", "abc124"}),
        ("state=interrupted,failed", set()),
        ("optimizer.lr=1e-3", {"abc123"}),
        ("seed=8", {"abc124"}),
    ],
)
def test_list_runs_takes_what_they_are_to_have(tmp_path, capsys, words, ids):
    typed(tmp_path, "20250102-030405-abc123", 7, "optimizer.lr=0.001")
    typed(tmp_path, "20250102-030406-abc124", 8, "optimizer.lr=0.01", model="wgan")
    asked = ["list", "runs", *words.split(), f"outputs={tmp_path}"]
    code, out, _ = run(capsys, *asked, "--json")
    assert code == 0 and {r["id"] for r in json.loads(out)} == ids
    text = run(capsys, *asked)[1]
    assert ids <= set(text.split()) and (ids or text.startswith("none of the 2 runs"))


def test_list_runs_knows_the_keys_of_runs(tmp_path, capsys):
    typed(tmp_path, "20250102-030405-abc123", 7, "optimizer.lr=0.001")
    code, _, err = run(capsys, "list", "runs", "modle=gan", f"outputs={tmp_path}")
    assert code == 2 and "no run has a key 'modle'. Did you mean 'model'" in err
    code, _, err = run(capsys, "list", "models", "model=gan")
    assert code == 2 and "genlab list runs" in err


def test_list_has_ones_own_components(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "# @package _global_\n# A GAN of mine.\ndefaults: [gan]\n"
    )
    own = ["--config-dir", str(tmp_path)]
    assert ["mine", "A", "GAN", "of", "mine."] in [
        row.split() for row in run(capsys, "list", "models", *own)[1].splitlines()
    ]
    assert "mine" in json.loads(run(capsys, "list", "--json", *own)[1])["model"]
    (row,) = [
        r
        for r in json.loads(run(capsys, "list", "model", "--json", *own)[1])
        if r["name"] == "mine"
    ]
    assert Path(row["file"]) == tmp_path / "model" / "mine.yaml"
    assert run(capsys, "list", "models", "--config-dir", str(tmp_path / "no"))[0] == 2


@pytest.fixture
def no_waiting():
    """Ends what waits for the other end of a pipe, after 20 s."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it waits"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "name", ["config.yaml", "STATUS", "metrics.jsonl", ".lock", "checkpoints/latest"]
)
def test_list_runs_does_not_wait_for_a_pipe(tmp_path, capsys, no_waiting, name):
    path = make_run(tmp_path)
    make_run(tmp_path, "20250102-030406-abc124")
    (path / "checkpoints").mkdir()
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    code, out, err = run(capsys, "list", "runs", f"outputs={tmp_path}", "--json")
    assert (code, err) == (0, "")
    assert {r["id"] for r in json.loads(out)} == {"abc123", "abc124"}


def test_list_runs_passes_over_a_line_that_is_nested_too_deep(tmp_path, capsys):
    make_run(tmp_path, metrics=line(images=64, **{"loss/d": 1.5}) + "[" * 20_000 + "\n")
    code, out, err = run(capsys, "list", "runs", f"outputs={tmp_path}", "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert (row["images"], row["loss"]) == (64, {"d": 1.5})


@pytest.mark.parametrize("words", ["list runs", "list runs --json", "report"])
def test_what_would_steer_a_terminal_does_not_reach_it(tmp_path, capsys, words):
    path = make_run(tmp_path, status="failed: \x1b[2J\x9b2J gone\n", metrics=line(images=1))
    path.parent.rename(tmp_path / "gan\x1b]0;title\x07-digits")
    code, out, err = run(capsys, *words.split(), f"outputs={tmp_path}")
    assert (code, err) == (0, "") and "gan" in out
    assert not set(out) & set("\x1b\x07\x9b")


def test_a_line_that_names_a_foreign_file_does_not_steer_a_terminal(capsys):
    log("taking gan\x1b]0;title\x07-digits")
    assert capsys.readouterr().err == "taking gan\ufffd]0;title\ufffd-digits\n"
