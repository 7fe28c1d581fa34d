"""What components declare decides what goes together, and all that does not is said at once."""

import pytest

from genlab.assemble.components import build
from genlab.core.errors import ConfigError, Refused
from genlab.model.flow_matching import FlowMatching
from genlab.sampling.pipeline import Pipeline


def problems(config) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        build(config, meta=True)
    return error.value.problems


def test_everything_that_does_not_go_together_is_said_at_once(tiny):
    keys = {"guidance.scale": 2.0, "model.label_dropout": 0.0, "schedule.batch": 1501}
    keys["schedule.images"] = 1501
    config = tiny("flow_matching", sampler="one_step", guidance="upsample", **keys)
    config["optimizer"]["players"] = {"d": {}}
    found = problems(config)
    for part in (
        "more than the 1500 training data",
        "the players of 'flow_matching' are net",
        "sampler=one_step cannot follow the path of model 'flow_matching'; use sampler=heun",
        "guidance=upsample acts along a path, and sampler=one_step follows none",
        "nothing teaches with model.label_dropout=0",
    ):
        assert sum(part in problem for problem in found) == 1, (part, found)
    assert len(found) == 5


def test_a_model_may_draw_in_one_step_or_along_its_path(tiny, monkeypatch):
    """Which of the two is what the sampler says; other models of a path need one that follows."""
    one, many = (
        tiny("flow_matching", sampler=sampler, guidance="none") for sampler in ("one_step", "heun")
    )
    assert len(problems(one)) == 1
    drawn = []

    def transport(self, z, y, noise, sampler):
        drawn.append(sampler.follows_path)
        x0 = self.denoise(z, z.new_ones(len(z)), y)
        return sampler(self.denoise, z, y, noise) if sampler.follows_path else x0

    monkeypatch.setattr(FlowMatching, "one_step", True)
    monkeypatch.setattr(FlowMatching, "transport", transport)
    for config in (one, many):
        assert Pipeline(build(config)).draw([0, 1], 0, range(2)).shape == (2, 1, 8, 8)
    assert drawn == [False, True]
    one["guidance"] = tiny("flow_matching")["guidance"]
    (problem,) = problems(one)
    assert "use guidance=none, or another sampler" in problem


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module out of the tree whose classes are derived from nothing."""
    (tmp_path / "foreign_parts.py").write_text(
        "class Part:\n"
        "    def __init__(self, params=None, spec=None) -> None:\n"
        "        (__import__('pathlib').Path(__file__).parent / 'made').touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "made"


@pytest.mark.parametrize(
    ("group", "base"),
    [("sampler", "Sampler"), ("optimizer", "Optimizer"), ("codec", "Codec"), ("data", "Dataset")],
)
def test_a_component_that_declares_nothing_is_refused_in_one_sentence(tiny, foreign, group, base):
    config = tiny("flow_matching")
    config[group] = {"name": "foreign_parts:Part"}
    (problem,) = problems(config)
    assert f"{group}.name=foreign_parts:Part is no genlab.core.contract.{base}" in problem
    assert "derive Part from that class" in problem


def test_an_optimizer_of_somebody_elses_run_is_not_imported(tiny, foreign):
    config = tiny("flow_matching")
    config["optimizer"] = {"name": "foreign_parts:Part"}
    with pytest.raises(Refused, match="trust=true"):
        build(config, trust=False)
    assert not foreign.exists()
