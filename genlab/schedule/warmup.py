"""What the schedules share: the length of a run, and a linear warm-up."""

from __future__ import annotations

from genlab.core.contract import Schedule
from genlab.core.schema import Count, Fraction, Natural

__all__ = ["Decay", "Warmup"]


class Warmup(Schedule):
    """A learning rate that rises linearly over the first images."""

    def __init__(self, *, images: Count, batch: Count, warmup: Natural) -> None:
        """images: of the run; batch: global; warmup: images over which the rate rises from 0."""
        if batch > images:
            raise ValueError(
                f"a run of images={images} is shorter than one batch={batch}; "
                "raise schedule.images or lower schedule.batch"
            )
        self.images, self.batch, self.warmup = images, batch, warmup

    def rise(self, images: int) -> float:
        """The factor of the warm-up when `images` images have been drawn, 1 after it."""
        return min(1.0, (images + self.batch) / self.warmup) if self.warmup else 1.0


class Decay(Warmup):
    """One that then falls, from 1 to `floor` at the end of the run."""

    def __init__(self, *, floor: Fraction, **length: int) -> None:
        """floor: share of the learning rate that is left at the end."""
        super().__init__(**length)
        self.floor = floor
        if self.warmup >= self.images:
            raise ValueError(
                f"warmup={self.warmup} images leave nothing of a run of {self.images}; lower "
                "schedule.warmup"
            )

    def fall(self, done: float) -> float:
        """The factor when a share `done` in [0, 1] of the run after the warm-up is done."""
        raise NotImplementedError

    def __call__(self, images: int) -> float:
        """Multiplier of the base learning rate when `images` images have been drawn."""
        if images + self.batch <= self.warmup:
            return self.rise(images)
        done = (images - self.warmup) / (self.images - self.warmup)
        return self.fall(min(1.0, max(0.0, done)))
