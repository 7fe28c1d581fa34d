"""What a model is, and what the trainer, the samplers and the codecs may ask of it.

A model is a generator of updates: `step` draws batches, computes a loss and yields it together
with the player whose optimizer shall step on it; the line after `yield` runs when it has stepped.

Shape legend, used in every docstring of the project: B batch, C channels, H W pixels, S any event
shape (C H W for images, 2 for plane points), Z latent shape, K classes.
Time t runs from 0 (data) to 1 (noise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from genlab.nn.shadow import Shadow
from genlab.rooms import (
    Bijection,
    Codec,
    Dataset,
    Estimate,
    Field,
    Guidance,
    Noise,
    Process,
    Sampler,
    Schedule,
    Solver,
    Spec,
)

__all__ = [
    "Batch",
    "Bijection",
    "Clock",
    "Codec",
    "Dataset",
    "Denoises",
    "Estimate",
    "Field",
    "Generates",
    "Guidance",
    "HasLikelihood",
    "Model",
    "Noise",
    "Process",
    "Reconstructs",
    "Sampler",
    "Schedule",
    "Solver",
    "Spec",
    "Spreads",
    "Update",
]


class Batch(NamedTuple):
    """One micro-batch on the device of the model; the noise of its whole is at the same call."""

    x: Tensor  # [B, *S] float32, model space (after Codec.encode)
    y: Tensor | None  # [B] int64 labels; None when unconditional, networks take -1 as no label
    noise: Noise  # all randomness a loss may use
    z: Tensor | None = None  # [B, *Z] paired noise; only coupling data fill it
    whole: Callable[[], tuple[Batch, slice]] | None = None  # global batch, our rows; None: is this


@dataclass
class Clock:
    """Everything that changes while training, apart from tensors.

    step: optimizer iterations done.
    images: images drawn by all ranks; schedules, cadences and resume count in this unit.
    drawn: images of the step that is being done (more than one batch when a model draws several).
    """

    step: int = 0
    images: int = 0
    drawn: int = 0


class Update(NamedTuple):
    """One loss and who steps on it."""

    loss: Tensor  # [] mean over the micro-batch
    on: str | tuple[str, ...] = "net"  # the player or players whose optimizers step
    log: Mapping[str, Tensor] = {}  # detached scalars


class Model(nn.Module):
    """An algorithm: holds its networks, yields its updates, draws its samples.

    Subclasses receive built networks and rooms as positional constructor parameters (the name of
    the parameter is the role, e.g. `net`, `generator`) and their yaml keys as keyword-only ones.
    """

    clock: Clock
    weights: str | float = "raw"  # "ema" or a relative std while samples are drawn from Shadows
    second_order: bool = False  # True: needs double backward, so its networks stay uncompiled

    def start(self, data: Iterator[Batch]) -> None:
        """Runs once, without gradients, before the first step of a run that starts from nothing.

        For what begins with a look at the data (actnorm, k-means). data: the whole global batches
        the run begins with, on every rank alike; they are drawn again for training.
        """

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Name -> parameters of each optimizer; the default is one player, "net"."""
        return {"net": [p for p in self.parameters() if p.requires_grad]}

    def loss(self, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """[] loss, or (loss, detached scalars to log): the only method most models write."""
        raise NotImplementedError

    def step(self, data: Iterator[Batch]) -> Iterator[Update]:
        """The updates of one iteration, in the order of the paper's algorithm box."""
        out = self.loss(next(data))
        loss, log = out if isinstance(out, tuple) else (out, {})
        yield Update(loss, log=log)

    def end_step(self, optim: Mapping[str, Optimizer]) -> None:
        """Runs once, without gradients, when all players have stepped; refreshes every Shadow.

        Networks that have a `settle` are asked first: what a step did to their weights ends here.
        """
        if not hasattr(self, "_shadows"):
            # tuples, found once: walking all modules would cost more than the update
            self._shadows = tuple(m for m in self.modules() if isinstance(m, Shadow))
            found = (getattr(m, "settle", None) for m in self.children())
            self._settle: tuple[Callable[[], None], ...] = tuple(s for s in found if s)
        for settle in self._settle:
            settle()
        for shadow in self._shadows:
            shadow.update(self.clock.images, self.clock.drawn)

    def drawn_from(self, network: nn.Module) -> nn.Module:
        """The network to draw samples with: unless weights == "raw" its Shadow, if it has one.

        Raises RuntimeError for two Shadows of one network, of which none is a target of a loss.
        """
        if self.weights == "raw":
            return network
        mine = [m for m in self.modules() if isinstance(m, Shadow) and m.draws(network)]
        if len(mine) > 1:
            raise RuntimeError("two averages of one network: make one of them a target")
        return mine[0].shown(self.weights) if mine else network


# --- capabilities: asked with isinstance, never flags ----------------------------------------


@runtime_checkable
class Generates(Protocol):
    """A model that draws samples: what starts in the prior is carried to the data."""

    def prior(self, noise: Noise) -> Tensor:
        """[n, *Z] where sampling starts."""
        ...

    def transport(self, z: Tensor, y: Tensor | None, noise: Noise, solver: Solver) -> Tensor:
        """[n, *Z], y [n] or None -> [n, *S] model space; deterministic if the solver is."""
        ...


@runtime_checkable
class Denoises(Protocol):
    """A model of a Gaussian path: estimates the datum behind a noisy one.

    process: the path its times are of, which may be a part of the one it was given. Its prior is
    standard normal, of the shape of x: samplers scale it to the noise their first time has.
    """

    process: Process

    def field(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, *S], t [B] in [0, 1], y [B] or None -> estimate of x0 [B, *S]."""
        ...


@runtime_checkable
class Spreads(Protocol):
    """A model that denoises and can learn the variance of a step back, between two that bound it.

    small is that of a known datum, large that of a standard normal one; `transport` hands
    `estimate` to the solver. spreads: False where the config has it learn none.
    """

    spreads: bool

    def estimate(self, x: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `field` -> x0 [B, *S] and share [B, *S] in one evaluation of the network:
        ln variance = share ln large + (1 - share) ln small, also of a step over several levels."""
        ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A model with an exact, estimated or bounded density.

    mass: True where log_prob is of the stored bytes themselves, not a density of model space.
    """

    mass: bool

    def log_prob(self, x: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """x [B, *S], y [B] or None, noise of an estimate -> [B] nats."""
        ...

    def likelihood(self) -> str:
        """How log_prob is found, for the record; DeviceError without a package it takes."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """A model with an encoder and a decoder."""

    def encode(self, x: Tensor) -> Tensor:
        """x [B, *S] -> codes."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """codes -> [B, *S]."""
        ...
