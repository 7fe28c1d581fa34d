"""The interfaces: what a model is, then the base class of every other group of components.

A model is a generator of updates: `step` draws batches, computes a loss and yields it together
with the player whose optimizer shall step on it; the line after `yield` runs when it has stepped.

Shape legend, used in every docstring of the project: B batch, C channels, H W pixels, S any event
shape (C H W for images, 2 for plane points), Z latent shape, K classes.
Time t runs from 0 (data) to 1 (noise).

This is one file because these classes name each other, and are what a newcomer reads first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genlab.core.digest import tensor_digest
from genlab.core.ema import EMA

# --- a step of training -----------------------------------------------------------------------


class Batch(NamedTuple):
    """One micro-batch on the device of the model; the noise of its whole is at the same call."""

    x: Tensor  # [B, *S] model space (after Codec.encode): float32, or int64 tokens
    y: Tensor | None  # [B] int64 labels; None when unconditional, networks take -1 as no label
    noise: Noise  # all randomness a loss may use
    z: Tensor | None = None  # [B, *Z] float32 noise that stored data are paired with
    whole: Callable[[], tuple[Batch, slice]] | None = None  # global batch, our rows; None: is this


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

    double_backward: whether it needs double backward, so that its networks stay uncompiled.
    one_step: whether it draws samples by itself, in one call of its network; one that denoises and
    leaves it True draws in one step or along its path, by the sampler.
    learned_variance: whether it has learned `predict_variance` beside `denoise`, which Nichol and
    Dhariwal 2021, arXiv 2102.09672, eq. 15, need for a step back: (x, t, y) -> (x0, v), both
    [B, *S], ln variance = v ln large + (1 - v) ln small in the terms of `gaussian_path.Step`.
    label_dropout: share of the labels that it hides while training; None for one without the key.
    discrete_likelihood: see `HasLikelihood`. codebook_size, code_bits: see `Reconstructs`.
    higher_is_better: logged values that rise while it learns; the others fall.
    """

    double_backward: bool = False
    one_step: bool = True
    learned_variance: bool = False
    label_dropout: float | None = None
    discrete_likelihood: bool = False
    codebook_size: int | None = None
    code_bits: float | None = None
    higher_is_better: tuple[str, ...] = ()

    clock: Clock
    weights: str | float = "raw"  # "ema" or a relative std while samples are drawn from averages
    _found: tuple[tuple[Network, ...], tuple[EMA, ...]] | None = None

    def notes(self, batch: int) -> Sequence[str]:
        """Sentences on it that a run of this global batch says when it starts."""
        return ()

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
        """Runs once, without gradients, when all players have stepped; moves every EMA.

        Networks normalize their weights first.
        """
        if self._found is None:
            # tuples, found once: walking all modules would cost more than the update
            networks = tuple(m for m in self.children() if isinstance(m, Network))
            self._found = networks, tuple(m for m in self.modules() if isinstance(m, EMA))
        networks, averages = self._found
        for network in networks:
            network.normalize_weights()
        for average in averages:
            average.update(self.clock.images, self.clock.drawn)

    def drawn_from(self, network: nn.Module) -> nn.Module:
        """The network to draw samples with: unless weights == "raw" its EMA, if it has one.

        Raises RuntimeError for two EMAs of one network, of which none is a target of a loss.
        """
        if self.weights == "raw":
            return network
        mine = [m for m in self.modules() if isinstance(m, EMA) and m.tracks(network)]
        if len(mine) > 1:
            raise RuntimeError("two averages of one network: make one of them a target")
        return mine[0].network_for(self.weights) if mine else network


