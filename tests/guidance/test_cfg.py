"""Classifier-free guidance against its formula, and what it must not compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import genlab
from genlab.assemble.components import build
from genlab.core.errors import ConfigError
from genlab.guidance.cfg import ClassifierFree
from genlab.process.linear import Linear
from tests.helpers.runs import trained


class Denoiser:
    """x0 = x (1 + label) - t, label -1 for none; remembers the batches it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[int] | None]] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.calls.append((len(x), None if y is None else y.tolist()))
        label = torch.full_like(t, -1) if y is None else y.to(t.dtype)
        return (x * (1 + label)[:, None]).tanh() - t[:, None]


@pytest.fixture
def xty() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, generator=g), torch.rand(4, generator=g), torch.tensor([0, 3, 1, 2])


def test_scale_one_is_the_labelled_field_bit_for_bit_in_one_call(xty):
    x, t, y = xty
    denoiser = Denoiser()
    assert torch.equal(
        ClassifierFree(scale=1, interval=None)(denoiser, y, None)(x, t), Denoiser()(x, t, y)
    )
    assert denoiser.calls == [(4, [0, 3, 1, 2])]


def test_scale_zero_is_the_unlabelled_field_in_one_call(xty):
    x, t, y = xty
    denoiser = Denoiser()
    assert torch.equal(
        ClassifierFree(scale=0, interval=None)(denoiser, y, None)(x, t), Denoiser()(x, t, None)
    )
    assert denoiser.calls == [(4, None)]


@pytest.mark.parametrize("scale", [0.5, 1.5, 4.0])
def test_other_scales_extrapolate_in_one_call_of_twice_the_batch(xty, scale):
    x, t, y = xty
    denoiser = Denoiser()
    guided = ClassifierFree(scale=scale, interval=None)(denoiser, y, None)(x, t)
    plain, labelled = Denoiser()(x, t, None), Denoiser()(x, t, y)
    torch.testing.assert_close(guided, plain + scale * (labelled - plain))
    assert denoiser.calls == [(8, [0, 3, 1, 2, -1, -1, -1, -1])]


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_without_labels_nothing_changes(xty, scale):
    x, t, _ = xty
    denoiser = Denoiser()
    assert torch.equal(
        ClassifierFree(scale=scale, interval=None)(denoiser, None, None)(x, t),
        Denoiser()(x, t, None),
    )
    assert denoiser.calls == [(4, None)]


# --- at some noise levels alone -----------------------------------------------------------------


def test_outside_the_interval_the_labelled_field_is_asked_once(xty):
    x, _, y = xty
    denoiser = Denoiser()
    guided = ClassifierFree(scale=3, interval=[0.5, 2])(denoiser, y, Linear())
    for sigma, inside in (
        (0.1, False),
        (0.6, True),
        (1.0, True),
        (2.5, False),
        (torch.inf, False),
    ):
        t = Linear().time(torch.full((4,), sigma)).float()
        got = guided(x, t)
        plain, labelled = Denoiser()(x, t, None), Denoiser()(x, t, y)
        wanted = plain + 3 * (labelled - plain) if inside else labelled
        torch.testing.assert_close(got, wanted)
        assert denoiser.calls.pop() == (
            (8, [0, 3, 1, 2] + [-1] * 4) if inside else (4, y.tolist())
        )
        assert not denoiser.calls, "one call a level"


def test_rows_of_different_levels_are_guided_each_by_its_own(xty):
    x, _, y = xty
    t = Linear().time(torch.tensor([0.1, 1.0, 3.0, 0.6], dtype=torch.float64))
    got = ClassifierFree(scale=3, interval=[0.5, 2])(Denoiser(), y, Linear())(x, t)
    plain, labelled = Denoiser()(x, t, None), Denoiser()(x, t, y)
    guided = plain + 3 * (labelled - plain)
    torch.testing.assert_close(got[[1, 3]], guided[[1, 3]])
    torch.testing.assert_close(got[[0, 2]], labelled[[0, 2]])


def test_an_open_end_has_no_end(xty):
    x, _, y = xty
    denoiser = Denoiser()
    t = torch.ones(4)  # sigma = inf
    ClassifierFree(scale=3, interval=[0.5, None])(denoiser, y, Linear())(x, t)
    ClassifierFree(scale=3, interval=[None, 0.5])(denoiser, y, Linear())(x, t)
    assert [n for n, _ in denoiser.calls] == [8, 4]


@pytest.mark.parametrize("ends", [[2.0, 0.5], [1.0], [1.0, 1.0], [1.0, 2.0, 3.0]])
def test_an_interval_rises_from_one_sigma_to_another(ends):
    with pytest.raises(ValueError, match="interval="):
        ClassifierFree(scale=2, interval=ends)


def test_evaluations_of_an_interval_are_those_inside(run):
    """Euler on sigmas 4, 2, 1, .5: two of them lie inside."""
    words = ["sampler=euler", "sampler.grid=[4,2,1,.5]", "guidance=interval"]
    pipeline = genlab.load(run, overrides=[*words, "guidance.interval=[.7,3]"])
    pipeline.sample(2)
    assert pipeline.sampler.evaluations == 2 * 2 + 2


# --- of a run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching")


def test_scale_one_draws_what_no_guidance_draws(run):
    one = genlab.load(run, overrides=["guidance.scale=1"]).sample(4)
    assert np.array_equal(one, genlab.load(run, overrides=["guidance=none"]).sample(4))
    assert not np.array_equal(one, genlab.load(run, overrides=["guidance.scale=3"]).sample(4))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model.label_dropout": 0.0}, "label_dropout=0"),
        ({"model.classes": "none"}, "no labels"),
    ],
)
def test_a_scale_that_nothing_taught_is_refused(tiny, keys, words):
    build(tiny("flow_matching", **keys), meta=True)
    for guidance in ("cfg", "upsample"):
        config = tiny("flow_matching", guidance=guidance, **keys, **{"guidance.scale": 2.0})
        with pytest.raises(ConfigError, match=words):
            build(config, meta=True)
