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

from genlab.core.ema import Shadow


@dataclass(frozen=True)
class Spec:
    """What one datum looks like.

    shape: event shape S, e.g. (3, 32, 32) or (2,).
    classes: number of labels K the run uses, None without labels.
    vocabulary: number of token values, which are then 0 .. vocabulary - 1; None where data are
        numbers.
    bounds: least and largest value a number may have, None where data have none; a codec says.
    """

    shape: tuple[int, ...]
    classes: int | None = None
    vocabulary: int | None = None
    bounds: tuple[float, float] | None = None


class Noise(Protocol):
    """The random numbers of one batch; the i-th row belongs to the i-th sample alone.

    In training a row is a function of (seed, position in the stream of draws, number of the call),
    in sampling of (seed, index of the sample, number of the call): neither the batch size nor the
    micro-batch nor the rank changes what a sample sees.
    """

    n: int

    def normal(self, *shape: int) -> Tensor:
        """[n, *shape] float32 standard normal."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """[n, *shape] float32 uniform on [0, 1)."""
        ...


Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x_t [B, *S], t [B], y [B] or None) -> x0 [B, *S], the estimate E[x0 | x_t] of the datum."""


BoundDenoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, *S], t [B]) -> x0 [B, *S]: a denoiser with labels and guidance bound, as samplers take
it."""


Estimate = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""A denoiser with a learned variance, (x, t, y) -> (x0 [B, *S], share [B, *S]): for samplers whose
`spread` is True. See `contract.Spreads`."""


class Process(Protocol):
    """A Gaussian path x_t = a(t) x0 + b(t) eps, with t = 0 data and t = 1 noise.

    The noise level sigma = b / a rises with t. All of it is float64. `gaussian_path.Path` has
    the defaults, and the algebra of such paths is beside it.
    """

    steps: int | None  # T of a discrete path, learned at the times i / T alone; None: at all

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] -> (a, b, da/dt, db/dt), each [B]."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """t [B] -> b / a [B], inf where a = 0."""
        ...

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> t [B], the inverse; what lies outside the path gives its nearer end."""
        ...

    def c_noise(self, t: Tensor) -> Tensor:
        """t [B] -> [B], the number that tells a network the time; networks embed 1000 times it."""
        ...

    def c_in(self, t: Tensor, sd: float) -> Tensor:
        """t [B], standard deviation of the data -> [B], what x_t is multiplied by before a network
        sees it."""
        ...


class Sampler(Protocol):
    """Carries noise along a path to data, whatever the path and whatever was learned.

    z is standard normal; the path starts at b(t) z, t the first time of the sampler. One may have
    `check(process, spec)`, which raises ConfigError before anything is trained or drawn. One whose
    `spread` is True is given (x, t) -> (x0, share), of a model that `Spreads`.
    """

    def __call__(
        self,
        denoise: BoundDenoiser,
        z: Tensor,
        process: Process,
        noise: Noise,
    ) -> Iterator[Tensor]:
        """Yields the states x_t [B, *S] from b(t) z to the sample (the last one)."""
        ...


class Guidance(Protocol):
    """Wraps the denoiser of a model."""

    def __call__(self, denoise: Denoiser, y: Tensor | None, process: Process) -> BoundDenoiser:
        """(x, t, y) -> x0, times on `process`, with labels y bound: (x, t) -> x0."""
        ...


class BoundSampler(Protocol):
    """A sampler with its process and guidance bound, as `build` hands it to a model."""

    def __call__(
        self,
        denoise: Denoiser,
        z: Tensor,
        y: Tensor | None,
        noise: Noise,
        estimate: Estimate | None = None,
    ) -> Tensor:
        """z [B, *S] -> sample [B, *S]; estimate: of a model that `Spreads`."""
        ...


class Codec(Protocol):
    """The bridge between stored data and model space."""

    spec: Spec  # of model space

    def encode(self, u: Tensor, noise: Noise | None) -> Tensor:
        """u [B, C, H, W] uint8 (or [B, *S] float points) -> x [B, *S]."""
        ...

    def logdet(self, x: Tensor) -> Tensor | None:
        """x [B, *S] -> log |dx/du| [B] nats at x; None for bytes that are not dequantized."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """x [B, *S] -> uint8 [B, C, H, W], or float points as they were stored."""
        ...


class Dataset(Protocol):
    """Stored data; `spec` is known before anything is read into memory.

    One may have `flip` (mirror half of the training images) and `notes` (of its reading, a dict).
    """

    spec: Spec  # as stored; classes None when there are no labels
    count: int  # training data
    names: list[str] | None  # of the classes

    def load(self, split: str) -> tuple[Tensor, Tensor | None]:
        """split "train" or "test" -> (uint8 [N, C, H, W] or float32 [N, 2], int64 [N] or None)."""
        ...


class Bijection(Protocol):
    """An invertible network between data and D = prod(S) independent standard normal numbers.

    Learned priors, also those that depend on a label or on other latents, are part of it: their
    mean and deviation are one more affine map.
    """

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, *S], y [B] or None -> (z [B, D], log |dz/dx| [B] nats), float32."""
        ...

    def inverse(self, z: Tensor, y: Tensor | None) -> Tensor:
        """z [B, D], y [B] or None -> x [B, *S] float32."""
        ...


class Schedule(Protocol):
    """The learning-rate shape and the length of a run; stateless."""

    images: int  # images the run draws in all
    batch: int  # global batch

    def __call__(self, images: int) -> float:
        """Multiplier of the base learning rate when `images` images have been drawn."""
        ...


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

    Subclasses receive built networks and other components as positional constructor parameters
    (the name of the parameter is the role, e.g. `net`, `generator`) and their yaml keys as
    keyword-only ones.
    """

    clock: Clock
    weights: str | float = "raw"  # "ema" or a relative std while samples are drawn from Shadows
    double_backward: bool = False  # True: needs double backward, so its networks stay uncompiled

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

        Networks that have a `normalize_weights` bring their weights back to their length first.
        """
        if not hasattr(self, "_shadows"):
            # tuples, found once: walking all modules would cost more than the update
            self._shadows = tuple(m for m in self.modules() if isinstance(m, Shadow))
            found = (getattr(m, "normalize_weights", None) for m in self.children())
            self._normalize: tuple[Callable[[], None], ...] = tuple(s for s in found if s)
        for normalize in self._normalize:
            normalize()
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

    def transport(
        self, z: Tensor, y: Tensor | None, noise: Noise, sampler: BoundSampler
    ) -> Tensor:
        """[n, *Z], y [n] or None -> [n, *S] model space; deterministic if the sampler is."""
        ...


@runtime_checkable
class Denoises(Protocol):
    """A model of a Gaussian path: estimates the datum behind a noisy one.

    process: the path its times are of, which may be a part of the one it was given. Its prior is
    standard normal, of the shape of x: samplers scale it to the noise their first time has.
    """

    process: Process

    def denoise(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
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
        """As `denoise` -> x0 [B, *S] and share [B, *S] in one evaluation of the network:
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
