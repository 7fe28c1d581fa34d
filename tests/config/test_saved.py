"""Words of a command line applied to the config of a run."""

from __future__ import annotations

import pytest

from genlab.config.saved import apply
from genlab.core.errors import ConfigError
from tests.helpers.configs import composed

GROUPS = ("sampler", "metric")


def refusal(key, was, value):
    return f"{key}: {was} stays, not {value}" if key.startswith("optimizer") else ""


def test_a_component_is_chosen_before_its_keys_are_set():
    config = composed("model=flow_matching sampler=euler")
    after = apply(config, ["sampler.steps=7", "sampler=heun", "seed=3"], GROUPS, refusal)
    assert (after["sampler"]["name"], after["sampler"]["steps"], after["seed"]) == ("heun", 7, 3)
    assert config["sampler"]["name"] == "euler", "the saved one is left as it is"
    assert list(apply(config, ["metric=[fid,kid]"], GROUPS, refusal)["metric"]) == ["fid", "kid"]


def test_every_problem_is_said_at_once():
    config = composed("model=flow_matching sampler=euler")
    words = ["optimizer.lr=1", "sampler.eta=1", "sampler.stepz=3", "nonsense=1"]
    with pytest.raises(ConfigError) as e:
        apply(config, words, GROUPS, refusal)
    lr, eta, steps, nonsense = e.value.problems
    assert lr.startswith("optimizer.lr: ") and lr.endswith("stays, not 1")
    assert "no key 'sampler.eta' in this run. eta is a key of sampler=ddim." in eta
    assert "Did you mean 'sampler.steps'" in steps
    assert "no key 'nonsense' in this run." in nonsense
