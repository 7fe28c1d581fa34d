"""How sure and how varied the classes of samples are."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.random import hash64
from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.metric.vectors import check

__all__ = ["InceptionScore", "inception_scores"]

ORDER = 9  # keeps the order of samples apart from other random numbers of a seed


@register("is")
class InceptionScore(Metric):
    """Inception score: mean and standard deviation over splits.

    is = exp E_x KL(p(y | x) || p(y)) within a split, p(y | x) the softmax of the logits. Between 1
    and the number of classes, and never above the number of images in a split: numbers of
    other sample counts or splits are not comparable. Samples are put in random order first, lest
    one split hold other classes than the next.

    Reference: Salimans et al. 2016, arXiv 1606.03498, section 4 (there 50,000 samples, 10 splits).
    """

    needs = ("logits",)
    higher_is_better = ("is",)

    def __init__(self, *, splits: Count) -> None:
        self.splits = splits
        self.min_images = 2 * splits

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """is, is_std."""
        logits = inputs.features("fake", "logits")
        check(logits, "is", self.min_images, "the samples")
        g = torch.Generator().manual_seed(hash64(inputs.seed, ORDER))
        scores = inception_scores(logits[torch.randperm(len(logits), generator=g)], self.splits)
        return MetricResult(
            {"is": float(scores.mean()), "is_std": float(scores.std(correction=0))}
        )


def inception_scores(logits: Tensor, splits: int) -> Tensor:
    """logits [n, K] -> [splits] float64 scores of consecutive parts of about equal size."""
    scores = []
    for part in logits.tensor_split(splits):
        log_p = part.double().log_softmax(1)  # [m, K]
        log_mean = log_p.logsumexp(0) - log_p.new_tensor(len(part)).log()
        scores.append((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())
    return torch.stack(scores)
