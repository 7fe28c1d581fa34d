"""Damages run directories at random and asks genlab what it makes of them.

    python scripts/corrupt_runs.py --count 40
    python scripts/corrupt_runs.py --count 10 --seed 7 --keep

A run is trained for a few steps. Copies of it are damaged, each in one place chosen by the seed:
bits of a file, its length, its type (a link, a pipe, a folder, nothing), what a JSON file says.
All verbs that read a run are then called for each copy, as processes of their own. Wanted is an
exit code of the table in `genlab/core/errors.py` that is no bug of ours, in time, with a sentence,
and that a folder beside the copy, to which links lead, stays as it is. Else it ends with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

CODES = {0, 2, 3, 4, 7, 9, 10, 11}
"""What a damaged run may end with; 1 is a bug of ours, 128 and more or less than 0 a signal."""

SECONDS = 180  # until a process is taken for one that hangs

TRAIN = ["model=flow_matching", "data=digits", "network=unet_small", "schedule.batch=16"]
TRAIN += ["schedule.images=64", "every.checkpoint=32", "every.sample=32", "every.eval=32"]
TRAIN += ["hardware=cpu", "hardware.threads=1", "hardware.precision=fp32"]

VERBS = {
    "list": ["list", "runs"],
    "report": ["report"],
    "sample": ["sample", "n=1", "name=asked"],
    "eval": ["eval", "metric=fid", "features=raw", "n=16"],
    "resume": ["resume", "schedule.images=96"],
}

Damage = Callable[[Path, random.Random, Path], None]


def bits(path: Path, rng: random.Random, away: Path) -> None:
    """A few bits are another."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 8, 64)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def shorter(path: Path, rng: random.Random, away: Path) -> None:
    """The end is missing, or all."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.choice((0, rng.randrange(len(data) + 1)))])


def longer(path: Path, rng: random.Random, away: Path) -> None:
    """There is more than there should be, of the same or of anything."""
    data = path.read_bytes()
    path.write_bytes(data + rng.choice((data, rng.randbytes(1000), b"\0" * 100_000)))


def noise(path: Path, rng: random.Random, away: Path) -> None:
    """As many bytes of anything."""
    path.write_bytes(rng.randbytes(path.stat().st_size))


def gone(path: Path, rng: random.Random, away: Path) -> None:
    """It is not there."""
    path.unlink()


def linked(path: Path, rng: random.Random, away: Path) -> None:
    """It leads to a file, to a folder, to nothing or to itself."""
    path.unlink()
    path.symlink_to(rng.choice((away / "file", away, away / "nothing", path)))


def folder(path: Path, rng: random.Random, away: Path) -> None:
    """It is a folder."""
    path.unlink()
    path.mkdir()


def pipe(path: Path, rng: random.Random, away: Path) -> None:
    """It is a pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def said(path: Path, rng: random.Random, away: Path) -> None:
    """Of a JSON file one value is of another kind; of others bits are damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        whole = json.loads(text.splitlines()[0] if path.suffix == ".jsonl" else text)
    except (ValueError, IndexError):
        bits(path, rng, away)
        return
    if not isinstance(whole, dict) or not whole:
        bits(path, rng, away)
        return
    node = whole
    while True:
        key = rng.choice(sorted(node))
        if isinstance(node[key], dict) and node[key] and rng.random() < 0.7:
            node = node[key]
            continue
        break
    node[key] = rng.choice((None, [], {}, "x" * 100, -1, 1e400, [[[[]]]], True))
    path.write_text(json.dumps(whole) + "\n", encoding="utf-8")


DAMAGES: tuple[Damage, ...] = (bits, shorter, longer, noise, gone, linked, folder, pipe, said)


def genlab(words: list[str], cwd: Path) -> tuple[int, str]:
    """The exit code of a command and what it said on stderr; 124 where it hangs."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "genlab", *words],
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return 124, "it hangs"
    return done.returncode, done.stderr.strip()


def state(away: Path) -> str:
    """What the folder beside the runs holds."""
    text = hashlib.sha256()
    for path in sorted(away.rglob("*")):
        text.update(f"{path} {path.is_symlink()} ".encode())
        text.update(path.read_bytes() if path.is_file() else b"")
    return text.hexdigest()


def damaged(whole: Path, root: Path, number: int, seed: int) -> tuple[Path, str]:
    """A copy of the run with one damage; the copy, and the damage in words."""
    rng = random.Random(f"{seed} {number}")
    copy = root / f"{number:03d}" / "outputs" / whole.parent.name / whole.name
    shutil.copytree(whole, copy)
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.suffix != ".png")
    path, damage = rng.choice(files), DAMAGES[number % len(DAMAGES)]
    damage(path, rng, root / "away")
    return copy, f"{damage.__name__:<8}{path.relative_to(copy)}  "


def main() -> int:
    """0 when every answer was one."""
    parser = argparse.ArgumentParser(description="what genlab makes of damaged runs")
    parser.add_argument("--count", type=int, default=40, help="copies")
    parser.add_argument("--seed", type=int, default=0, help="of the damages")
    parser.add_argument("--keep", action="store_true", help="leave the copies where they are")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="corrupt-"))
    code, text = genlab(["train", *TRAIN, f"outputs={root / 'whole'}"], root)
    if code:
        sys.exit(f"the run could not be trained: {text}")
    (whole,) = (p.parent for p in (root / "whole").glob("*/*/config.yaml"))
    (root / "away").mkdir()
    (root / "away" / "file").write_text("of the person who was sent the run\n")
    before, codes, wrong = state(root / "away"), Counter[int](), 0
    for number in range(given.count):
        copy, words = damaged(whole, root, number, given.seed)
        answers = []
        for name, verb in VERBS.items():
            which = [f"outputs={copy.parent.parent}"] + ([f"run={copy}"] if name != "list" else [])
            code, text = genlab([*verb, *which], root)
            codes[code] += 1
            bad = code not in CODES or "Traceback" in text or "internal error" in text
            wrong += bad
            answers.append(f"{name} {code}{'!' if bad else ''}")
            if bad:
                print(f"     {name}: {text.splitlines()[-1] if text else 'nothing is said'}")
        print(f"{number:>3}  {words:<54}{'  '.join(answers)}", flush=True)
    touched = state(root / "away") != before
    print(f"\n{given.count} damages (seed {given.seed}), {sum(codes.values())} commands")
    print("exit codes: " + ", ".join(f"{n} x {code}" for code, n in sorted(codes.items())))
    print(f"that are no answer: {wrong}; the folder beside it is {'' if touched else 'un'}touched")
    if not given.keep:
        shutil.rmtree(root)
    return 1 if wrong or touched else 0


if __name__ == "__main__":
    sys.exit(main())
