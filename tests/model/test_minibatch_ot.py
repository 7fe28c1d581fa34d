"""Pairs of data and noise by optimal transport, against every pairing there is."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from genlab.assemble.components import build
from genlab.core.contract import Batch
from genlab.model.minibatch_ot import optimal_pairing
from genlab.run.tensors import load_model
from tests.helpers.path_models import Given, model, process
from tests.helpers.trainers import (
    BATCH,
    largest_difference,
    make,
    run,
    tiny_config,
    two_ranks,
)

OT = ("model.coupling=ot", "model.classes=none", "optimizer=sgd", "optimizer.lr=0.05")


def cost(x: Tensor, noise: Tensor) -> float:
    return (x - noise).square().sum().item()


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_no_pairing_is_nearer(n):
    for seed in range(5):
        x, noise = torch.randn(2, n, 3, 2, generator=torch.Generator().manual_seed(seed))
        order = optimal_pairing(x, noise, None)
        assert sorted(order.tolist()) == list(range(n))
        least = min(cost(x, noise[list(p)]) for p in permutations(range(n)))
        assert cost(x, noise[order]) == pytest.approx(least, rel=1e-6)


def test_pairs_are_exact_within_autocast():
    x, noise = torch.randn(2, 512, 2, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        order = optimal_pairing(x, noise, None)
    assert torch.equal(order, optimal_pairing(x, noise, None))


def test_no_pairing_within_the_classes_is_nearer():
    y = torch.tensor([0, 1, 1, 0, 2, 1])
    for seed in range(5):
        x, noise = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(seed))
        order = optimal_pairing(x, noise, y)
        assert torch.equal(y[order], y)
        inside = [p for p in permutations(range(6)) if torch.equal(y[list(p)], y)]
        least = min(cost(x, noise[list(p)]) for p in inside)
        assert cost(x, noise[order]) == pytest.approx(least, rel=1e-6)


def test_the_loss_is_of_the_nearest_noise_which_is_the_same_noise():
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(64, 2, generator=g), torch.randn(64, 2, generator=g)
    drawn = Batch(x, None, Given(torch.full((64,), 0.5), noise))
    asked = model("flow_matching", process("linear"), coupling="ot").forward(drawn)
    assert torch.equal(asked.x0, x)
    assert torch.equal(asked.eps.sort(0).values, noise.sort(0).values)
    assert cost(x, asked.eps) < 0.7 * cost(x, noise)
    # velocities of straight paths that do not cross in time: (x - x').(eps - eps') >= 0
    for i, j in torch.combinations(torch.arange(64)).tolist():
        assert (x[i] - x[j]) @ (asked.eps[i] - asked.eps[j]) >= -1e-5


def test_paired_data_keep_their_noise():
    x, z = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0))
    drawn = Batch(x, None, Given(torch.rand(8)), z)
    ours = model("flow_matching", process("linear"), coupling="ot")
    assert torch.equal(ours.pair(drawn)[1], z)


def test_pairs_are_of_the_global_batch_whatever_the_micro_batch():
    """So also the noise and the times: nothing else differs either."""
    whole, _ = run(tiny_config("flow_matching", *OT), 3)
    parts, _ = run(tiny_config("flow_matching", *OT, f"hardware.micro_batch={BATCH // 4}"), 3)
    assert largest_difference(whole.model, parts.model) < 1e-6
    plain, _ = run(tiny_config("flow_matching", *OT, "model.coupling=independent"), 3)
    assert largest_difference(whole.model, plain.model) > 1e-5


def test_pairs_are_of_the_global_batch_whatever_the_ranks(tmp_path):
    config = tiny_config("flow_matching", *OT)
    alone, _ = run(config, 2)
    for path in two_ranks(config, 2, tmp_path):
        other = build(config)
        load_model(other.model, path)
        assert largest_difference(alone.model, other.model) < 1e-6


@pytest.mark.parametrize("codec", ["pixels", "dequantize"])
def test_a_micro_batch_knows_the_whole(codec):
    """Its own rows are in it, and the noise of all goes on where its own stands."""
    _, trainer = make(tiny_config("flow_matching", f"codec={codec}", "hardware.micro_batch=2"))
    parts = [next(one) for one in trainer.stream.open(BATCH)]
    for part in parts:
        part.noise.uniform(3)
        whole, rows = part.whole()
        assert torch.equal(whole.x[rows], part.x)
        assert torch.equal(whole.y[rows], part.y)
        drawn, own = whole.noise.normal(4), part.noise.normal(4)
        assert torch.equal(drawn[rows], own)
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)


def test_a_labelled_micro_batch_takes_its_rows_of_the_nearest_pairing_within_the_classes():
    """The pairing is of the global batch, of which these rows are a part: by brute force."""
    y, rows = torch.tensor([0, 1, 1, 0, 2, 1]), slice(2, 5)
    ours = model("flow_matching", process("linear"), coupling="ot")
    for seed in range(5):
        x, noise = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(seed))
        whole = Batch(x, y, Given(noise))
        part = Batch(x[rows], y[rows], Given(noise[rows]), whole=lambda w=whole: (w, rows))
        x0, eps = ours.pair(part)
        inside = [list(p) for p in permutations(range(6)) if torch.equal(y[list(p)], y)]
        best = min(inside, key=lambda p: cost(x, noise[p]))
        assert torch.equal(x0, x[rows])
        assert torch.equal(eps, noise[best][rows])
