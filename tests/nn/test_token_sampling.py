"""Drawing a token: in which order its logits are narrowed, and how often each is drawn."""

import math

import pytest
import torch

from genlab.core.random import SampleNoise
from genlab.nn.token_sampling import filter_logits, sample_token


def probabilities(**keys):
    """Of five tokens with p = 0.4, 0.3, 0.15, 0.1, 0.05 after narrowing."""
    p = torch.tensor([[0.15, 0.4, 0.05, 0.3, 0.1]])
    return filter_logits(p.log(), **keys).softmax(1)[0, [1, 3, 0, 4, 2]].tolist()


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, [0.4, 0.3, 0.15, 0.1, 0.05]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_k": 9}, [0.4, 0.3, 0.15, 0.1, 0.05]),
        ({"top_p": 0.75}, [8 / 17, 6 / 17, 3 / 17, 0, 0]),  # 0.7 is not enough, 0.85 is
        ({"top_p": 1e-6}, [1, 0, 0, 0, 0]),
        # of the two that stay 4/7 are enough for 0.5; of all five, 0.4 would not be
        ({"top_k": 2, "top_p": 0.5}, [1, 0, 0, 0, 0]),
        # squared: 0.16, 0.09, 0.0225, ... of 0.285, where the first two reach 0.85
        ({"temperature": 0.5, "top_p": 0.85}, [16 / 25, 9 / 25, 0, 0, 0]),
    ],
)
def test_temperature_then_top_k_then_top_p(keys, wanted):
    assert probabilities(**keys) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "keys", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_a_sampler_that_cannot_draw_is_refused(keys):
    with pytest.raises(ValueError, match="not"):
        filter_logits(torch.zeros(1, 3), **keys)


class Fixed:
    """The uniform numbers that it is given, one a row."""

    def __init__(self, u):
        self.u = u

    def uniform(self, *shape):
        assert shape == (1,)
        return self.u[:, None]


def test_a_draw_is_where_the_probabilities_pass_the_uniform_number():
    g = torch.Generator().manual_seed(0)
    u = torch.cat([torch.tensor([0.0, 1 - 2**-24]), torch.rand(500, generator=g)])
    logits = 3 * torch.randn(len(u), 97, generator=g)
    logits[torch.rand(logits.shape, generator=g) < 0.5] = -math.inf
    logits[:, [0, -1]] = -math.inf
    drawn = sample_token(logits, Fixed(u))
    p = logits.double().softmax(1)
    for row, token, number in zip(p.tolist(), drawn.tolist(), u.tolist(), strict=True):
        assert row[token] > 0
        before = math.fsum(row[:token])
        assert before - 1e-6 <= number < before + row[token] + 1e-6


def test_tokens_are_drawn_as_often_as_they_are_likely():
    p, n = torch.tensor([0.5, 0.0, 0.3, 0.2]), 20_000
    noise = SampleNoise(0, range(n), "cpu")
    drawn = sample_token(p.log().expand(n, -1), noise).bincount(minlength=4)
    assert drawn[1] == 0
    expected = (n * p)[[0, 2, 3]]
    chi2 = ((drawn[[0, 2, 3]] - expected) ** 2 / expected).sum()
    assert chi2 < 13.8  # exceeded once in 1000 seeds, two degrees of freedom
