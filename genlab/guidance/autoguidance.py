"""Guidance by the difference between a model and a weaker version of itself."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from genlab.core.contract import BoundDenoiser, Denoiser, Denoises, Process, RunRef
from genlab.core.registry import register
from genlab.core.schema import Natural
from genlab.guidance.interval import ScaledGuidance

__all__ = ["Autoguidance"]


@register
class Autoguidance(ScaledGuidance):
    """Away from the errors that a weaker model makes more of.

    x0 = x0_weak(x, t, y) + scale (x0(x, t, y) - x0_weak(x, t, y))

    The weaker model is another run, smaller or shorter trained, of the same data and labels; it
    may be of another path and predict something else. Both are given the label, so unlike
    classifier-free guidance this does not trade variety for closeness to the label, and it works
    without labels. A run without labels as the weaker one of a labelled run is the guidance of
    EDM2 (arXiv 2312.02696).

    Reference: Karras et al. 2024, arXiv 2406.02507, eq. 3, whose w is scale.
    """

    def __init__(
        self,
        *,
        run: RunRef | None,
        checkpoint: Literal["latest", "best"] | Natural,
        weights: Literal["ema", "raw"],
        **keys: Any,
    ) -> None:
        """run: the weaker one, at a checkpoint, with weights that the next two keys name."""
        super().__init__(**keys)
        if run is None:
            raise ValueError(
                "run is not set: a weaker run of the same data, as path or id "
                "(guidance.run=a3f9c1; `genlab list runs` shows all)"
            )
        if not run.has(Denoises):
            raise ValueError(
                f"run={run.title} is of a model without a path to guide along; name a run of one "
                "that has"
            )
        self.weaker = run

    def __call__(self, denoise: Denoiser, y: Tensor | None, process: Process) -> BoundDenoiser:
        """(x, t, y) -> x0 with labels y [B] (None: unconditional) bound: (x, t) -> x0."""

        def plain(x: Tensor, t: Tensor) -> Tensor:
            return denoise(x, t, y)

        if self.scale == 1:
            return plain
        weaker = self.weaker.denoiser(process)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            return weaker(x, t, y).lerp(denoise(x, t, y), self.scale)

        return self.interval(guided, plain, process)
