"""Spikes of loss and gradient norm: what is one, what a run does about it, and who says so."""

from __future__ import annotations

import json
import math
import random
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from genlab.cli.list import listing
from genlab.core.contract import Model
from genlab.core.errors import Spiked, Stopped
from genlab.core.registry import names
from genlab.core.spikes import AFTER, BLOCK, PATIENCE, RISE, WARM_UP, WINDOW, Spike, Spikes
from genlab.model.path import PathModel
from genlab.run.checkpoint import Checkpoints
from genlab.run.directory import Run
from genlab.run.journal import read_journal
from genlab.run.spike import lines, sentence, spikes, summary
from genlab.training.run_loop import train_run
from genlab.training.trainer import Trainer
from tests.helpers.runs import fingerprint, journal, small, started
from tests.helpers.stops import Crash, crash, signalled, stop_at
from tests.helpers.trainers import make, tiny_config
from tests.training.test_trainer import AdamW, Source

GOLDEN = Path(__file__).parents[1] / "golden"


def found(values, name="loss/net", detector=None):
    """The steps at which a row of spikes begins."""
    detector = detector or Spikes()
    detector.observe([(i, 8 * (i + 1), name, x) for i, x in enumerate(values)])
    return [s.step for s in detector.found]


def calm(n, seed=0, spread=0.1):
    """Log-normal values around 1."""
    draw = random.Random(seed)
    return [math.exp(draw.gauss(0, spread)) for _ in range(n)]


# --- what is a spike -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loss/net", "grad_norm/net"])
def test_a_row_of_spikes_is_found_once(name):
    values = calm(1000)
    values[300] = values[310] = values[500] = 100.0
    assert found(values, name) == [300, 500]
    values[400:] = [x * 100 for x in values[400:]]  # a level that stays
    assert found(values, name) == [300, 400]


def test_losses_that_fall_and_heavy_tails_are_none():
    fall = [10 * x / (1 + i / 20) for i, x in enumerate(calm(3000, spread=0.3))]
    assert found(fall) == []
    for spread in (0.01, 1.0, 2.0):
        assert found(calm(20_000, spread=spread)) == []
    draw = random.Random(0)
    signed = [draw.gauss(-1.2, 0.05) for _ in range(5000)]
    assert found(signed) == []
    signed[4000] = 5.0
    assert found(signed) == [4000]
    chi = [draw.gauss(0, 1) ** 2 * 10 ** draw.uniform(-2, 0) for _ in range(5000)]
    assert found(chi) == []


def test_a_discriminator_that_has_won_may_lose_again():
    draw = random.Random(0)
    won = [1.4] * 200 + [1e-4 * x for x in calm(500)]
    for _ in range(20):
        won[draw.randrange(300, 700)] = 2.0
    assert found(won, "loss/d") == []
    assert found([*won, 30.0], "loss/d") == [700]
    hinge = [2.0] * 200 + [0.0] * 500
    hinge[600] = 1.5
    assert found(hinge, "loss/d") == []
    assert found([0.0] * 500 + [1.0], "loss/d") == [], "there is nothing to compare with"


@pytest.mark.parametrize("rate", [1.002, 1.01, 1.1, 2.0])
def test_a_loss_that_rises_to_1e16_is_found_however_slowly(rate):
    noise = calm(20_000, spread=0.05)
    values = [x * math.exp(min(i * math.log(rate), math.log(1e16))) for i, x in enumerate(noise)]
    (first, *_) = found(values)
    assert values[first] < 10 * RISE * rate**BLOCK


def test_before_there_is_a_window_only_a_rise_is_one():
    assert found([1.0] * (WARM_UP - 1) + [100.0]) == []
    assert found([1.0] * BLOCK + [2 * RISE]) == [BLOCK]
    assert found([7000.0] * BLOCK + [20_000.0]) == []


def test_values_that_are_not_finite_are_none():
    values = calm(400)
    values[200] = math.inf
    assert found(values) == []


