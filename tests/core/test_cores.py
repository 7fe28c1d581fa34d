"""Cores that others keep busy are read off the counters of the kernel."""

import os
import time

import pytest

from genlab.core import cores

TICK = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of three cores, of which two are allowed; gives what lets time pass on it."""
    monkeypatch.setattr(cores, "STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    clock, used = [100.0], [7.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "times", lambda: (used[0], 0.0, 0.0, 0.0, 0.0))
    ticks = {core: [50] * 10 for core in range(3)}

    def after(seconds, mine=0.0, **spent):
        """spent: seconds of user, nice, system, idle, iowait, irq, softirq, steal on each core."""
        clock[0] += seconds
        used[0] += mine
        names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
        for core, row in ticks.items():
            for i, name in enumerate(names):
                row[i] += round(TICK * spent.get(name, [0, 0, 0])[core])
        lines = [f"cpu{core} " + " ".join(map(str, row)) for core, row in ticks.items()]
        (tmp_path / "stat").write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 5"]))

    after(0.0)
    cores.watch()
    return after


@pytest.mark.parametrize(
    ("mine", "spent", "busy"),
    [
        (2.0, {"user": [2, 0, 0]}, 0.0),  # this process alone
        (2.0, {"user": [2, 0, 2]}, 1.0),
        (1.0, {"user": [1, 0, 1], "system": [1, 0, 0], "softirq": [0, 0, 1]}, 1.5),
        (0.0, {"user": [0, 2, 0]}, 0.0),  # on a core that is not ours
        (
            0.0,
            {"nice": [2, 0, 2], "idle": [1, 1, 1], "iowait": [1, 0, 0], "steal": [1, 0, 0]},
            0.0,
        ),
        (3.0, {"user": [1, 0, 1]}, 0.0),  # the counters lag behind
    ],
)
def test_what_others_compute_on_the_cores_that_are_allowed(machine, mine, spent, busy):
    machine(2.0, mine, **spent)
    assert cores.allowed() == 2
    assert cores.busy_elsewhere() == pytest.approx(busy)


def test_a_moment_is_too_short_and_a_system_without_counters_has_none(machine, tmp_path):
    machine(0.3, user=[0.3, 0, 0.3])
    assert cores.busy_elsewhere() == 0
    machine(0.3, user=[0.3, 0, 0.3])
    assert cores.busy_elsewhere() == pytest.approx(2)
    (tmp_path / "stat").unlink()
    assert cores.busy_elsewhere() == 0
    cores.watch()
    assert cores.busy_elsewhere() == 0
