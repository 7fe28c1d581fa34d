"""Flow matching."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from genlab.core.contract import Batch
from genlab.core.registry import register
from genlab.model.minibatch_ot import optimal_pairing
from genlab.model.path import PathModel

__all__ = ["FlowMatching"]


@register
class FlowMatching(PathModel):
    """Regression of the velocity of a path from data to noise.

    x_t = a x0 + b eps,  u = a' x0 + b' eps,  loss = E |net(x_t, t, y) - u|^2

    On the linear path u = eps - x0. coupling=ot leads each datum of the global batch to the noise
    that makes the sum of their squared distances least, so that paths cross less and bend less.

    Reference: Lipman et al. 2022, arXiv 2210.02747, eq. 14 (with time reversed: data at t = 0);
    coupling: Tong et al. 2023, arXiv 2302.00482, section 3.2; label dropout: Ho and Salimans 2022,
    arXiv 2207.12598, algorithm 1.
    """

    def __init__(
        self, *given: Any, coupling: Literal["independent", "ot"], **objective: Any
    ) -> None:
        """coupling: of data and noise; the rest are of `PathModel`."""
        super().__init__(*given, **objective)
        self.coupling = coupling

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The data [B, *S] and the noise [B, *S] each is led to."""
        if self.coupling == "independent" or batch.z is not None:
            return super().pair(batch)
        whole, rows = batch.whole() if batch.whole else (batch, slice(None))
        x0, eps = super().pair(batch)
        if whole is batch:
            return x0, eps[optimal_pairing(x0, eps, batch.y)]
        every, noise = super().pair(whole)
        return x0, noise[optimal_pairing(every, noise, whole.y)[rows]]