def test_it_is_a_function_of_the_values_alone():
    values = calm(900)
    values[301] = values[700] = 1e3
    rows = [
        (i, 8 * (i + 1), n, x) for i, x in enumerate(values) for n in ("loss/d", "grad_norm/d")
    ]
    whole = Spikes()
    whole.observe(rows)
    draw, at, detector = random.Random(1), 0, Spikes()
    while at < len(rows):
        to = at + 2 * draw.randrange(1, 100)
        detector.observe(rows[at:to])
        at, saved = to, json.loads(json.dumps(detector.state(), allow_nan=False))
        detector = Spikes()
        detector.restore(saved)
    assert detector.state() == whole.state()
    assert [s.step for s in whole.found] == [301, 301, 700, 700]


CURVES = [path for path in sorted(GOLDEN.glob("*.json")) if path.stem in names("model")]


@pytest.mark.parametrize("curves", CURVES, ids=lambda path: path.stem)
def test_golden_curves_have_none(curves):
    for name, values in json.loads(curves.read_text()).items():
        repeated = values * 20  # which no window fits better than its own past
        assert found(repeated, name) == []


@pytest.mark.slow
@pytest.mark.parametrize("model", names("model"))
@pytest.mark.parametrize("batch", [2, 16])
def test_small_runs_have_none(model, batch):
    if (model, batch) == ("vqvae", 2):
        batch = 4  # its codes begin as vectors of the first batch
    _, trainer = make(tiny_config(model, f"schedule.batch={batch}", "optimizer.lr=2e-4"))
    for _ in range(WINDOW + 100):
        trainer.one_step()
    trainer.peek()
    assert trainer.spikes.found == []


# --- what a trainer does about it ----------------------------------------------------------------


class Line(Model):
    """The least squares of a line; its loss is multiplied at some steps."""

    def __init__(self, factors):
        super().__init__()
        self.net, self.factors = nn.Linear(1, 1), factors
        nn.init.ones_(self.net.weight)

    def loss(self, batch):
        factor = self.factors.get(self.clock.step, 1.0)
        return factor * (1 + (self.net(batch.x) - 2).square().mean())


def fit(factors, steps, on_spike, at_hand=True):
    model = Line(factors)
    optimizers = {"net": AdamW(model.parameters(), 1e-3, fused=True)}
    trainer = Trainer(
        model,
        optimizers,
        Source(),
        lambda images: 1.0,
        seed=0,
        autocast=nullcontext,
        on_spike=on_spike,
    )
    trainer.players["net"].at_hand = at_hand
    trace = []
    for _ in range(steps):
        trainer.one_step()
        moments = optimizers["net"].state[model.net.weight]
        trace.append([model.net.weight.item(), *(float(m) for m in moments.values())])
    trainer.peek()
    return trainer, trace


FACTORS = {100: 1e3, 101: 1e3, 150: 1e4}


@pytest.mark.parametrize("at_hand", [True, False])
def test_skip_leaves_out_just_the_steps_above_the_limit(at_hand):
    trainer, trace = fit(FACTORS, 200, "skip", at_hand)
    same = [i for i in range(1, 200) if trace[i] == trace[i - 1]]
    assert same == sorted(FACTORS)
    assert {s.step for s in trainer.spikes.found} == {100, 150}
    assert trainer.spikes.stopped is None


@pytest.mark.parametrize("at_hand", [True, False])
def test_stop_leaves_out_all_steps_from_the_spike_on(at_hand):
    trainer, trace = fit(FACTORS, 120, "stop", at_hand)
    same = [i for i in range(1, 120) if trace[i] == trace[i - 1]]
    assert same == list(range(100, 120))
    assert trainer.spikes.stopped.step == 100 and not trainer.spikes.weights_bad
    assert [s.step for s in trainer.spikes.found] == [100]


