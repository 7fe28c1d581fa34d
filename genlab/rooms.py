"""What the rooms beside the models are asked for; `contract.py` hands these names on.

Shapes as in `contract.py`: B batch, C channels, H W pixels, S any event shape, Z latent shape, K
classes. Time t runs from 0 (data) to 1 (noise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = [
    "Bijection",
    "Codec",
    "Dataset",
    "Estimate",
    "Field",
    "Guidance",
    "Noise",
    "Process",
    "Sampler",
    "Schedule",
    "Solver",
    "Spec",
]


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


Field = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x [B, *S], t [B], y [B] or None) -> x0 [B, *S]: all that a sampler sees of a model."""


Estimate = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""A field that says of its estimate too how sure it is, (x, t, y) -> (x0 [B, *S], share [B, *S]):
what a sampler sees whose `spread` is True. See `contract.Spreads`."""


class Process(Protocol):
    """A Gaussian path x_t = a(t) x0 + b(t) eps, with t = 0 data and t = 1 noise.

    The noise level sigma = b / a rises with t. All of it is float64. `genlab.gaussian.Path` has
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

    def told(self, t: Tensor) -> Tensor:
        """t [B] -> [B], the number that tells a network the time; networks embed 1000 times it."""
        ...

    def seen(self, t: Tensor, sd: float) -> Tensor:
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
        self, field: Callable[[Tensor, Tensor], Tensor], z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """Yields the states x_t [B, *S] from b(t) z to the sample (the last one)."""
        ...


class Guidance(Protocol):
    """Wraps the field a sampler sees."""

    def __call__(
        self, field: Field, y: Tensor | None, process: Process
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(x, t, y) -> x0, times on `process`, with labels y bound: (x, t) -> x0."""
        ...


class Solver(Protocol):
    """A sampler with its process and guidance bound, as `build` hands it to a model."""

    def __call__(
        self,
        field: Field,
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
