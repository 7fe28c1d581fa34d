"""Threads are as many as cores are idle, once for a run; what a person gives stands."""

import json

import pytest

from genlab.hardware import hardware
from genlab.hardware.hardware import Hardware
from genlab.training.setup import set_up
from tests.helpers.runs import started


def machine_of(threads):
    return Hardware(device="cpu", precision="fp32", compile=False, deterministic=True,
                    channels_last=True, attention="auto", threads=threads, micro_batch="auto",
                    devices=1, on_spike="warn")  # fmt: skip


@pytest.fixture
def busy(monkeypatch):
    """A machine of four cores; gives what says how many of them others keep busy."""
    load = [0.0]
    monkeypatch.setattr(hardware, "allowed", lambda: 4)
    monkeypatch.setattr(hardware, "busy_elsewhere", lambda: load[0])
    return load


@pytest.mark.parametrize(
    ("load", "threads", "ranks", "expected"),
    [
        (0.0, "auto", 1, 4),
        (0.4, "auto", 1, 4),
        (1.1, "auto", 1, 3),
        (3.9, "auto", 1, 1),
        (9.0, "auto", 1, 1),
        (3.9, 2, 1, 2),
        (2.0, "auto", 2, 2),  # the other rank is what keeps them busy
    ],
)
def test_as_many_as_are_idle(busy, monkeypatch, load, threads, ranks, expected):
    busy[0] = load
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    machine = machine_of(threads)
    assert machine.threads == expected
    chosen = threads == "auto" and expected < 4 and ranks == 1
    assert (f"of 4 cores others keep {load} busy" in machine.describe()) == chosen


def test_a_run_goes_on_with_the_number_it_began_with(busy):
    machine = machine_of("auto")
    machine.keep_threads(None)
    assert machine.threads == 4
    machine.keep_threads(8)  # of a larger machine
    assert machine.threads == 4
    machine.keep_threads(1)
    assert machine.threads == 1
    machine = machine_of(3)
    machine.keep_threads(1)
    assert machine.threads == 3


def test_that_number_is_read_where_the_run_is(busy, tiny):
    config = tiny("gan", **{"hardware.threads": "auto"})
    run = started(config)
    assert set_up(config, run=run.path).components.hardware.threads == 4
    for recorded, expected in (({"threads": 2}, 2), ({}, 4), ({"threads": "two"}, 4), ([1], 4)):
        (run.path / "environment.json").write_text(json.dumps(recorded))
        assert set_up(config, run=run.path).components.hardware.threads == expected
