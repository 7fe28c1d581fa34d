"""Classifier-free guidance against its formula, and what it must not compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genlab.guidance.cfg import ClassifierFree


class Field:
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
    field = Field()
    assert torch.equal(
        ClassifierFree(scale=1, interval=None)(field, y, None)(x, t), Field()(x, t, y)
    )
    assert field.calls == [(4, [0, 3, 1, 2])]


def test_scale_zero_is_the_unlabelled_field_in_one_call(xty):
    x, t, y = xty
    field = Field()
    assert torch.equal(
        ClassifierFree(scale=0, interval=None)(field, y, None)(x, t), Field()(x, t, None)
    )
    assert field.calls == [(4, None)]


@pytest.mark.parametrize("scale", [0.5, 1.5, 4.0])
def test_other_scales_extrapolate_in_one_call_of_twice_the_batch(xty, scale):
    x, t, y = xty
    field = Field()
    guided = ClassifierFree(scale=scale, interval=None)(field, y, None)(x, t)
    plain, labelled = Field()(x, t, None), Field()(x, t, y)
    torch.testing.assert_close(guided, plain + scale * (labelled - plain))
    assert field.calls == [(8, [0, 3, 1, 2, -1, -1, -1, -1])]


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_without_labels_nothing_changes(xty, scale):
    x, t, _ = xty
    field = Field()
    assert torch.equal(
        ClassifierFree(scale=scale, interval=None)(field, None, None)(x, t), Field()(x, t, None)
    )
    assert field.calls == [(4, None)]


def test_guiding_the_velocity_is_guiding_the_datum(xty):
    """The conversion x0 = x - t u is affine, so both orders agree."""
    x, t, y = xty
    scale = 2.5
    plain, labelled = ((x - Field()(x, t, label)) / t[:, None] for label in (None, y))
    u = plain + scale * (labelled - plain)
    torch.testing.assert_close(
        ClassifierFree(scale=scale, interval=None)(Field(), y, None)(x, t),
        x - t[:, None] * u,
        rtol=1e-4,
        atol=1e-5,
    )
