"""How much of a codebook a model uses."""

from __future__ import annotations

import torch

from genlab.core.errors import DataError
from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.registry import register
from genlab.nn.quantize import codebook_usage

__all__ = ["Codebook"]


@register
class Codebook(Metric):
    """Use of the codes over all held-out images.

    codebook: share of the K codes that occur. codebook_perplexity: exp of the entropy (nats) of
    how often each does, from 1 (one code for all) to K.

    Reference: van den Oord et al. 2017, arXiv 1711.00937.
    """

    needs = ("pairs", "codes")
    higher_is_better = ("codebook", "codebook_perplexity")

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """codebook, codebook_perplexity. Raises DataError for a model without a codebook."""
        size = inputs.codebook()
        if size is None:
            raise DataError("codebook needs a model that chooses from a codebook")
        count = torch.bincount(inputs.pairs().codes.flatten(), minlength=size)
        usage, perplexity = codebook_usage(count)
        return MetricResult({"codebook": float(usage), "codebook_perplexity": float(perplexity)})
