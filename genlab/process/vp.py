"""The variance-preserving path of DDPM."""

from __future__ import annotations

from typing import Any

import torch

from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.process.preserving import Decaying, Preserving
from genlab.process.table import Table

__all__ = ["VariancePreserving"]


@register
class VariancePreserving(Decaying, Preserving):
    """Shrinking data with rising noise, by rates that grow evenly.

    discrete    a_i^2 = prod_(j <= i) (1 - beta_j),  beta_j from beta_min / T to beta_max / T
    continuous  a^2 = exp(-beta_min t - (beta_max - beta_min) t^2 / 2)
    b^2 = 1 - a^2

    beta_min = 0.1 and beta_max = 20 are DDPM's 1e-4 to 0.02 over its 1,000 steps.

    Reference: Ho et al. 2020, arXiv 2006.11239, section 2; Song et al. 2020, arXiv 2011.13456,
    section 3.4 and appendix C.
    """

    def __init__(self, *, steps: Count | None, **rates: Any) -> None:
        """steps: T of the discrete path, None for the continuous one. Raises ValueError."""
        super().__init__(**rates)
        self.steps = steps
        if steps is None:
            return
        beta_min, beta_max = rates["beta_min"], rates["beta_max"]
        if not (beta_min > 0 and beta_max < steps):
            raise ValueError(
                f"over steps={steps} beta_min must be above 0 and beta_max below {steps}, so that "
                f"a step replaces some of the variance and not all; not {beta_min:g} and "
                f"{beta_max:g}"
            )
        beta = torch.linspace(
            beta_min / steps, beta_max / steps, steps, dtype=torch.float64, device="cpu"
        )
        self.decay = Table(beta)
