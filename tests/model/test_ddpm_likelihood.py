"""DDPM's likelihood: the bound of bytes, or the density of dequantized ones."""

from __future__ import annotations

import pytest
import torch

import genlab
from genlab.assemble.components import build
from genlab.core.random import SampleNoise
from tests.helpers.evaluations import evaluated, value
from tests.helpers.runs import small, trained


def noise(n, seed=0):
    return SampleNoise(seed, range(n), torch.device("cpu"))


@pytest.mark.parametrize("outputs", [1, 2])
def test_an_untrained_chain_by_hand(outputs):
    """A network of zeros with predict=x0 says 0 of every datum: all terms are known."""
    keys = {"model.predict": "x0", "process.steps": 30, "process.beta_max": 15.0}
    if outputs == 2:
        keys |= {"model.variance": "learned", "network.net.outputs": 2}
    built = build(small("ddpm", "digits", **keys))
    model = built.model.eval()
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    u, y = (t[:40] for t in built.data.load("test")[:2])
    x = built.codec.encode(118 + u % 20, None).double()  # greys that a difference of cdf can tell
    found = model.bound(x.float(), y, noise(40))
    a, b, _, _ = model.process.coefficients(torch.arange(1, 31).double() / 30)
    beta = 1 - (a / torch.cat([a.new_ones(1), a[:-1]])) ** 2
    small_ = beta[1:] * b[:-1] ** 2 / b[1:] ** 2
    large = beta[1:]
    log = large.log() if outputs == 1 else (small_.log() + large.log()) / 2  # v is 1/2
    square = x.flatten(1).square()
    # the means differ by what x0 adds to that of q
    gain = (a[:-1] * beta[1:] / b[1:] ** 2).square()
    n = square.shape[1]
    kl = ((small_.log() - log).exp() - 1 + log - small_.log()).sum() * n / 2
    kl = kl + square.sum(1) * (gain * (-log).exp()).sum() / 2
    torch.testing.assert_close(found.chain, kl, rtol=1e-5, atol=1e-4)
    first = small_[0].log() if outputs == 1 else (small_[0].log() + beta[0].log()) / 2
    normal = torch.distributions.Normal(0.0, (first / 2).exp())
    mass = normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)
    torch.testing.assert_close(found.decoder, -mass.log().flatten(1).sum(1), rtol=1e-4, atol=1e-3)


def test_bits_of_bytes_are_a_column_of_their_own(tmp_path_factory):
    run = trained(tmp_path_factory, "ddpm", **{"process.steps": 25, "process.beta_max": 15.0})
    result = evaluated(run, "metric=bpd", "n=12")
    assert result.description["likelihood"] == "variational bound, 25 steps, large variance"
    assert result.numbers[0].protocol["density"] == "bytes"
    pipeline = genlab.load(run)
    u, y, _ = pipeline.data.load("test")
    from genlab.evaluation.reference import subset

    u, y = subset(u, 12), subset(y, 12)
    with pipeline.using("ema"):
        terms = pipeline.model.bound(pipeline.codec.encode(u, None), y, noise(12))
    bits = terms.total / (u[0].numel() * torch.tensor(2.0).double().log())
    assert value(result, "bpd") == pytest.approx(bits.mean().item(), rel=1e-5)


def test_dequantized_bytes_have_the_density_of_the_flow(tmp_path_factory):
    run = trained(tmp_path_factory, "ddpm", codec="dequantize")
    result = evaluated(run, "metric=bpd", "n=4")
    assert result.description["likelihood"].startswith("probability flow")
    assert result.numbers[0].protocol["density"] == "dequantize 8 bits"