def test_the_steps_after_a_spike_tell_whether_the_weights_are_bad():
    trainer, _ = fit(dict.fromkeys(range(100, 200), 1e3), 100 + AFTER, "stop")
    assert trainer.spikes.stopped is None, "not yet known"
    trainer, _ = fit(dict.fromkeys(range(100, 200), 1e3), 101 + AFTER, "stop")
    assert trainer.spikes.stopped.step == 100 and trainer.spikes.weights_bad


def test_warn_changes_nothing():
    trainer, trace = fit(FACTORS, 200, "warn")
    assert all(a != b for a, b in pairwise(trace))
    assert {s.step for s in trainer.spikes.found} == {100, 150}


def test_leaving_out_ends_where_it_does_not_help():
    trainer, _ = fit({i: 1e3 for i in range(100, 400)}, 100 + PATIENCE + BLOCK, "skip")
    assert trainer.spikes.stopped.step == 100 + PATIENCE - 1


# --- a run ---------------------------------------------------------------------------------------

BLOW_UP = {"schedule.images": 640, "schedule.batch": 16, "every.log": 160, "every.checkpoint": 160,
           "optimizer.lr": 10.0, "optimizer.clip": None, "network.net.width": 256,
           "network.net.depth": 4}  # fmt: skip


@pytest.fixture
def blow_up(tmp_path):
    """blow_up(**keys): a run of points whose loss rises a millionfold in its first steps."""

    def make(folder="a", **keys):
        config = small("flow_matching", "toy", outputs=str(tmp_path / folder), **BLOW_UP, **keys)
        return started(config)

    return make


def test_a_run_that_blew_up_does_not_end_as_done(blow_up, capsys):
    run = blow_up()
    assert train_run(run.path) == 0
    (event, *_) = spikes(read_journal(run.path / "metrics.jsonl"))
    assert event.name == "loss/net" and event.value > 1000 * event.before
    said = capsys.readouterr().err
    assert said.count(f"spike at step {event.step}: loss/net") == 1
    assert run.status.startswith("done: loss/net ended at ")
    assert run.status.removeprefix("done: ") in said
    page = (run.path / "report.html").read_text()
    assert "ended at" in page and 'id="spikes"' in page and "spike_limit/loss/net" not in page
    assert 'class="pill warn">done<' in page
    assert "done: loss/net ended at" in listing("runs", str(run.path.parent.parent))


def test_one_that_goes_on_has_the_same_spikes(blow_up, monkeypatch):
    whole, run = blow_up(), blow_up("b")
    train_run(whole.path)
    at = partial(stop_at, monkeypatch)
    first = spikes(read_journal(whole.path / "metrics.jsonl"))[0]
    for images, act in [(first.images, signalled()), (400, crash), (576, signalled())]:
        at(images, act)
        with pytest.raises((Stopped, Crash)):
            train_run(run.path)
    train_run(run.path)
    assert journal(whole) == journal(run)
    checkpoints = [Checkpoints(r.path / "checkpoints").newest()[0] for r in (whole, run)]
    assert fingerprint(checkpoints[0]) == fingerprint(checkpoints[1])
    assert run.status == whole.status


@pytest.fixture
def bad_batch(monkeypatch):
    """A step whose loss is that of a broken batch."""

    def loss(self, batch, real=PathModel.loss):
        return real(self, batch) * (1e4 if self.clock.step == 100 else 1)

    monkeypatch.setattr(PathModel, "loss", loss)


