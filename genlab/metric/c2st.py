"""Whether a classifier can tell samples from real points."""

from __future__ import annotations

import math

import torch

from genlab.core.errors import DataError
from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.random import hash64
from genlab.core.registry import register
from genlab.metric.vectors import check

__all__ = ["C2ST"]

HALVES = 12  # keeps the choice of points apart from other random numbers of a seed


@register
class C2ST(Metric):
    """Classifier two-sample test for points of the plane.

    c2st is the accuracy on unseen points of a classifier trained to tell samples from real
    points: 1/2 where nobody can, 1 where everybody could. As many points of both kinds are drawn
    by seed; one half trains the classifier, the other tests it. It is a vote of the k nearest
    neighbours, k = n^(1/2) of the n training points, or one more to be odd.

    c2st_chance is what equal distributions exceed one time in twenty: 1/2 + 1.645 / (2 n^(1/2))
    for n test points. Below it the test sees no difference.

    Reference: Lopez-Paz and Oquab 2017, arXiv 1610.06545, section 3.
    """

    needs = ("points", "real", "fake")
    min_images = 8
    lower_is_better = ("c2st",)

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """c2st, c2st_chance."""
        from sklearn.neighbors import KNeighborsClassifier

        real, fake = inputs.real(), inputs.fake()
        check(real, "c2st", self.min_images, "the reference")
        check(fake, "c2st", self.min_images, "the samples")
        if real.shape[1:] != (2,) or fake.shape[1:] != (2,):
            raise DataError("c2st compares points of the plane; for images take metric=fid or kid")
        half = min(len(real), len(fake)) // 2
        g = torch.Generator().manual_seed(hash64(inputs.seed, HALVES))
        sets = [x[torch.randperm(len(x), generator=g)[: 2 * half]] for x in (real, fake)]
        train, test = (
            torch.cat([x[part] for x in sets]).numpy() for part in (slice(half), slice(half, None))
        )
        kind = torch.arange(2).repeat_interleave(half).numpy()
        k = math.isqrt(2 * half) | 1
        classifier = KNeighborsClassifier(k, algorithm="kd_tree").fit(train, kind)
        found = float((classifier.predict(test) == kind).mean())
        return MetricResult({"c2st": found, "c2st_chance": 0.5 + 1.645 / 2 / math.sqrt(2 * half)})
