"""Flow matching."""

from __future__ import annotations

from torch import nn

from genlab.contract import Process, Spec
from genlab.model.path import PathModel
from genlab.registry import register
from genlab.schema import Average, Density, Fraction, Positive, Predict, Weight

__all__ = ["FlowMatching"]


@register
class FlowMatching(PathModel):
    """Regression of the velocity of a path from data to noise.

    x_t = a x0 + b eps,  u = a' x0 + b' eps,  loss = E |net(x_t, t, y) - u|^2

    On the linear path u = eps - x0.

    Reference: Lipman et al. 2022, arXiv 2210.02747, eq. 14 (with time reversed: data at t = 0);
    label dropout: Ho and Salimans 2022, arXiv 2207.12598, algorithm 1.
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        spec: Spec,
        *,
        predict: Predict,
        density: Density,
        location: float,
        scale: Positive,
        weight: Weight,
        label_dropout: Fraction,
        ema: Average,
    ) -> None:
        """The keys as in configs/model/flow_matching.yaml."""
        super().__init__(
            net,
            process,
            spec,
            predict=predict,
            density=density,
            location=location,
            scale=scale,
            weight=weight,
            label_dropout=label_dropout,
            ema=ema,
        )
