"""How often a run looks at itself, how long that takes, and that it changes no weight."""

from __future__ import annotations

import json

import pytest

from genlab.assemble.components import build
from genlab.config import auto_values
from genlab.config.compose import compose
from genlab.core.errors import Stopped
from genlab.sampling.pipeline import Pipeline
from genlab.training import cadence
from genlab.training.cadence import event_seconds, times, times_within
from genlab.training.costs import evaluations, event_costs
from genlab.training.dry_run import fake
from genlab.training.run_loop import train_run
from genlab.training.setup import set_up
from tests.helpers.runs import fingerprint, journal, small, started

AUTO = {"schedule.images": 160, "every.log": 40, "every.sample": "auto", "every.eval": "auto"}


@pytest.fixture
def priced(monkeypatch):
    """priced(**costs): what one event of each kind is found to cost; returns the calls."""
    calls = []

    def price(**costs):
        def measured(*given):
            calls.append(given)
            return dict(costs)

        monkeypatch.setattr(cadence, "event_costs", measured)
        return calls

    return price


def grids(run):
    return sorted(int(p.stem) for p in (run.path / "samples/train").glob("*.png"))


def held_out(run):
    return [line["images"] for line in journal(run) if "heldout/loss" in line]


def test_the_dearest_is_made_rarer_until_all_take_a_tenth():
    cheap = {"eval": 0.2, "sample": 0.5, "checkpoint": 0.1}
    assert times_within(100, cheap, {}) == dict.fromkeys(cheap, 10)
    # 50 s of grids, then 25, then 10: with 3 s of the others more than a tenth of 113, then 5
    dear = {"eval": 0.2, "sample": 5.0, "checkpoint": 0.1}
    assert times_within(100, dear, {}) == {"eval": 10, "sample": 1, "checkpoint": 10}
    assert times_within(10, {"eval": 1e9, "checkpoint": 0.0}, {}) == {"eval": 1, "checkpoint": 10}
    assert times_within(0, dear, {}) == dict.fromkeys(dear, 1), "the end comes in any case"
    for seconds in (60, 90, 400):
        often = times_within(seconds, dear, {})
        spent = sum(often[k] * dear[k] for k in dear)
        assert spent <= 0.1 * (seconds + spent)


def test_times_are_those_that_events_come():
    assert [times(0, 100, 10), times(0, 105, 10), times(0, 100, 100)] == [10, 11, 1]
    assert [times(90, 100, 10), times(91, 100, 10), times(100, 100, 10)] == [1, 1, 0]
    assert times(0, 100, 10**9) == 1, "at the end"
    often = {"eval": 1, "sample": 2, "checkpoint": 1}
    costs = {"eval": 1.0, "sample": 10.0, "checkpoint": 0.5}
    every = {"seconds": 60}
    assert event_seconds(600, often, costs, every) == 1 + 20 + 10 * 0.5, "one a minute"


@pytest.mark.parametrize("dear", [False, True])
def test_cadence_follows_what_is_measured_and_changes_no_weight(tiny, priced, capsys, dear):
    priced(eval=1e9, sample=1e9 if dear else 0.0, checkpoint=0.0)
    run = started(tiny("flow_matching", **AUTO))
    train_run(run.path)
    tenths = list(range(48, 161, 16))  # the first two are over before anything is known
    assert grids(run) == ([160] if dear else tenths) and held_out(run) == [160]
    line = next(x for x in capsys.readouterr().err.splitlines() if "over a tenth" in x)
    words = "held-out losses and grids" if dear else "held-out losses"
    assert line.startswith(f"{words} at the end alone: ")
    if not dear:
        return
    other = started(tiny("flow_matching", **{**AUTO, "every.sample": 80, "every.eval": 10**9}))
    train_run(other.path)
    last = "checkpoints/000000000160"
    mine, others = fingerprint(run.path / last), fingerprint(other.path / last)
    assert {k: v for k, v in mine.items() if k != "state"} == {
        k: v for k, v in others.items() if k != "state"
    }


def test_a_run_that_goes_on_does_not_decide_again(tiny, priced, monkeypatch):
    calls = priced(eval=0.0, sample=0.0, checkpoint=0.0)
    run = started(tiny("gan", **AUTO))
    from genlab.training.trainer import Trainer

    step = Trainer.one_step

    def stopping(self):
        step(self)
        if self.clock.images == 56:
            raise Stopped(15, "here")

    with monkeypatch.context() as m, pytest.raises(Stopped):
        m.setattr(Trainer, "one_step", stopping)
        train_run(run.path)
    assert len(calls) == 1 and json.loads((run.path / "cadence.json").read_text())
    priced(eval=1e9, sample=1e9, checkpoint=1e9)
    train_run(run.path)
    assert len(calls) == 1 and grids(run) == list(range(48, 161, 16))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("flow_matching", {"sampler": "heun"}),
        ("flow_matching", {"sampler": "euler", "guidance": "cfg", "guidance.scale": 2.0}),
        ("ddpm", {"sampler": "ancestral", "sampler.steps": 7}),
        ("edm", {"sampler": "dpmpp_2m"}),
        ("gan", {}),
    ],
)
def test_evaluations_are_counted_without_the_network(model, words):
    pipeline = Pipeline(build(small(model, "digits", **words)))
    classes = [0, 1] if pipeline.spec.classes else None
    if pipeline.sampler.follows_path:
        counted = evaluations(pipeline)
        pipeline.draw(classes, 0, range(2))
        assert counted == pipeline.sampler.evaluations > 1


@pytest.mark.parametrize("model", ["gan", "vqvae", "glow"])
def test_costs_are_of_all_that_a_run_draws(model):
    config = small(model, "digits", metric="swd", **{"eval.n": 12})
    setup = set_up(config)
    data = fake(setup.components.data, 4)
    found = event_costs(
        setup.pipeline, setup.evaluator, setup.components.optimizers, data, 20, None
    )
    assert found.keys() == {"eval", "sample", "checkpoint"}
    assert all(seconds > 0 for seconds in found.values())


def test_a_short_run_has_few_held_out_data(monkeypatch):
    monkeypatch.setattr(auto_values, "FEWEST", 64)
    monkeypatch.setattr(auto_values, "MOST", 1024)

    def asked(images, held_out="auto"):
        return {"schedule": {"images": images}, "eval": {"held_out": held_out}}

    found = [auto_values.held_out(asked(images)) for images in (640, 20_000, 10**9)]
    assert found == [64, 625, 1024]
    assert auto_values.held_out(asked(640, 33)) == 33
    assert compose(["schedule.images=4096"])["eval"]["held_out"] == 128, "a config says it"
