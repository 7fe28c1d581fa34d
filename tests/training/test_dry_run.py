"""`--dry-run`: what it measures, and what it says it did not."""

from __future__ import annotations

import pytest

from genlab.training import dry_run
from genlab.training.setup import make_trainer
from tests.helpers.runs import small
from tests.helpers.trainers import make, tiny_config


@pytest.mark.parametrize("model", ["flow_matching", "wgan_gp"])
@pytest.mark.parametrize("patient", [True, False])
def test_a_long_step_is_extrapolated_from_a_few_images(model, patient, monkeypatch, capsys):
    seen = []
    make_one = dry_run.make_trainer

    def spied(built, data):
        seen.append(built.schedule.batch)
        return make_one(built, data)

    monkeypatch.setattr(dry_run, "make_trainer", spied)
    monkeypatch.setattr(dry_run, "LONG", 1e9 if patient else 0.0)
    config = small(model, "digits", **{"schedule.batch": 16})
    assert dry_run.measure(config) == 0
    said = capsys.readouterr().out
    assert "measuring one step of 8 images first" in said
    assert seen == ([8, 16] if patient else [8])
    assert ("extrapolated" in said) != patient
    assert f"at batch {16 if patient else 8}" in said


def test_another_trainer_of_the_same_components_begins_with_the_rates_of_the_config():
    built, first = make(tiny_config("gan", "optimizer.lr=0.5", "schedule.warmup=100"))
    first.one_step()
    assert all(player.lr() < 0.5 for player in first.players.values())
    second = make_trainer(built, built.data.load("train"))
    assert second.optimizers is built.optimizers is first.optimizers, "made once"
    assert [player.rates for player in second.players.values()] == [[0.5], [0.5]]
