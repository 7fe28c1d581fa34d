"""Adam with the infinity norm."""

from __future__ import annotations

import torch

from genlab.core.registry import register
from genlab.optimizer.adamw import AdamFamily

__all__ = ["Adamax"]


@register
class Adamax(AdamFamily, torch.optim.Adamax):
    """Adam with a decaying maximum of gradients for its second moment.

    Weight decay is added to the gradient.

    Reference: Kingma and Ba 2014, arXiv 1412.6980, algorithm 2.
    """
