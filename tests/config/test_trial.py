"""A recipe typed shorter is the same run in small."""

from __future__ import annotations

import math

from genlab.config.compose import compose, provenance
from genlab.config.trial import in_small
from genlab.training import verb

HO = ["experiment=cifar10/ho2020"]  # 102,400,000 images, warm-up 640,000, decay 0.9999


def test_warm_up_and_average_are_the_same_share_of_the_run():
    whole, small = compose(HO), compose([*HO, "schedule.images=1_024_000"])
    assert whole["schedule"]["warmup"] == 640_000 and small["schedule"]["warmup"] == 6_400
    decay = small["model"]["ema"]["decay"]
    assert math.isclose(math.log(decay), 100 * math.log(0.9999), rel_tol=1e-4)
    who = provenance([*HO, "schedule.images=640"])
    assert who["schedule.warmup"] == who["model.ema"] == "schedule.images"
    tiny = compose([*HO, "schedule.images=640"])
    assert tiny["schedule"]["warmup"] == 4 and 0 <= tiny["model"]["ema"]["decay"] < 1e-3


def test_what_is_typed_and_what_is_no_shorter_stays():
    typed = ["schedule.images=640", "schedule.warmup=7", "model.ema={decay: 0.5}"]
    config = compose([*HO, *typed])
    assert config["schedule"]["warmup"] == 7 and config["model"]["ema"] == {"decay": 0.5}
    for words in (HO, [*HO, "schedule.images=200_000_000"], ["schedule.images=2000"]):
        assert in_small(words) == {}
    edm2 = ["experiment=fashion_mnist/edm2", "schedule.images=12_000"]
    assert in_small(edm2) == {"schedule.warmup": 500, "schedule.reference": 5_000}


def test_cadences_of_a_recipe_are_left_to_the_run(tmp_path):
    (tmp_path / "experiment").mkdir()
    mine = "# @package _global_\nschedule: {images: 1000000}\nevery:\n  sample: 200_000\n"
    (tmp_path / "experiment/mine.yaml").write_text(mine)
    words = ["experiment=mine", "schedule.images=640"]
    assert compose(words, [str(tmp_path)])["every"]["sample"] == "auto"
    kept = compose([*words, "every.sample=64"], [str(tmp_path)])
    assert kept["every"]["sample"] == 64


def test_it_is_said_in_one_line(monkeypatch):
    said = []
    monkeypatch.setattr(verb, "log", said.append)
    monkeypatch.setattr("genlab.training.dry_run.measure", lambda config: 0)
    assert verb.main([*HO, "schedule.images=640"], dry_run=True) == 0
    assert len(said) == 1 and "schedule.warmup=4, model.ema.decay=1.12445e-07" in said[0]
