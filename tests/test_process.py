"""The processes: coefficients against finite differences, ends, and the linear path's formulas."""

from __future__ import annotations

import pytest
import torch

from genlab import registry
from genlab.process.linear import Linear

PROCESSES = sorted(registry.members("process"))


def make(name: str) -> object:
    return registry.find("process", name)()


def test_there_is_a_process():
    assert "linear" in PROCESSES


@pytest.mark.parametrize("name", PROCESSES)
def test_coefficients_are_float64_of_the_shape_of_t(name):
    for out in make(name).coefficients(torch.rand(5)):
        assert out.shape == (5,)
        assert out.dtype == torch.float64


@pytest.mark.parametrize("name", PROCESSES)
def test_derivatives_are_those_of_finite_differences(name):
    process, h = make(name), 1e-6
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    before, after = process.coefficients(t - h), process.coefficients(t + h)
    _, _, da, db = process.coefficients(t)
    torch.testing.assert_close(da, (after[0] - before[0]) / (2 * h), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(db, (after[1] - before[1]) / (2 * h), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_path_starts_at_the_datum_and_only_gets_noisier(name):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    a, b, _, _ = make(name).coefficients(t)
    assert (a[0], b[0]) == (1, 0)
    assert (b.diff() > 0).all()
    assert (a.diff() <= 0).all()


def test_linear_is_the_straight_path():
    t = torch.tensor([0.0, 0.25, 1.0])
    a, b, da, db = Linear().coefficients(t)
    assert a.tolist() == [1.0, 0.75, 0.0]
    assert b.tolist() == [0.0, 0.25, 1.0]
    assert da.tolist() == [-1.0] * 3
    assert db.tolist() == [1.0] * 3
