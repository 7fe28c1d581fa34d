"""A sampler with all it needs bound, as models call it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from torch import Tensor

from genlab.core.contract import Denoiser, Guidance, Noise, Process, Sampler, Spec
from genlab.core.gaussian_path import change_path, truncate
from genlab.core.signals import check_stop
from genlab.nn.full_precision import full_precision

__all__ = ["PathSampler"]


class PathSampler:
    """A sampler with its guidance and process bound: what a model calls to draw samples.

    temperature: of the starting noise; samplers without the key leave it at 1.
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
        self.through = through and process and truncate(through, process)
        self.temperature = sampler.temperature
        self.rows = self.drawn = 0  # evaluated by networks, and samples they were for
        self.watch: Callable[[Tensor], None] | None = None

    @property
    def follows_path(self) -> bool:
        """Whether the model is to call it; False where the sampler is one_step."""
        return self.sampler.follows_path

    @property
    def learned_variance(self) -> bool:
        """Whether the sampler takes `predict_variance` of the model in place of `denoise`."""
        return self.sampler.learned_variance

    @property
    def evaluations(self) -> int | float:
        """Network evaluations a sample has cost, on average since `recount`.

        A guided one counts twice. All samples of a sampler cost the same, but for rk45's. A model
        that draws by itself does it in one.
        """
        if not self.follows_path:
            return 1
        mean = self.rows / max(1, self.drawn)
        return int(mean) if mean.is_integer() else round(mean, 2)

    def recount(self) -> None:
        """Counts evaluations from here on."""
        self.rows = self.drawn = 0

    def check(self, spec: Spec) -> None:
        """Raises ConfigError where the sampler cannot follow the path, or not to such data."""
        path = self.through or self.process
        if path is not None:
            self.sampler.check(path, spec)

    def count(self, rows: int) -> None:
        """Adds evaluations of rows, by this denoiser or another one of guidance."""
        self.rows += rows

    def __call__(
        self,
        denoise: Denoiser,
        z: Tensor,
        y: Tensor | None,
        noise: Noise,
    ) -> Tensor:
        """z [B, *S] -> sample [B, *S]."""
        assert self.process is not None
        path = self.process
        self.drawn += len(z)

        def counted(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            check_stop()
            self.count(len(x))
            return denoise(x, t, labels)

        followed: Denoiser = counted
        if self.through is not None:
            followed, path = change_path(counted, path, self.through), self.through
        if self.guidance:
            bound = self.guidance(followed, y, path)
        else:
            bound = lambda x, t: followed(x, t, y)  # noqa: E731
        x = z
        with full_precision(z.device) if self.sampler.full_precision else nullcontext():
            for x in self.sampler(bound, z, path, noise):
                if self.watch is not None:
                    self.watch(x)
        return x
