"""A model that draws, encodes, decodes and measures what is in memory, at given weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from genlab.assemble.components import Components
from genlab.core import schema
from genlab.core.contract import Generates, HasLikelihood, Noise, Reconstructs
from genlab.core.errors import ConfigError
from genlab.core.random import SampleNoise
from genlab.run.averages import Averages, PostHocEMA
from genlab.run.checkpoint import Checkpoint
from genlab.run.directory import Run

__all__ = ["TensorPipeline"]


class TensorPipeline:
    """What takes and gives tensors, all at once: on any device, the result on the CPU.

    u are stored data, uint8 [n, C, H, W] or float points [n, 2]; weights are "ema", "raw", or the
    relative std of a power-function average that is made of those the run has kept.
    """

    def __init__(self, components: Components, checkpoint: Checkpoint | None = None) -> None:
        """checkpoint: whose weights are loaded; None leaves those that the model has."""
        self.components, self.config = components, components.config
        self.hardware, self.data = components.hardware, components.data
        self.codec, self.spec = components.codec, components.spec
        self.model, self.sampler = components.model, components.sampler
        self.checkpoint = checkpoint
        if checkpoint is not None:
            self.hardware.start()
            checkpoint.load(self.model)
            kept = Averages(checkpoint.run)
            rebuild = partial(kept.rebuild, self.model, checkpoint.images)
            self._rebuild = lru_cache(maxsize=1)(rebuild)  # a model holds one of them at a time

    @property
    def run(self) -> Run:
        """The run it was loaded from."""
        assert self.checkpoint is not None
        return Run(self.checkpoint.run)

    @property
    def title(self) -> str:
        """<model>-<data>/<directory> at image <images>."""
        assert self.checkpoint is not None
        return f"{self.run.title} at image {self.checkpoint.images:,}"

    @property
    def classes(self) -> int | None:
        """Number of labels the model was trained with; None if it is unconditional."""
        return self.spec.classes

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what is drawn: that of the data unless guidance draws at another size."""
        return self.components.output_shape

    def record(self) -> dict[str, Any]:
        """How it draws, for a sample.json."""
        assert self.checkpoint is not None
        return {
            "checkpoint": self.checkpoint.folder.name,
            "sampler": self.sampler_config(),
            "guidance": self.config["guidance"],
            **self.named_runs(),
        }

    def sampler_config(self) -> dict[str, Any]:
        """The config of its sampler, with the steps it takes: a list of levels has its own."""
        node, steps = self.config["sampler"], self.sampler.sampler.steps
        return node if steps is None else {**node, "steps": steps}

    def named_runs(self) -> dict[str, Any]:
        """Which checkpoints its components draw with besides, for a record: all of them count."""
        found = {key: other.record() for key, other in self.components.pretrained.items()}
        first = found.pop("guidance.run", None)  # as records had it before others could name runs
        runs = {} if first is None else {"reference": first}
        return runs | ({"runs": found} if found else {})

    # --- weights -------------------------------------------------------------------------------

    @contextmanager
    def using(self, weights: str | float) -> Iterator[None]:
        """The model in evaluation mode with these weights; afterwards as it was."""
        self.post_hoc_ema(weights)
        model = self.model
        before = model.training, model.weights
        model.eval()
        model.weights = weights
        try:
            yield
        finally:
            model.train(before[0])
            model.weights = before[1]

    def post_hoc_ema(self, weights: str | float) -> PostHocEMA | None:
        """Makes the average of a relative std, and says of what; None for "ema" and "raw".

        Raises ConfigError for other weights, for those that guidance compares the model with and
        where there is no such average, CheckpointError where those that were kept do not make it.
        """
        try:
            weights = schema.coerce(weights, schema.WEIGHTS)
        except ValueError as e:
            raise ConfigError(f"weights must be {e}, not {weights!r}") from None
        own = self.checkpoint
        for key, other in self.components.pretrained.items():
            if key.startswith("guidance.") and (other.checkpoint, other.weights) == (own, weights):
                beside = f"{key.removesuffix('run')}checkpoint=<images it had seen>"
                what = beside if key.endswith(".run") else "another checkpoint of it"
                raise ConfigError(
                    f"{other} is this run at this checkpoint with these weights, and guides it "
                    f"nowhere: name another run, or {what}"
                )
        if isinstance(weights, str):
            return None
        if own is None:
            raise ConfigError(f"weights={weights:g} is of a trained run, not of a fresh model")
        return self._rebuild(weights)

    # --- tensors, all at once ------------------------------------------------------------------

    def start(self, noise: Noise) -> Tensor:
        """[n, *Z] where sampling starts."""
        assert isinstance(self.model, Generates)
        shape = self.output_shape
        resized = shape != self.spec.shape  # the prior of a path is standard normal
        z = noise.normal(*shape) if resized else self.model.prior(noise)
        return z * self.sampler.temperature

    @torch.inference_mode()
    def draw(
        self,
        labels: Sequence[int] | None,
        seed: int,
        indices: Sequence[int],
        weights: str | float = "ema",
    ) -> Tensor:
        """Samples u [n, ...]. labels: n; indices: which of the endless samples of `seed`."""
        noise = SampleNoise(seed, indices, self.hardware.device)
        y = None if labels is None else torch.tensor(labels, device=self.hardware.device)
        assert isinstance(self.model, Generates)
        with self.using(weights), self.hardware.autocast():
            x = self.model.transport(self.start(noise), y, noise, self.sampler)
        return self.codec.decode(x).cpu()

    @torch.inference_mode()
    def encode(self, u: Tensor, weights: str | float = "ema") -> Tensor:
        """u [n, ...] -> codes [n, ...], of a model with an encoder."""
        assert isinstance(self.model, Reconstructs)
        with self.using(weights), self.hardware.autocast():
            return self.model.encode(self.codec.encode(u.to(self.hardware.device), None)).cpu()

    @torch.inference_mode()
    def decode(self, codes: Tensor, weights: str | float = "ema") -> Tensor:
        """codes [n, ...] -> u [n, ...], of a model with a decoder."""
        assert isinstance(self.model, Reconstructs)
        with self.using(weights), self.hardware.autocast():
            x = self.model.decode(codes.to(self.hardware.device))
        return self.codec.decode(x).cpu()

    @torch.inference_mode()
    def nats(
        self,
        u: Tensor,
        labels: Tensor | None,
        seed: int,
        indices: Sequence[int],
        weights: str | float = "ema",
    ) -> Tensor:
        """u [n, ...], labels [n] -> log p(u) [n] float64 nats = log p(x) + log |dx/du|.

        The noise of the codec, and of an estimate, is a function of (seed, index). Where the model
        is of the bytes themselves there is no log |dx/du|.
        """
        assert isinstance(self.model, HasLikelihood)
        noise = SampleNoise(seed, indices, self.hardware.device)
        y = None if labels is None else labels.to(self.hardware.device)
        x = self.codec.encode(u.to(self.hardware.device), noise)
        with self.using(weights), self.hardware.autocast():
            nats = self.model.log_prob(x, y, noise).double()
        if not self.model.discrete_likelihood:
            inside = self.codec.logdet(x)
            assert inside is not None
            nats += inside.double()
        return nats.cpu()

    def likelihood(self) -> str:
        """How `nats` and `log_prob` are found.

        Raises ConfigError where the codec leaves none, DeviceError where a package is missing.
        """
        model, codec = self.model, self.codec
        assert isinstance(model, HasLikelihood)
        anywhere = torch.zeros(1, *codec.spec.shape)
        if not model.discrete_likelihood and codec.logdet(anywhere) is None:
            raise ConfigError(
                f"codec={codec.name} gives images no density; train with codec=dequantize"
            )
        return model.likelihood()

    def bits_per_dim(
        self,
        u: Tensor,
        labels: Tensor | None,
        seed: int,
        indices: Sequence[int],
        weights: str | float = "ema",
    ) -> Tensor:
        """u [n, ...] -> -log p(u) / (D ln 2) [n] float64, where u has D numbers each."""
        nats = self.nats(u, labels, seed, indices, weights)
        return nats / (-math.log(2) * math.prod(self.spec.shape))
