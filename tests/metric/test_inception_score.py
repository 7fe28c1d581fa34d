"""Inception score: its formula, its limits, and the order of samples."""

import math

import pytest
import torch

from genlab.core.errors import DataError
from genlab.metric.inception_score import InceptionScore, inception_scores
from tests.helpers.given_inputs import Given


def score(logits, splits=1, seed=0):
    inputs = Given(pooled={"fake/logits": logits}, seed=seed)
    return InceptionScore(splits=splits)(inputs).values


def logits(n, k, seed=0):
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def by_entropies(logits):
    """exp(H(y) - mean H(y | x)), another form of the same."""
    p = logits.double().softmax(1)
    mean = p.mean(0)
    return math.exp(float((p * p.log()).sum(1).mean() - (mean * mean.log()).sum()))


def test_the_score_is_one_for_all_alike_and_the_number_of_classes_at_most():
    assert score(torch.zeros(20, 7))["is"] == pytest.approx(1)
    assert score(logits(1, 7).expand(20, 7))["is"] == pytest.approx(1)
    sure = 1e4 * torch.eye(7).repeat(3, 1)
    assert score(sure)["is"] == pytest.approx(7)


def test_equals_the_difference_of_entropies():
    x = logits(60, 12)
    assert score(x)["is"] == pytest.approx(by_entropies(x), rel=1e-9)
    assert score(x + torch.randn(60, 1))["is"] == pytest.approx(by_entropies(x), rel=1e-6)


def test_mean_and_deviation_are_those_of_the_splits():
    x = logits(60, 12)
    parts = [by_entropies(part) for part in x.split(20)]
    scores = inception_scores(x, 3)
    assert scores.tolist() == pytest.approx(parts, rel=1e-9)
    values = score(x, splits=3)
    assert values["is"] < score(x)["is"], "a split has fewer images"
    assert 0 < values["is_std"] < 1
    assert score(x)["is_std"] == 0


def test_samples_sorted_by_class_score_like_others():
    sure = 1e4 * torch.eye(10).repeat_interleave(100, 0)
    assert score(sure, splits=10)["is"] > 9
    assert score(sure, splits=10) == score(sure, splits=10)
    assert score(sure, splits=10) != score(sure, splits=10, seed=1)


def test_what_cannot_be_computed():
    with pytest.raises(DataError, match="is needs at least 20, but the samples are 19"):
        score(logits(19, 5), splits=10)
    with pytest.raises(DataError, match="not finite"):
        score(logits(20, 5) * torch.inf)
