"""Pixels as patches: what a first map of them lets through, and what they hold."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genlab.nn.patch import audit, budget, narrow
from genlab.training.run_loop import train_run
from tests.helpers.runs import small, started


def test_a_linear_map_of_known_values():
    g = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(10, 10, generator=g, dtype=torch.float64))[0][:, :6]
    right = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]
    values = torch.tensor([5.0, 4, 3, 2, 1, 0.5], dtype=torch.float64)
    whole = audit((left * values @ right).float())
    assert whole.condition == pytest.approx(10, rel=1e-4)
    assert (whole.numbers, whole.width, whole.rank, whole.lossless) == (6, 10, 6, True)
    values[4:] = 0
    flat = audit((left * values @ right).float())
    assert (flat.rank, flat.lossless, flat.condition) == (4, False, math.inf)


def test_a_narrow_map_loses_and_a_wide_one_does_not():
    assert not audit(nn.Linear(48, 47).weight).lossless
    assert audit(nn.Linear(48, 48).weight).rank == 48
    assert audit(nn.Linear(48, 96).weight).condition < 20
    assert narrow(4, 3, 48) == []
    assert "48 numbers" in narrow(4, 3, 47)[0]


@pytest.mark.parametrize("width", [2, 3, 5])
def test_a_convolution_against_its_whole_matrix(width):
    """Written out as a matrix over all pixels of a periodic map."""
    side, g = 5, torch.Generator().manual_seed(width)
    weight = torch.randn(width, 3, 3, 3, generator=g)
    basis = torch.eye(3 * side * side).view(-1, 3, side, side)
    images = F.conv2d(F.pad(basis, (1, 1, 1, 1), mode="circular"), weight).flatten(1)
    found = audit(weight, side)
    assert found.lossless == (width >= 3)
    assert torch.linalg.matrix_rank(images.double()).item() == found.rank * side**2
    if found.lossless:
        values = torch.linalg.svdvals(images.double())
        assert found.condition == pytest.approx((values[0] / values[-1]).item(), rel=1e-4)


def test_a_blur_loses_the_finest_frequency():
    blur = torch.zeros(1, 1, 3, 3)
    blur[0, 0, 1] = torch.tensor([0.25, 0.5, 0.25])
    assert audit(blur, 8).rank == 0
    assert audit(blur, 7).lossless  # an odd map has no such frequency


def test_the_budget_of_an_image():
    """64 x 64 x 3 bytes at 3 bits are 36,864 bits: 1024 tokens of 36 bits."""
    assert budget((3, 64, 64), 1024) == (36864, 36)
    assert budget((3, 64, 64), 256) == (36864, 144)


def test_a_run_says_that_its_patches_are_read_into_too_little(tmp_path, capfd):
    config = small(
        "flow_matching", "digits", network="dit_small", outputs=str(tmp_path),
        **{"schedule.images": 16, "network.net.patch": 4, "network.net.width": 8},
    )  # fmt: skip
    train_run(started(config).path)
    assert "has 16 numbers and the network reads it into 8" in " ".join(capfd.readouterr())
