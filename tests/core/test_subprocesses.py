"""Processes we start: stopped once, in their own time, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from genlab.core import subprocesses

SLOW = """
import signal, sys, time
seen = []
signal.signal(signal.{name}, lambda n, f: seen.append(n))
open({started!r}, "w").close()
while not seen:
    time.sleep(0.02)
time.sleep(0.7)  # the step that is being finished, and a checkpoint
open({saved!r}, "w").write(str(len(seen)))
sys.exit(128 + seen[0])
"""


def python(text):
    return [sys.executable, "-c", text]


def when_there(path, act):
    """Calls `act` in a thread as soon as a file is there."""

    def wait():
        for _ in range(500):
            if path.exists():
                return act()
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_passed_on_once_and_the_child_finishes(tmp_path, name):
    started, saved = tmp_path / "started", tmp_path / "saved"
    text = SLOW.format(name=name, started=str(started), saved=str(saved))
    number = getattr(signal, name)
    before = signal.getsignal(number)
    thread = when_there(started, lambda: os.kill(os.getpid(), number))
    code, caught = subprocesses.run([python(text)], [os.environ])
    thread.join()
    assert (code, caught) == (128 + number, number)
    assert saved.read_text() == "1"
    assert signal.getsignal(number) is before


def test_the_first_failure_stops_the_others_and_is_the_code(tmp_path):
    started, saved = tmp_path / "started", tmp_path / "saved"
    slow = SLOW.format(name="SIGTERM", started=str(started), saved=str(saved))
    fails = f"import os, sys, time\nwhile not os.path.exists({str(started)!r}): time.sleep(0.02)\n"
    code, caught = subprocesses.run(
        [python(slow), python(fails + "sys.exit(6)")], [os.environ] * 2
    )
    assert (code, caught) == (6, 0)
    assert saved.exists(), "the other one could save"


def test_success_is_zero():
    assert subprocesses.run([python("pass")] * 2, [os.environ] * 2) == (0, 0)


def test_a_child_takes_no_module_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "yaml.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    command = python("import yaml")
    assert subprocess.call(command, env=environment) == 9  # where nothing is done about it
    assert subprocesses.run([command], [environment]) == (0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children on Linux alone")
def test_a_killed_parent_takes_its_children_along(tmp_path):
    started, saved = tmp_path / "started", tmp_path / "saved"
    text = SLOW.format(name="SIGTERM", started=str(started), saved=str(saved))
    parent = os.fork()
    if not parent:
        subprocesses.run([python(text)], [os.environ])
        os._exit(0)
    when_there(started, lambda: os.kill(parent, signal.SIGKILL)).join()
    os.waitpid(parent, 0)
    for _ in range(300):
        if saved.exists():
            break
        time.sleep(0.02)
    assert saved.exists(), "the child outlived its parent"
