"""Discrete paths between their levels: what the decay and its slope are, by hand."""

from __future__ import annotations

import torch

from genlab.process.table import Table

STEP = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
TABLE = Table(-torch.expm1(-STEP))
"""Of four steps that replace 1 - e^-0.1 .. 1 - e^-0.4 of the variance."""


def test_levels_have_their_sums_and_the_mean_of_the_slopes_that_meet():
    decay, rate = TABLE.at(torch.arange(5, dtype=torch.float64) / 4)
    torch.testing.assert_close(decay, torch.tensor([0, 0.1, 0.3, 0.6, 1.0]).double())
    torch.testing.assert_close(rate, 4 * torch.tensor([0.1, 0.15, 0.25, 0.35, 0.4]).double())


def test_steps_that_grow_evenly_have_a_parabola_between():
    f = torch.linspace(0, 1, 11, dtype=torch.float64)
    for i, (start, slope) in enumerate([(0.1, 0.15), (0.3, 0.25)], start=1):
        decay, rate = TABLE.at((i + f) / 4)
        torch.testing.assert_close(decay, start + slope * f + 0.05 * f**2)
        torch.testing.assert_close(rate, 4 * (slope + 0.1 * f))
        torch.testing.assert_close(TABLE.time(decay), (i + f) / 4)


def test_slopes_are_those_of_the_decay_where_steps_jump():
    table = Table(torch.tensor([0.01, 0.5, 0.02, 0.9], dtype=torch.float64))
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    t = t[(4 * t - (4 * t).round()).abs() > 1e-3].requires_grad_()
    decay, rate = table.at(t)
    (slope,) = torch.autograd.grad(decay.sum(), t)
    torch.testing.assert_close(rate, slope)
