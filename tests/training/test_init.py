"""Training from the weights of one network of another run; those of a whole run: test_resume."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import genlab
from genlab.cli.main import main
from genlab.config.compose import validate
from genlab.core.errors import ConfigError
from genlab.run.directory import Run
from genlab.training.run_loop import train_run
from genlab.training.setup import set_up
from tests.helpers.runs import small, started, trained


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """On another path, of another seed; the average is far from what it averages."""
    keys = {"process": "trig", "model.predict": "x0", "model.ema": 64, "seed": 3}
    return trained(tmp_path_factory, "flow_matching", **keys, **{"optimizer.lr": 0.01})


def begun(tmp_path: Path, **ref: object) -> dict:
    """A config that begins with a network of a run and learns nothing."""
    keys = {"optimizer.lr": 0, "schedule.images": 8, "outputs": str(tmp_path)}
    config = small("flow_matching", "digits", **keys)
    config["init"] = ref
    assert validate(config) == []
    return config


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_network_and_its_average_begin_with_weights_of_another_run(
    first, tmp_path, weights, capsys
):
    run = started(begun(tmp_path, run=str(first), role="net", weights=weights))
    train_run(run.path)
    assert f"starting from network net of {first.parent.name}" in capsys.readouterr().err
    given, model = genlab.load(first).model, genlab.load(run.path).model
    wanted = given.ema.copy if weights == "ema" else given.net
    for mine in (model.net, model.ema.copy):
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(mine.state_dict()[name], tensor), name
    assert not torch.equal(given.net.head.weight, given.ema.copy.head.weight)


def test_a_run_that_has_begun_needs_it_no_more(first, tmp_path):
    config = begun(tmp_path, run="/nowhere/20260101-000000-a3f9c1", role="net")
    with pytest.raises(ConfigError, match=r"init: the run .* is not there"):
        set_up(config, meta=True)
    run = started(begun(tmp_path, run=str(first), role="net"))
    train_run(run.path)
    changed = copy.deepcopy(run.config) | {"init": config["init"]}
    run.rewrite_config(changed, [])
    assert set_up(Run(run.path).config, run=run.path).initial is None


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ({"role": "critic"}, "init.role=critic: the networks of flow_matching-.* are net"),
        (
            {"role": "net", "into": "critic"},
            "init.into=critic: the networks of this model are net",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_there_is_a_run(first, tmp_path, ref, reason):
    with pytest.raises(ConfigError, match=reason):
        set_up(begun(tmp_path, run=str(first), **ref), meta=True)


def test_another_network_is_refused(first, tmp_path):
    config = begun(tmp_path, run=str(first), role="net")
    config["network"]["net"]["width"] = 16
    with pytest.raises(ConfigError, match="its network net is another one than net here"):
        set_up(config, meta=True)


def test_a_model_that_looks_at_its_data_first_takes_whole_runs_alone(tmp_path_factory, tmp_path):
    keys = {"network.net.levels": 1, "network.net.depth": 1, "schedule.images": 8}
    glow = trained(tmp_path_factory, "glow", **keys)
    config = small("glow", "digits", **keys) | {"init": {"run": str(glow), "role": "net"}}
    with pytest.raises(ConfigError, match="begins with a look at its data"):
        set_up(config, meta=True)
    assert set_up(config | {"init": str(glow)}, meta=True).initial.whole


def test_it_can_be_typed(first, tmp_path, capsys):
    words = ["train", "model=flow_matching", "data=digits", f"outputs={tmp_path}", "hardware=cpu"]
    assert main([*words, f"init={{run: {first}, role: net}}"]) == ConfigError.code
    assert "use the network keys it was trained with" in capsys.readouterr().err
    assert main([*words, f"init={{run: {first}, from: net}}"]) == ConfigError.code
    assert "init must be a run, by path or id, or {run: ..., role: net}" in capsys.readouterr().err