# --- capabilities of a model, tested with isinstance ------------------------------------------


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
class HasLikelihood(Protocol):
    """A model with an exact, estimated or bounded density.

    discrete_likelihood: True where log_prob is that of the stored bytes, not a density of model
    space.
    """

    discrete_likelihood: bool

    def log_prob(self, x: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """x [B, *S], y [B] or None, noise of an estimate -> [B] nats."""
        ...

    def likelihood(self) -> str:
        """How log_prob is found, for the record; DeviceError without a package it takes."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """A model with an encoder and a decoder.

    codebook_size: number of codes it chooses from, None without a codebook. code_bits: what the
    codes of one datum can hold, None where they are numbers.
    """

    codebook_size: int | None
    code_bits: float | None

    def encode(self, x: Tensor) -> Tensor:
        """x [B, *S] -> codes."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """codes -> [B, *S]."""
        ...


# --- data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """What one datum looks like.

    shape: event shape S, e.g. (3, 32, 32) or (2,).
    classes: number of labels K the run uses, None without labels.
    vocabulary: number of token values, which are then 0 .. vocabulary - 1; None where data are
        numbers.
    bounds: least and largest value a number may have, None where data have none; set by a codec.
    """

    shape: tuple[int, ...]
    classes: int | None = None
    vocabulary: int | None = None
    bounds: tuple[float, float] | None = None

    @property
    def kind(self) -> Literal["images", "points", "tokens"]:
        """Tokens have a vocabulary, images three sizes (C, H, W); all else are points."""
        if self.vocabulary is not None:
            return "tokens"
        return "images" if len(self.shape) == 3 else "points"

    def require(self, kind: str, who: str, instead: str) -> None:
        """Raises ValueError where data are of another kind than `who` takes, with what does."""
        if self.kind != kind:
            raise ValueError(
                f"{who} takes {kind}, not {self.kind} of shape {list(self.shape)}; use {instead}"
            )


class Split(NamedTuple):
    """The data of one split; row i of each tensor belongs to the same datum."""

    x: Tensor  # [N, *S] as stored: uint8 images, float32 points or int64 tokens
    y: Tensor | None = None  # [N] int64 labels
    z: Tensor | None = None  # [N, *Z] float32 noise that each datum is paired with


class Dataset:
    """Stored data; `spec` is known before anything is read into memory.

    spec: as stored, classes None when there are no labels. count: training data. held_out:
    held-out data, None where one has to read them to know. names: of the classes. path: where they
    were found. flip: whether training mirrors half of the images. shift: the most that training
    moves an image, as a share of its sides. notes: of their reading, for the record of a run.
    indifferent: the keys in which two configs may differ and still be of the same data. cautions:
    sentences on what was not taken as it seems, which a training says when it starts.
    """

    spec: Spec
    count: int
    held_out: int | None = None
    names: list[str] | None = None
    path: Path | None = None
    flip: bool = False
    shift: float = 0.0
    notes: Mapping[str, Any] = {}
    indifferent: tuple[str, ...] = ("root",)
    cautions: Sequence[str] = ()

    def load(self, split: str) -> Split:
        """split: "train" or "test"; KeyError for others."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises DataError for what reading all of it would refuse; keeps nothing of it."""

    def identity(self, train: Split) -> dict[str, Any]:
        """What tells the data of two trainings apart, in words and digests, for the record of a
        run. train: `load("train")`."""
        found = {"count": len(train.x), "shape": list(train.x.shape[1:])}
        found["values"] = self.digest(train)
        beside = {"labels": train.y, "noise": train.z}
        return found | {k: tensor_digest(v)[:12] for k, v in beside.items() if v is not None}

    def digest(self, train: Split) -> str:
        """12 hex digits of the values; those that are kept with the data where some are."""
        return tensor_digest(train.x)[:12]


class Codec:
    """The bridge between stored data and model space.

    spec: of model space. bits: of a stored number, where fewer than 8 are kept; None for all.
    """

    spec: Spec
    bits: int | None = None

    @property
    def name(self) -> str:
        """What likelihoods are recorded as being of."""
        return type(self).__name__.lower()

    def encode(self, u: Tensor, noise: Noise | None) -> Tensor:
        """u [B, C, H, W] uint8 (or [B, *S] float points or int64 tokens) -> x [B, *S]."""
        raise NotImplementedError

    def logdet(self, x: Tensor) -> Tensor | None:
        """x [B, *S] -> log |dx/du| [B] nats at x; None for bytes that are not dequantized."""
        raise NotImplementedError

    def decode(self, x: Tensor) -> Tensor:
        """x [B, *S], of any float type or int64 -> uint8 [B, C, H, W], or points or tokens as they
        were stored."""
        raise NotImplementedError


# --- other runs -------------------------------------------------------------------------------


class RunRef:
    """Another run, as a component receives it that names one: a teacher, a tokenizer, a reference.

    The key of a constructor that is annotated `RunRef` is {run, checkpoint, weights} in a config,
    or a path or id alone; a key `run` may have the other two beside it. The component keeps what
    it receives, which is no module: nothing of it is trained or saved. It is frozen, and refused
    where it is of other data, another size or other labels.

    title: <model>-<data>/<directory>. spec: of its model space. codec: into that.
    """

    title: str
    spec: Spec
    codec: Codec

    def has(self, capability: type) -> bool:
        """Whether its model is a `Denoises`, a `Reconstructs`, ...; known before it is read."""
        raise NotImplementedError

    @property
    def model(self) -> Model:
        """The model on the device, in evaluation mode; read when it is first used."""
        raise NotImplementedError

    def denoiser(self, process: Process) -> Denoiser:
        """Its estimate of x0 on `process`, whatever path it was trained on; labels as it knows."""
        raise NotImplementedError


# --- networks ---------------------------------------------------------------------------------


class Network(nn.Module):
    """A network as a model is handed it, built for the Spec of the data.

    any_size: whether it takes images of other sizes than those of training. outputs: numbers it
    gives for each number of x. notes: sentences on it that a run says when it starts.
    """

    any_size: bool = False
    outputs: int = 1
    notes: Sequence[str] = ()

    def compiled_regions(self) -> Sequence[nn.Module]:
        """The parts that are compiled, each by itself."""
        return [self]

    def normalize_weights(self) -> None:
        """Runs after every step, before the averages are taken: what a step did to lengths of
        weights that are to be fixed ends here."""


class Generator(Network):
    """A network from a latent vector to data, as adversarial models play with. z_dim: Z."""

    z_dim: int

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        """z [B, Z], y [B] or None -> [B, *S] float32."""
        raise NotImplementedError


class Bijection(Network):
    """An invertible network between data and D = prod(S) independent standard normal numbers.

    Learned priors, also those that depend on a label or on other latents, are part of it: their
    mean and deviation are one more affine map.
    """

    def start(self, x: Tensor) -> None:
        """Sees the first data x [B, *S], before the first step of a run; for actnorm."""

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, *S], y [B] or None -> (z [B, D], log |dz/dx| [B] nats), float32."""
        raise NotImplementedError

    def inverse(self, z: Tensor, y: Tensor | None) -> Tensor:
        """z [B, D], y [B] or None -> x [B, *S] float32."""
        raise NotImplementedError


# --- paths and samplers -----------------------------------------------------------------------


class Process:
    """A Gaussian path x_t = a(t) x0 + b(t) eps, with t = 0 data and t = 1 noise.

    The noise level sigma = b / a rises with t. All of it is float64. The algebra that such paths
    share is in `gaussian_path`.

    steps: T of a discrete path, learned at the times i / T alone; None for a continuous one.
    """

    steps: int | None = None

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """t [B] -> b / a [B] float64, inf where a = 0."""
        a, b, _, _ = self.coefficients(t)
        return b / a

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> t [B] float64, the inverse; outside the path its nearer end."""
        raise NotImplementedError

    def c_noise(self, t: Tensor) -> Tensor:
        """t [B] -> [B] float64, the input of the network for the time; it embeds 1000 times it."""
        return t.double()

    def c_in(self, t: Tensor, sd: float) -> Tensor:
        """t [B], standard deviation of the data -> [B] float64, what x_t is multiplied by before
        the network."""
        return torch.ones_like(t, dtype=torch.float64)


Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x_t [B, *S], t [B], y [B] or None) -> x0 [B, *S], the estimate E[x0 | x_t] of the datum."""


BoundDenoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, *S], t [B]) -> x0 [B, *S]: a denoiser with labels and guidance bound, as samplers take
it."""


