"""A sampler with all it needs bound, as models call it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from genlab.contract import Field, Guidance, Noise, Process, Sampler
from genlab.gaussian import part, switch

__all__ = ["PathSolver"]


class PathSolver:
    """A sampler with its guidance and process bound: what a model calls to draw samples.

    temperature: of the starting noise; samplers without the key leave it at 1.
    evaluations: network evaluations a sample has cost so far (a guided one counts twice).
    watch: called with every state x_t [B, *S] of the path, for an animation.
    """

    def __init__(
        self,
        sampler: Sampler,
        guidance: Guidance | None,
        process: Process | None,
        through: Process | None = None,
    ) -> None:
        """process: of the model, None if it has no path; through: followed instead of it."""
        self.sampler, self.guidance, self.process = sampler, guidance, process
        self.through = through and process and part(through, process)
        self.temperature: float = getattr(sampler, "temperature", 1.0)
        self.evaluations = 0
        self.watch: Callable[[Tensor], None] | None = None

    def count(self, evaluations: int = 1) -> None:
        """Adds evaluations, of this field or of another one that guidance asks."""
        self.evaluations += evaluations

    def __call__(self, field: Field, z: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """z [B, *S] -> sample [B, *S]."""
        assert self.process is not None
        path = self.process

        def counted(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            self.count(len(x) // len(z))
            return field(x, t, labels)

        followed: Field = counted
        if self.through is not None:
            followed, path = switch(counted, path, self.through), self.through
        if self.guidance:
            bound = self.guidance(followed, y, path)
        else:
            bound = lambda x, t: followed(x, t, y)  # noqa: E731
        x = z
        for x in self.sampler(bound, z, path, noise):
            if self.watch is not None:
                self.watch(x)
        return x
