"""Draws edits of given images: inside a mask, with the same grey, or from a part of the way.

What is known of an image is a linear measurement of it, y = A u: its pixels outside a mask, or its
grey. Every estimate of the datum on the way is moved to the nearest image with that measurement,

    x0 <- x0 - A+ (A x0 - y)

so that every sampler on every path ends at one (Wang et al. 2022, arXiv 2212.00490). The score
SDE (Song et al. 2020, arXiv 2011.13456, appendix I) replaces the known part of x_t by a y + b z
instead, with a new z at every step, which would be the business of each sampler. On the ODE it
comes to the same: where the estimate is y, the noise (x_t - a y) / b stays what it was at the
start, so the known part of x_t is a y + b z with one z all along. Samplers that renew their noise
renew it here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genlab.assemble.bound_sampler import PathSampler
from genlab.assemble.components import Components
from genlab.core.contract import (
    BoundDenoiser,
    Codec,
    Denoiser,
    Generates,
    Guidance,
    Noise,
    Process,
)
from genlab.core.errors import ConfigError, DataError
from genlab.core.gaussian_path import TruncatedPath

__all__ = ["ImageEditor", "Task", "filled", "held_grey"]

Task = Literal["inpaint", "colourise", "edit"]
Projection = Callable[[Tensor], Tensor]


# --- what is known ---------------------------------------------------------------------------


def filled(x0: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """x0 [B, C, H, W] inside the mask [H, W], where it is True, y [B, C, H, W] outside.

    A picks the known pixels, so A+ puts them back.
    """
    return torch.where(mask, x0, y)


def held_grey(x0: Tensor, y: Tensor, low: float, high: float) -> Tensor:
    """x0 [B, 3, H, W] with the grey y [B, 1, H, W], which is in [low, high].

    Grey is the mean of the three channels, so A+ is the same for each of them. Where that leads
    out of [low, high], where bytes would be cut off and the grey with them, colour is taken away
    until it does not.
    """
    colour = x0 - x0.mean(1, keepdim=True)
    least = torch.finfo(x0.dtype).tiny
    above = (high - y) / colour.amax(1, keepdim=True).clamp(min=least)
    below = (low - y) / colour.amin(1, keepdim=True).clamp(max=-least)
    return y + colour * torch.minimum(above, below).clamp(max=1)


class ProjectionGuidance(Guidance):
    """Guidance whose estimates are held to what is known."""

    def __init__(self, guidance: Guidance | None, project: Projection) -> None:
        self.guidance, self.project = guidance, project

    def __call__(self, denoise: Denoiser, y: Tensor | None, process: Process) -> BoundDenoiser:
        """(x, t, y) -> x0 with labels y [B] bound: (x, t) -> x0 that agrees."""
        inner = (
            self.guidance(denoise, y, process) if self.guidance else lambda x, t: denoise(x, t, y)
        )
        return lambda x, t: self.project(inner(x, t))


# --- drawing ---------------------------------------------------------------------------------


class ImageEditor:
    """Draws edits of images with the components of a run.

    task inpaint draws what lies inside the mask. colourise keeps the grey. edit goes a part of the
    way to the noise and back (SDEdit, Meng et al. 2021, arXiv 2108.01073): sampling starts from
    a x + b z where b / a = strength / (1 - strength), whatever the path: strength is the share of
    noise in it. The sampler takes as many steps on that part of the path as on all of it. With a
    mask, edit changes what lies inside alone.
    """

    def __init__(
        self,
        components: Components,
        task: Task,
        *,
        mask: NDArray[np.bool_] | None = None,
        strength: float | None = None,
        labels: int | Sequence[int] | None = None,
    ) -> None:
        """mask: [H, W], True where the image is not known; strength: of edit, in (0, 1]; labels:
        that images will be given.

        Raises ConfigError for a run that cannot do this, DataError for a mask that does not fit.
        """
        self.components, self.task, self.strength = components, task, strength
        _check(components, task, mask is not None, strength)
        size = components.output_shape[1:]
        if mask is not None and mask.shape != size:
            who = "guidance" if size != components.spec.shape[1:] else "the run"
            raise DataError(
                f"the mask has {_size(mask.shape)} pixels, what {who} draws {_size(size)}; "
                "make it of that size"
            )
        if mask is not None and not mask.any():
            raise DataError("the mask is black everywhere: white pixels are those to draw")
        if mask is not None and mask.all():
            raise DataError("the mask is white everywhere: black pixels are those to keep")
        if labels is None and components.spec.classes and components.model.label_dropout == 0:
            raise ConfigError(
                "labels= is needed: this run was trained with model.label_dropout=0, so it has no "
                "estimates without a label"
            )
        device = components.hardware.device
        self.mask = None if mask is None else torch.tensor(mask, device=device)

    @property
    def cut(self) -> TruncatedPath | None:
        """The part of the path that is followed, None for all of it."""
        sampler = self.components.sampler
        path = sampler.through or sampler.process
        if self.strength is None or path is None:
            return None
        sigma = self.strength / (1 - self.strength) if self.strength < 1 else math.inf
        end = path.time(torch.tensor([sigma], dtype=torch.float64)).item()
        if not end:
            raise ConfigError(
                f"strength={self.strength:g} is less noise than this path ever has; use more"
            )
        return TruncatedPath(path, end)

    def __call__(
        self, images: Tensor, z: Tensor, y: Tensor | None, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """images uint8 [n, C, H, W] -> (an edit of each, what is known of them), both uint8.

        z [n, C, H, W]: the noise sampling would start from; y [n]: labels; noise: of the sampler.
        """
        codec, sampler, model = (
            self.components.codec,
            self.components.sampler,
            self.components.model,
        )
        x = codec.encode(images, None)
        known, project = self._known(x)
        cut, held = self.cut, ProjectionGuidance(sampler.guidance, project)
        with _following(sampler, held, cut), self.components.hardware.autocast():
            if cut is not None:
                a, b = sampler.sampler.start(cut)
                z = z + x * (a / b)
                known = project(b * z / math.hypot(a, b))
            assert isinstance(model, Generates)
            out = model.transport(z, y, noise, sampler)
        drawn = codec.decode(project(out.float()))
        if self.mask is not None:  # a codec of few bits gives back other bytes
            drawn = torch.where(self.mask, drawn, images)
        return drawn, codec.decode(known.float())

    def _known(self, x: Tensor) -> tuple[Tensor, Projection]:
        """What is known of x [B, C, H, W] as a picture, and the projection onto it."""
        if self.task == "colourise":
            grey = x.mean(1, keepdim=True)
            low, high = _range(self.components.codec, x)
            return grey.expand_as(x), lambda x0: held_grey(x0, grey, low, high)
        if self.mask is None:
            return x, lambda x0: x0
        mask = self.mask
        return filled(torch.zeros_like(x), x, mask), lambda x0: filled(x0, x, mask)


@contextmanager
def _following(
    bound: PathSampler, guidance: Guidance, cut: TruncatedPath | None
) -> Iterator[None]:
    """The sampler with another guidance, and on a part of its path.

    A part of a discrete path has fewer levels; no more steps than these are done.
    """
    before = bound.guidance, bound.through, bound.sampler
    bound.guidance, bound.through = guidance, cut or bound.through
    steps = bound.sampler.steps
    if cut is not None and cut.steps is not None and steps is not None:
        bound.sampler = copy(bound.sampler)
        bound.sampler.steps = min(steps, cut.steps)
    try:
        yield
    finally:
        bound.guidance, bound.through, bound.sampler = before


def _range(codec: Codec, x: Tensor) -> tuple[float, float]:
    """What bytes 0 and 255 are in model space, of images like x."""
    ends = (torch.full_like(x[:1], byte, dtype=torch.uint8) for byte in (0, 255))
    low, high = (codec.encode(u, None).mean().item() for u in ends)
    return low, high


def _check(components: Components, task: Task, masked: bool, strength: float | None) -> None:
    """ConfigError where the run, or these options together, allow no such task."""
    shape = components.spec.shape
    if not components.sampler.follows_path:
        raise ConfigError(
            f"task={task} needs a model with a path; {components.config['model']['name']!r} draws "
            "its samples in one step"
        )
    if len(shape) != 3:
        raise ConfigError(f"task={task} is of images, and this run draws points")
    if task == "colourise" and shape[0] != 3:
        raise ConfigError("task=colourise needs a run of colour images; this one's are grey")
    if task == "inpaint" and not masked:
        raise ConfigError("task=inpaint needs mask=<image>, white where it should draw")
    if task == "colourise" and masked:
        raise ConfigError("mask= is of task=inpaint or edit; task=colourise takes none")
    if (task == "edit") != (strength is not None):
        raise ConfigError(
            "strength= is how far task=edit goes to the noise, in (0, 1]; "
            + ("add strength=0.5, say" if task == "edit" else f"task={task} goes all the way")
        )
    if components.sampler.learned_variance:
        raise ConfigError(
            f"task={task} moves the estimates to what is known of the image, and "
            "sampler.variance=learned is of those that the network gives; use "
            "sampler.variance=small"
        )
    if strength is not None and components.sampler.sampler.start_given:
        raise ConfigError(
            "strength= says at which noise sampling starts, and so do sampler.span and a list "
            "as sampler.grid; use sampler.span=null and a named grid"
        )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
