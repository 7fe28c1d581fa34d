"""`--dry-run`: what it measures, and what it says it did not."""

from __future__ import annotations

import pytest

from genlab.core.errors import DataError
from genlab.training import dry_run
from genlab.training.setup import make_trainer
from tests.helpers.image_files import encoded, folder, picture
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


def test_a_file_that_cannot_be_read_is_found_and_nothing_is_kept(tmp_path, tiny):
    files = {f"{i:02d}.png": encoded(picture(i)) for i in range(20)}
    files["07.png"] = files["07.png"][:-60]
    path = folder(tmp_path / "photos", files)
    config = tiny("flow_matching", "folder", **{"data.path": str(path), "data.size": 8})
    with pytest.raises(DataError, match=r"07\.png is corrupt"):
        dry_run.measure(config)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
    assert sorted(p.name for p in path.iterdir()) == sorted(files)
