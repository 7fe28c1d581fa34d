"""scripts/gpu_check.py: what it plans, what it keeps, and that nothing outlives its time."""

import json
import sys
from pathlib import Path

import pytest

from genlab.config import catalog

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import gpu_check  # noqa: E402
from gpu import child  # noqa: E402
from gpu.parts import COMMAND, FIRST, WHOLE, Part, parts, recipes  # noqa: E402

CHILD = """
import json, sys, time
for item in sys.argv[1:]:
    print("@at", item, flush=True)
    print("@found", json.dumps({"ok": item != "bad", "says": f"half of {item}"}), flush=True)
    if item == "hang":
        time.sleep(100)
    if item == "crash":
        sys.exit("no such thing")
    print("a line for the log")
    print("@found", json.dumps({"ok": item != "bad", "says": f"all of {item}"}), flush=True)
    print("@end", item, flush=True)
"""


@pytest.fixture
def results(tmp_path):
    return gpu_check.Results(tmp_path / "check.json", False)


def do(part, results, seconds=30.0):
    """Runs a part; the items that processes were started with."""
    started = []

    def start(words):
        started.append(words[1:])
        command = [sys.executable, "-S", "-c", CHILD, *words[1:]]
        return gpu_check.Child(command, {}, results.path.with_suffix(".log"))

    gpu_check.run_part(part, seconds, results, start)
    return started


def part(*items, **more):
    given = {"limit": 30, "each": 20, "several": len(items)} | more
    return Part("speed", "training", "train", items, **given)


def states(some, results):
    return [results.state(some.name, item) for item in some.items]


def test_the_plan_fits_fifteen_minutes_and_forgets_no_test():
    plan = {p.name: p for p in parts()}
    assert next(iter(plan)) == "trainer" and COMMAND <= 9 * 60 and WHOLE <= 12 * 60
    assert all(p.each <= p.limit <= 4 * 60 for p in plan.values())
    planned = {item for name in ("trainer", "tests") for item in plan[name].items}
    marked = {f for f in ROOT.glob("tests/*/test_*.py") if "mark.gpu" in f.read_text()}
    assert {f.relative_to(ROOT).as_posix() for f in marked} | set(FIRST) <= planned
    assert set(plan["speed"].items) == set(plan["compiled"].items) == set(recipes())
    training = [p for p in plan.values() if p.work in ("train", "compiled")]
    assert all(p.beside * child.SHARE <= 1 for p in training), "all fit the memory at once"
    assert {p.name for p in parts(True)} == set(plan), "all of it is rehearsed"
    assert [p.name for p in parts(only=["attention", "speed"])] == ["speed", "attention"]
    with pytest.raises(ValueError, match="no part sped; there are trainer, tests"):
        parts(only=["sped"])


def test_noise_can_stand_for_the_data_of_every_recipe_of_a_gpu():
    assert {"cifar10/ho2020", "folder/karras2022", "celeba/glow"} <= set(recipes())
    assert not [r for r in recipes() if r.startswith(("digits", "toy", "mnist"))]
    data = {catalog.chosen("train", {"experiment": r})["data"].name for r in recipes()}
    assert data <= set(child.SHAPES)


def test_an_item_that_fails_or_dies_takes_no_other_with_it(results):
    some = part("a", "bad", "crash", "b")
    started = do(some, results)
    assert states(some, results) == ["passed", "failed", "failed", "passed"]
    assert len(started) == 2, "a new process does what the dead one left"
    assert "half of crash; ended with code 1: no such thing" in "\n".join(
        gpu_check.table([some], results)
    )
    assert "a line for the log" in results.path.with_suffix(".log").read_text()


def test_what_hangs_is_ended_and_what_it_had_is_kept(results):
    some = part("a", "hang", "b", each=0.7)
    do(some, results)
    assert states(some, results) == ["passed", "late", "passed"]
    assert "half of hang; ended after" in "\n".join(gpu_check.table([some], results))
    assert not results.todo(some), "it is not tried again by itself"


def test_a_command_goes_on_with_what_another_left(results):
    some = part("a", "hang", "b")
    do(some, results, seconds=0.8)
    assert states(some, results) == ["passed", "cut", ""]
    again = gpu_check.Results(results.path, False)
    assert again.todo(some) == ["hang", "b"]
    lines = gpu_check.summary([some], again)
    assert lines[0].startswith("1 of 3 passed, 0 did not, 2 are left")
    assert "goes on" in lines[1]
    with pytest.raises(ValueError, match="is of no rehearsal"):
        gpu_check.Results(results.path, True)


def test_the_table_is_made_of_the_file_alone(tmp_path, capsys, monkeypatch):
    found = {"state": "passed", "item_seconds": 9.6, "says": "1,500 images/s"}
    plain, twice = ({**found, "images_per_second": r} for r in (1500, 3000))
    known = {"speed": {"cifar10/glow": plain}, "compiled": {"cifar10/glow": twice}}
    file = tmp_path / "c.json"
    text = json.dumps({"rehearsal": False, "seconds": WHOLE, "parts": known})
    file.write_text(text)
    monkeypatch.setattr(gpu_check, "machine", lambda: {"gpu": "H200", "torch": "2.11"})
    words = ["gpu_check.py", "--json", str(file), "--parts", "speed,compiled"]
    monkeypatch.setattr(sys, "argv", words)
    assert gpu_check.main() == 0, "no time is left, so nothing is started"
    out = capsys.readouterr().out
    assert "| speed | cifar10/glow | passed | 10 | 1,500 images/s |" in out
    assert "1,500 images/s, 2.00 times as many as not compiled" in out
    assert "| compiled | cifar10/ho2020 | not run |" in out
    assert "the time is used up" in out and "H200, torch 2.11" in out
