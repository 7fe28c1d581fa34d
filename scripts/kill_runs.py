"""Kills a training run again and again and compares it with one that was left alone.

    python scripts/kill_runs.py --model gan
    python scripts/kill_runs.py --model flow_matching --kills 20 --seed 1
    python scripts/kill_runs.py --model gan --sweep seed=0,1,2
    python scripts/kill_runs.py --model gan hardware.devices=2

A run is trained to its end twice with the same config. The second one is killed with SIGKILL at
random moments after its start, and inside saves through fail points (GENLAB_FAIL), and started
again with the same command each time. Compared are the SHA-256 of every tensor of the last
checkpoint (weights, averages, optimizer), its state, and the journal without its times; of a
sweep, of each of its runs. Exit code 1 when anything differs, when a file that was being written
is left, or when there were fewer kills or less training than planned.

Killed itself, the script goes on where it was: what happened is kept under --folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from genlab.core.cores import allowed
from genlab.run.failpoint import POINTS

CLOCKS = ("seconds", "images_per_second", "memory")  # of the journal: the machine, not the model


class Kill(NamedTuple):
    """One planned end: at a fail point of the nth save, or after some seconds.

    trains: whether the seconds count from the first line of the journal, else from the start.
    """

    point: str
    nth: int
    seconds: float
    trains: bool


def plan(kills: int, inside: int, seed: int, span: float) -> list[Kill]:
    """The planned ends in their order: a function of the seed. Every fifth may hit the start."""
    rng = random.Random(seed)
    names = rng.sample(POINTS, len(POINTS)) * (inside // len(POINTS) + 1)
    ends = [Kill(name, rng.choice((1, 2)), 0.0, True) for name in names[:inside]]
    ends += [Kill("", 0, rng.uniform(0, span), i % 5 > 0) for i in range(kills - inside)]
    rng.shuffle(ends)
    return ends


class Folder:
    """One of the two: its outputs root, its command line, and how many runs that makes."""

    def __init__(self, root: Path, words: list[str], runs: int) -> None:
        self.root, self.runs = root, runs
        self.words = [*words, f"outputs={root}"]
        self.log = root / "log.txt"
        root.mkdir(parents=True, exist_ok=True)

    @property
    def paths(self) -> list[Path]:
        """The run directories there are, in the order in which they began."""
        found = sorted(self.root.glob("*/*/config.yaml"))
        if len(found) > self.runs:
            sys.exit(f"{self.root} holds several runs; give another --folder or remove it")
        return [path.parent for path in found]

    @property
    def path(self) -> Path | None:
        """The run directory of a run, the newest of a sweep, once there is one."""
        return self.paths[-1] if self.paths else None

    def start(self, fail: str = "") -> subprocess.Popen[bytes]:
        """`genlab train` with the same words: the first time and every time after."""
        environment = {**os.environ, "GENLAB_FAIL": fail}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "genlab", "train", *self.words],
                stdout=log,
                stderr=log,
                env=environment,
            )

    def done(self) -> bool:
        """Whether every run is."""
        states = [_text(path, "STATUS").strip() for path in self.paths]
        return states == ["done"] * self.runs

    def left(self) -> list[str]:
        """Files that somebody was writing."""
        found = [p for path in self.paths for p in path.rglob(".*") if "tmp" in p.name]
        return sorted(p.name for p in found)

    def journal(self, path: Path | None = None) -> list[dict[str, float]]:
        """The lines of metrics.jsonl, of the newest run; one that is cut short is left out."""
        lines = []
        for row in _text(path or self.path, "metrics.jsonl").splitlines():
            try:
                lines.append(json.loads(row))
            except ValueError:
                continue
        return lines

    def images(self) -> int:
        """Images seen at the last line of the journal."""
        return max((int(line["images"]) for line in self.journal()), default=0)

    def saved(self, path: Path | None = None) -> int:
        """Images of the newest complete checkpoint, of the newest run."""
        path = path or self.path
        folder = path and path / "checkpoints"
        names = [p.name for p in folder.glob("*")] if folder else []
        return max((int(n) for n in names if re.fullmatch(r"\d{12}", n)), default=0)


def _text(folder: Path | None, name: str) -> str:
    try:
        return (folder / name).read_text(errors="replace") if folder else ""
    except OSError:
        return ""


def fingerprint(folder: Folder) -> dict[str, str]:
    """Everything two equal runs share: name -> SHA-256 or text."""
    from safetensors.numpy import load_file

    found = {}
    for path in folder.paths:
        run = path.name.rpartition("-")[2]  # the digest of its config
        last = path / "checkpoints" / f"{folder.saved(path):012d}"
        found |= {f"{run} last": last.name, f"{run} state": _text(last, "state.json")}
        for name in ("model", "optimizer"):
            for key, value in load_file(last / f"{name}.safetensors").items():
                raw = f"{value.dtype} {value.shape} ".encode() + value.tobytes()
                found[f"{run} {name}/{key}"] = hashlib.sha256(raw).hexdigest()
        for i, line in enumerate(folder.journal(path)):
            kept = {k: v for k, v in line.items() if k not in CLOCKS}
            found[f"{run} journal line {i}"] = json.dumps(kept)
    return found


def wait_for_step(process: subprocess.Popen[bytes], folder: Folder) -> None:
    """Returns when the first journal line of this process is there, or when it has ended."""
    size = len(folder.journal())
    began = folder.path / "STATUS" if folder.path else None
    stamp = began.stat().st_mtime if began and began.exists() else 0.0
    while process.poll() is None:
        now = folder.path / "STATUS" if folder.path else None
        started = now is not None and now.exists() and now.stat().st_mtime != stamp
        if started and len(folder.journal()) != size:
            return
        time.sleep(0.02)


def end(kill: Kill, folder: Folder) -> dict[str, object] | None:
    """Starts the run and ends it as planned; what was lost, or None if it was done before."""
    before = _text(folder.path, "metrics.jsonl")
    process = folder.start(f"{kill.point}:kill@{kill.nth}" if kill.point else "")
    try:
        if not kill.point:
            if kill.trains:
                wait_for_step(process, folder)
            try:
                process.wait(kill.seconds)
            except subprocess.TimeoutExpired:
                process.kill()
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code == 0:
        return None
    if code not in (-9, 137, 10):  # it, the child of a sweep, or a rank was killed
        sys.exit(f"the run ended by itself with {code}; see {folder.log}")
    seen, saved = folder.images(), folder.saved()
    if _text(folder.path, "metrics.jsonl") == before:
        seen = saved  # it did not come to train, so what is lost was lost by the kill before
    return {"kill": kill.point or "random", "images": seen, "lost": max(0, seen - saved)}


def finish(folder: Folder) -> None:
    """Trains to the end without a kill."""
    process = folder.start()
    try:
        code = process.wait()
    except BaseException:
        process.terminate()  # saves; the script started again goes on from there
        process.wait()
        raise
    if code:
        sys.exit(f"the run ended with {code}; see {folder.log}")


def images_for(seconds: float, words: list[str], batch: int) -> int:
    """Images of a run that trains about 1.3 times as long, by the speed of a dry run."""
    command = [sys.executable, "-m", "genlab", "train", "--dry-run", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    match = re.search(r"speed\s+([\d,.]+) images/s", done.stdout)
    if match is None:
        sys.exit(f"the dry run prints no speed:\n{done.stdout}{done.stderr}")
    speed = float(match[1].replace(",", ""))
    return int(1.3 * seconds * speed / batch + 1) * batch


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="kill -9 a run again and again; the end must be that of a run left alone"
    )
    parser.add_argument("--model", default="gan", help="gan, flow_matching, ...")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--inside", type=int, help="kills inside a save (default: 30 %% of all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--seconds", type=float, default=90, help="least training time of the run")
    parser.add_argument("--every", type=float, default=5, help="seconds between checkpoints")
    parser.add_argument("--images", type=int, help="length of the run (default: by a dry run)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sweep", default="", help="seed=0,1,2: the runs of a sweep, one by one")
    parser.add_argument("--folder", type=Path, default=Path("outputs/kill_runs"))
    parser.add_argument("words", nargs="*", help="more overrides, e.g. hardware.threads=1")
    given = parser.parse_args()
    if given.inside is None:
        given.inside = round(0.3 * given.kills)
    return given


def main() -> int:
    """Runs or continues the experiment; 0 when the runs are identical and all went as planned."""
    a = arguments()
    runs = len(a.sweep.split(","))
    words = [f"model={a.model}", f"data={a.data}", f"hardware.precision={a.precision}"]
    words += [f"schedule.batch={a.batch}", f"every.seconds={a.every}"]
    words += [f"hardware.threads={allowed()}", *a.words]  # auto may differ between the two runs
    kind = (
        "-sweep"
        if a.sweep
        else "".join(f"-{w.replace('=', '-')}" for w in a.words if "devices" in w)
    )
    root = a.folder / f"{a.model}-{a.data}-{a.precision}-seed{a.seed}{kind}"
    root.mkdir(parents=True, exist_ok=True)
    length = root / "images.txt"  # measured once, so that a continued experiment is the same one
    if not length.exists():
        length.write_text(str(a.images or images_for(a.seconds, words, a.batch)))
    words.append(f"schedule.images={int(length.read_text())}")
    words += ["-m", a.sweep] if a.sweep else []
    whole, killed = Folder(root / "whole", words, runs), Folder(root / "killed", words, runs)

    start = time.monotonic()
    if not whole.done():
        shutil.rmtree(whole.root)  # begun by a script that was stopped: not left alone
        whole = Folder(whole.root, words, runs)
        print(f"left alone: genlab train {' '.join(whole.words)}", flush=True)
        finish(whole)
    trained = sum(float(whole.journal(path)[-1]["seconds"]) for path in whole.paths)

    record = root / "kills.jsonl"
    kills = [json.loads(row) for row in _text(root, record.name).splitlines()]
    for kill in plan(a.kills, a.inside, a.seed, 2.0 * a.every)[len(kills) :]:
        if killed.done():
            break
        happened = end(kill, killed)
        if happened is None:
            break
        kills.append(happened)
        with open(record, "a", encoding="utf-8") as f:
            f.write(json.dumps(happened) + "\n")
        print(f"kill {len(kills):>3}  {happened}", flush=True)
    if not killed.done():
        finish(killed)

    one, other = fingerprint(whole), fingerprint(killed)
    different = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
    inside = sum(k["kill"] != "random" for k in kills)
    lost = sum(k["lost"] for k in kills)
    rows = {
        "model, data, precision": f"{a.model}, {a.data}, {a.precision}",
        "images": f"{whole.saved():,}",
        "training time left alone": f"{trained:.1f} s",
        "kills": f"{len(kills)} of {a.kills} planned (seed {a.seed})",
        "of them inside a save": f"{inside} of {a.inside} planned",
        "images lost in all": f"{lost:,} (to the accuracy of every.log)",
        "wall time of this call": f"{time.monotonic() - start:.0f} s",
        "things compared": f"{len(one):,}",
        "files left half-written": ", ".join(killed.left()) or "none",
        "identical": "yes" if not different else f"NO: {', '.join(different[:8])}",
    }
    for name, value in rows.items():
        print(f"{name:<26}{value}")
    weak = trained < a.seconds or len(kills) < a.kills or inside < a.inside
    if weak:
        print("weaker than planned: use a new --folder with more --images")
    return 1 if different or weak or killed.left() else 0


if __name__ == "__main__":
    sys.exit(main())