class Sampler:
    """Carries noise along a path to data, whatever the path and whatever was learned.

    z is standard normal; the path starts at b(t) z, t the first time of the sampler.

    follows_path: False where the model draws by itself, in one call of its network.
    learned_variance: whether its denoiser is `predict_variance` of a model, (x, t) -> (x0, v).
    full_precision: whether networks compute without autocast and TF32 for it, because it takes
    their rounding for an error of its steps.
    temperature: what the starting noise is multiplied by. steps: noise levels; None where the path
    or the sampler chooses them. start_given: whether its keys say at which noise it starts.
    """

    follows_path: bool = True
    full_precision: bool = False
    learned_variance: bool = False
    temperature: float = 1.0
    steps: int | None = None

    @property
    def start_given(self) -> bool:
        return False

    def check(self, process: Process, spec: Spec) -> None:
        """Raises ConfigError, before anything is drawn, where it cannot follow the path."""

    def check_model(
        self, model: Model, guidance: Guidance | None, own_path: bool, names: Mapping[str, str]
    ) -> list[str]:
        """What keeps it from drawing with this model, so guided, as sentences.

        own_path: whether it follows the path of training. names: group -> name of the component.
        """
        return []

    def start(self, process: Process) -> tuple[float, float]:
        """a and b of the level it starts at; that of t = 1 unless it says otherwise."""
        a, b, _, _ = process.coefficients(torch.ones(1, dtype=torch.float64))
        return a.item(), b.item()

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """Yields the states x_t [B, *S] from b(t) z to the sample (the last one)."""
        raise NotImplementedError