def test_a_run_that_stops_at_a_bad_batch_saves_the_weights_before_it_and_goes_on(
    tmp_path, bad_batch
):
    keys = {**BLOW_UP, "optimizer.lr": 1e-3, "model.ema": 0, "every.checkpoint": 10**9}
    weights = []
    for folder, more in (
        ("before", {"schedule.images": 1600}),
        ("stopped", {"schedule.images": 2560, "hardware.on_spike": "stop"}),
    ):
        run = started(
            small("flow_matching", "toy", outputs=str(tmp_path / folder), **{**keys, **more})
        )
        if folder == "before":
            train_run(run.path)
        else:
            with pytest.raises(
                Spiked, match=r"spike at step 100: loss/net .*saved at .* genlab resume"
            ):
                train_run(run.path)
        (saved, _) = Checkpoints(run.path / "checkpoints").newest()
        weights.append({k: v for k, v in fingerprint(saved).items() if k != "state"})
    assert weights[0] == weights[1]
    assert int(saved.name) in range(1600, 1600 + 16 * 33)
    assert Spiked.code == 6 and run.status.startswith("failed: spike at step 100: loss/net")
    assert {s.step for s in spikes(read_journal(run.path / "metrics.jsonl"))} == {100}
    assert train_run(run.path) == 0
    assert Run(run.path).status.startswith("done: ")


def test_weights_that_are_bad_already_are_not_saved(blow_up):
    run = blow_up(**{"hardware.on_spike": "stop"})
    with pytest.raises(
        Spiked, match=r"other batches are no better, so that the checkpoint at image 160 is the"
    ):
        train_run(run.path)
    (saved, _) = Checkpoints(run.path / "checkpoints").newest()
    assert int(saved.name) == 160
    assert len(spikes(read_journal(run.path / "metrics.jsonl"))) == 1
    config = {**run.config, "hardware": {**run.config["hardware"], "on_spike": "warn"}}
    run.rewrite_config(config, [])
    assert train_run(run.path) == 0
    assert Run(run.path).status.startswith("done: ")


def test_a_list_shows_the_spike_of_a_run_that_trains(tmp_path):
    path = tmp_path / "gan-digits" / "20250102-030405-abc123"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("schedule:\n  images: 2000\n")
    (path / "STATUS").write_text("interrupted: SIGTERM\n")
    rows = [*lines([Spike("loss/d", 3, 32, 9.0, 1.0, 5.0)]), {"images": 64, "loss/d": 1.0}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "interrupted: SIGTERM, spike at image 32" in listing("runs", str(tmp_path))
    (row,) = json.loads(listing("runs", str(tmp_path), as_json=True))
    assert (row["state"], row["spike"], row["loss"]) == ("interrupted: SIGTERM", 32, {"d": 1.0})


# --- words ---------------------------------------------------------------------------------------


def test_what_is_said():
    one = Spike("loss/net", 1200, 9608, 50.0, 0.5, 4.0)
    two = one._replace(name="loss/g", before=-2.0)
    assert sentence([one]) == "spike at step 1,200: loss/net 50, 100 times the 0.5 before"
    assert sentence([one, two]).endswith("the 0.5 before; loss/g 50, from -2 before")
    rows = lines([one, two, one._replace(step=1300, images=10408)])
    assert len(rows) == 2 and spikes(rows)[:2] == [one, two]
    assert summary([]) == summary([{"images": 8, "loss/net": 1.0}]) == ""
    assert (
        summary([*rows[:1], {"images": 1, "loss/net": 0.4}])
        == "2 spikes, the last of loss/g at image 9,608"
    )
    assert summary([*rows, {"images": 1, "loss/net": 1e16}]) == (
        "loss/net ended at 1e+16, it was 0.5 before its spike at image 9,608"
    )


@pytest.mark.parametrize("odd", [None, "x", [], 1e999, float("nan"), True, 10**400])
def test_lines_of_others_are_no_spikes(odd):
    row = lines([Spike("loss/net", 1, 8, 50.0, 0.5, 4.0)])[0]
    for key in row:
        assert sentence(spikes([{**row, key: 1}])) and isinstance(
            spikes([{**row, key: odd}]), list
        )
    assert spikes([{**row, "step": None}]) == []


def test_a_value_on_the_device_is_above_the_limit_where_it_is_here():
    detector = Spikes()
    found(calm(320), detector=detector)
    limit = detector.limits(320)["loss/net"]
    assert limit == torch.tensor(limit, dtype=torch.float32).item()
