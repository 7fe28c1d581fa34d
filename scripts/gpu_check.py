"""What a GPU shows and a CPU cannot, in fifteen minutes: `make gpu-check`.

    python scripts/gpu_check.py [--rehearse] [--parts trainer,speed] [--again] [--list]
                                [--seconds 540] [--data ROOT] [--json FILE]

Runs the tests marked gpu, trains every recipe that is meant for GPUs for some seconds, compiled
and not, and times attention beside torch's kernels: in parts of at most four minutes, most
important first, every process ended when its time is over. A command stops after nine minutes, all
commands after twelve; one typed again goes on with what is not done, which it reads from its JSON.
Prints one table. Nothing is fetched; without --data recipes are trained on noise of their data's
shape. --rehearse does all of it on a CPU with tiny sizes, to see that it runs; its figures mean
nothing.

The exit code is 1 where something failed, 0 else. What processes printed is in a .log beside the
JSON. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu.parts import COMMAND, ROOT, WHOLE, Part, parts

NEEDED = (
    "torch",
    "hydra",
    "omegaconf",
    "rich",
    "safetensors",
    "numpy",
    "PIL",
    "sklearn",
    "pytest",
)
LEAST = 20.0
"""Seconds with which a part is begun."""
WORDS = {"passed": "passed", "failed": "FAILED", "late": "took too long", "cut": "not finished"}
"""State of an item -> word of the table. A cut one is begun anew by the next command."""


class Results:
    """What is known of every item, kept in a file after each change."""

    def __init__(self, path: Path, rehearse: bool) -> None:
        """Raises ValueError for a file of a rehearsal where this is none, or the other way."""
        self.path = path
        self.known: dict[str, Any] = {"rehearsal": rehearse, "seconds": 0.0, "parts": {}}
        if path.exists():
            self.known = json.loads(path.read_text(encoding="utf-8"))
            if self.known["rehearsal"] != rehearse:
                raise ValueError(f"{path} is of {'no ' * rehearse}rehearsal: name another --json")

    def state(self, part: str, item: str) -> str:
        """One of WORDS, or "" for what was not begun."""
        return str(self.known["parts"].get(part, {}).get(item, {}).get("state", ""))

    def todo(self, part: Part) -> list[str]:
        return [i for i in part.items if self.state(part.name, i) in ("", "cut")]

    def put(self, part: str, item: str, state: str, seconds: float, known: Mapping[str, Any]):
        """Keeps what was found of an item and saves it."""
        of = self.known["parts"].setdefault(part, {})
        of[item] = {"state": state, "item_seconds": round(seconds, 1), **known}
        self.save()

    def forget(self, part: str) -> None:
        self.known["parts"].pop(part, None)

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(self.path.name + ".tmp")
        aside.write_text(json.dumps(self.known, indent=1), encoding="utf-8")
        os.replace(aside, self.path)


class Child:
    """A process that does some items of a part, one after the other."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that what it starts ends with it
        )
        self.since = time.monotonic()
        self.item, self.last, self.found = "", "", dict[str, Any]()
        self.log = log
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("a", encoding="utf-8") as log:
            for line in self.process.stdout:
                if line.startswith("@"):
                    self.lines.put(line.rstrip("\n"))
                else:
                    log.write(line)
                    log.flush()
                    self.last = line.strip() or self.last
        self.lines.put(None)

    def kill(self) -> None:
        """Ends it with everything that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def run_part(
    part: Part, seconds: float, results: Results, start: Callable[[Sequence[str]], Child]
):
    """Does what is not done of a part, for that many seconds at most."""
    end = time.monotonic() + seconds
    todo = results.todo(part)
    waiting = deque(todo[i : i + part.several] for i in range(0, len(todo), part.several))
    running: dict[Child, list[str]] = {}

    def keep(child: Child, item: str, state: str, **known: Any) -> None:
        results.put(part.name, item, state, time.monotonic() - child.since, child.found | known)
        child.since, child.item, child.found = time.monotonic(), "", {}

    def look(child: Child) -> bool:
        """Reads what a child has said; False once it has ended."""
        left = running[child]
        while True:
            try:
                line = child.lines.get_nowait()
            except queue.Empty:
                return True
            if line is None:
                break
            kind, _, text = line.partition(" ")
            if kind == "@at":
                child.item, child.since = text, time.monotonic()
            elif kind == "@found":
                child.found = json.loads(text)
            else:
                keep(child, text, "passed" if child.found.get("ok") else "failed")
                left.remove(text)
        child.process.wait()
        if left:  # it died at the first of them
            says = f"ended with code {child.process.returncode}: {child.last[:200]}"
            before = child.found.get("says", "")
            keep(child, left.pop(0), "failed", says="; ".join(w for w in (before, says) if w))
        return False

    try:
        while waiting or running:
            now = time.monotonic()
            if now >= end:
                break
            while waiting and len(running) < part.beside:
                group = waiting.popleft()
                running[start([part.work, *group])] = group
            for child in list(running):
                alive, left = look(child), running[child]
                if alive and now - child.since > part.each:
                    child.kill()
                    item = left.pop(0)
                    before = child.found.get("says", "nothing yet")
                    keep(child, item, "late", says=f"{before}; ended after {part.each:.0f} s")
                    alive = False
                if not alive:
                    del running[child]
                    waiting.extend([left] if left else [])
            time.sleep(0.05)
    finally:
        for child, left in running.items():
            child.kill()
            if child.found and left:  # a part of it is known
                keep(child, left[0], "cut")


# --- the table -----------------------------------------------------------------------------------


def table(plan: Sequence[Part], results: Results) -> list[str]:
    """One line an item; what compiling brings is beside the rate without."""
    rows = [("part", "what", "outcome", "s", "found"), ("---",) * 5]
    for part in plan:
        for item in part.items:
            known = results.known["parts"].get(part.name, {}).get(item)
            if known is None:
                rows.append((part.name, item, "not run", "", ""))
                continue
            says = str(known.get("says", "")) + _ratio(part, item, known, results)
            word, seconds = WORDS[known["state"]], f"{known['item_seconds']:.0f}"
            rows.append((part.name, item, word, seconds, says.replace("|", "/")))
    return ["| " + " | ".join(row) + " |" for row in rows]


def _ratio(part: Part, item: str, known: Mapping[str, Any], results: Results) -> str:
    plain = results.known["parts"].get("speed", {}).get(item, {}).get("images_per_second")
    rate = known.get("images_per_second")
    if part.work != "compiled" or not plain or not rate:
        return ""
    return f", {rate / plain:.2f} times as many as not compiled"


def summary(plan: Sequence[Part], results: Results) -> list[str]:
    """How many passed, what is left, and what to type."""
    states = [results.state(p.name, i) or "cut" for p in plan for i in p.items]
    passed, bad = states.count("passed"), states.count("failed") + states.count("late")
    left, spent = states.count("cut"), results.known["seconds"]
    lines = [f"{passed} of {len(states)} passed, {bad} did not, {left} are left; {spent:.0f} s"]
    if left and WHOLE - spent >= LEAST:
        lines.append("the same command goes on with what is left")
    elif left:
        lines.append("the time is used up; --parts NAME --again does one part anew")
    return lines


# --- one command ---------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """GPU and versions, from a process of its own: this one does not wait for torch."""
    code = (
        "import json, torch; c = torch.cuda; print(json.dumps({'torch': torch.__version__,"
        " 'gpu': c.get_device_name() if c.is_available() else ''}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise ValueError(f"torch cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny sizes")
    parser.add_argument("--parts", default="", help="those alone, by name: see --list")
    parser.add_argument("--again", action="store_true", help="forget what is known of these parts")
    parser.add_argument("--list", action="store_true", help="say what there is to do, and stop")
    parser.add_argument("--seconds", type=float, default=COMMAND, help="of this command")
    parser.add_argument("--data", default="", help="data.root; else recipes are trained on noise")
    parser.add_argument("--json", type=Path, help="what is known, and read when called again")
    args = parser.parse_args()
    name = "gpu_rehearsal" if args.rehearse else "gpu_check"
    path = args.json or ROOT / "outputs" / f"{name}.json"
    begun = time.monotonic()
    try:
        plan = parts(args.rehearse, [p for p in args.parts.split(",") if p])
        if args.list:
            for part in plan:
                print(f"{part.name:<10} at most {part.limit:.0f} s: {part.says}")
                print("\n".join(f"    {item}" for item in part.items))
            return 0
        if missing := [m for m in NEEDED if importlib.util.find_spec(m) is None]:
            raise ValueError(f"Python lacks {', '.join(missing)}: pip install -e '.[dev]'")
        results = Results(path, args.rehearse)
        results.known |= machine()
        if not results.known["gpu"] and not args.rehearse:
            raise ValueError("torch sees no GPU here; --rehearse runs all of it on the CPU")
    except ValueError as e:
        print(f"gpu_check: {e}", file=sys.stderr)
        return 2
    if args.again:
        for part in plan:
            results.forget(part.name)
        if args.parts:  # asked for by name: it gets the time that it needs
            results.known["seconds"] = 0.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are ended
    before = results.known["seconds"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]),
            "PYTHONUNBUFFERED": "1",
            "GPU_CHECK_PARENT": str(os.getpid()),
            "GPU_CHECK_TURN": f"{folder}/turn",
            "GPU_CHECK_DATA": args.data,
        }
        if args.rehearse:
            environment |= {"GENLAB_REHEARSE": "1", "CUDA_VISIBLE_DEVICES": ""}
        log = path.with_suffix(".log")
        path.parent.mkdir(parents=True, exist_ok=True)

        def start(words: Sequence[str]) -> Child:
            return Child([sys.executable, "-m", "gpu.child", *words], environment, log)

        try:
            for part in plan:
                spent = time.monotonic() - begun
                seconds = min(part.limit, args.seconds - spent, WHOLE - before - spent)
                if not results.todo(part) or seconds < LEAST:
                    continue
                print(f"== {part.name}: {part.says} (at most {seconds:.0f} s)", flush=True)
                run_part(part, seconds, results, start)
                results.known["seconds"] = before + time.monotonic() - begun
                results.save()
        finally:
            results.known["seconds"] = before + time.monotonic() - begun
            results.save()
            print("\n".join(["", *table(plan, results), "", *summary(plan, results)]))
            print(f"{results.known['gpu'] or 'cpu, a rehearsal'}, torch {results.known['torch']}")
            print(f"{path}, {log}", flush=True)
    states = {results.state(p.name, i) for p in plan for i in p.items}
    return 1 if states & {"failed", "late"} else 0


if __name__ == "__main__":
    sys.exit(main())