class Guidance:
    """Wraps the denoiser of a model.

    scale: 1 where it leaves the estimate as it is; None for one without that key. unconditional:
    whether it uses estimates without a label, which label dropout teaches. factor: how many
    times the size of training the images are that it draws.
    """

    scale: float | None = None
    unconditional: bool = False
    factor: int = 1

    @property
    def changes_estimate(self) -> bool:
        """Whether samplers are given anything but the estimate of the network."""
        return self.factor != 1 or self.scale != 1

    def __call__(self, denoise: Denoiser, y: Tensor | None, process: Process) -> BoundDenoiser:
        """(x, t, y) -> x0, times on `process`, with labels y bound: (x, t) -> x0."""
        raise NotImplementedError


class BoundSampler(Protocol):
    """A sampler with its process and guidance bound, as `Pipeline` hands it to a model."""

    @property
    def follows_path(self) -> bool:
        """Whether the model is to call it; False for a model of one step or many to take one."""
        ...

    @property
    def learned_variance(self) -> bool:
        """Whether it takes `predict_variance` of the model in place of `denoise`."""
        ...

    def __call__(
        self,
        denoise: Denoiser,
        z: Tensor,
        y: Tensor | None,
        noise: Noise,
    ) -> Tensor:
        """z [B, *S] -> sample [B, *S]."""
        ...


# --- optimization -----------------------------------------------------------------------------


class Optimizer(torch.optim.Optimizer):
    """An optimizer of torch, and what the trainer hands it.

    clip: largest norm of the gradient of its player, None for any. fused: whether its step divides
    the gradients by `grad_scale` and is left out where `found_inf` says so, both on the device.
    Without it the trainer divides, and takes a step that was not finite back, for which it copies
    the weights and all tensors of `state` before every step on a GPU: what a step changes has to
    be there, and numbers that are not on the device are waited for.
    """

    clip: float | None = None
    fused: bool = False


class Schedule:
    """The learning-rate shape and the length of a run; stateless."""

    images: int  # images the run draws in all
    batch: int  # global batch

    def __call__(self, images: int) -> float:
        """Multiplier of the base learning rate when `images` images have been drawn."""
        raise NotImplementedError
