"""What is evaluated: the samples or reconstructions of a model, or given images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.core.contract import Dataset, Generates, HasLikelihood, Reconstructs, Spec
from genlab.core.digest import tensor_digest
from genlab.core.ema import EMA
from genlab.core.errors import ConfigError, DeviceError
from genlab.core.metric import Pairs
from genlab.evaluation.labels import in_proportion
from genlab.evaluation.reference import size_of, subset
from genlab.hardware.hardware import Hardware
from genlab.run.directory import Run
from genlab.run.environment import environment
from genlab.sampling.pipeline import Pipeline

__all__ = ["EvalTarget", "GivenImages", "ModelOutputs", "number_of_samples"]


def number_of_samples(asked: int | str, device: torch.device, *, training: bool) -> int:
    """How many samples n=auto means: fewer on a CPU, and fewer while training."""
    if asked != "auto":
        return int(asked)
    if device.type == "cpu":
        return 1_000 if training else 2_000
    return 10_000 if training else 50_000


class EvalTarget:
    """Images, or points of the plane, as stored, and where they come from.

    Its streams are functions of a range of row numbers, so that they can be computed in parts.

    title: in words. folder: of its evaluations. description: for the record, all in which two
    numbers of one protocol may differ; key: what else its samples depend on, as text.
    kind: what they are. n: how many. labels: of samples, "data" in the shares of the training
    data, "even" in equal ones, "none" of a model without, "" where no model draws samples.
    spec: of one. seed: of samples, and of what a metric draws.
    batch: drawn at once. hardware: that computes them.
    data: what the model was trained on, or the kind of images, in words. dataset: the same to
    load, None where it is not known. images: all n of them where they need not be drawn.
    held_out: how many held-out images `pairs` and `bits` are of; held_out_set: which, in words.
    codebook_size: of the model, None without a codebook. density: what its likelihoods are of, in
    words; likelihood: how they are computed, no_likelihood: why they are not, "" where there is
    nothing to say.
    """

    title: str
    folder: Path
    description: Mapping[str, Any]
    key: str = ""
    kind: Literal["samples", "reconstructions", "images"]
    n: int
    labels: Literal["data", "even", "none", ""] = ""
    spec: Spec
    seed: int
    batch: int = 64
    hardware: Hardware
    data: str
    dataset: Dataset | None
    images: Tensor | None = None
    held_out: int = 0
    held_out_set: str = ""
    codebook_size: int | None = None
    density: str = ""
    likelihood: str = ""
    no_likelihood: str = ""

    @property
    def device(self) -> torch.device:
        """Where they are computed."""
        return self.hardware.device

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and choices of this process."""
        return environment(self.hardware, self.dataset)

    def digest(self, *more: Any) -> str:
        """SHA-256 of what its samples depend on, and of more."""
        text = json.dumps([self.description, self.key, *more], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def streams(self) -> set[str]:
        """Names of `core.metric.STREAMS` that it has beside those of a feature network."""
        found = {"real", self.spec.kind}
        return found | ({"training"} if self.dataset is not None else set())

    @property
    def reference_split(self) -> str:
        """The split of a data set that they are compared with, unless another is named."""
        return "test" if self.kind == "reconstructions" else "train"

    def draw(self, rows: range) -> Tensor:
        """[n, *S] samples."""
        raise NotImplementedError

    def pairs(self, rows: range) -> Pairs:
        """Held-out images, their reconstructions and codes."""
        raise NotImplementedError

    def bits(self, rows: range) -> Tensor:
        """[n] float64 bits per dimension of held-out data."""
        raise NotImplementedError

    def training(self) -> Tensor:
        """[N, *S] all that the model was trained on."""
        assert self.dataset is not None
        return self.dataset.load("train").x


class GivenImages(EvalTarget):
    """Images of a folder, whoever made them."""

    kind = "images"

    def __init__(
        self,
        title: str,
        folder: Path,
        images: Tensor,
        seed: int,
        hardware: Hardware,
        data: str,
        dataset: Dataset | None,
    ) -> None:
        """images: uint8 [n, C, H, W]. dataset: what their model was trained on, if known."""
        self.images, self.n, self.spec = images, len(images), Spec(tuple(images.shape[1:]))
        self.seed, self.hardware, self.data, self.dataset = seed, hardware, data, dataset
        self.title, self.folder = title, folder
        described = {"folder": title, "of": self.kind, "images": self.n, "seed": seed}
        self.description = described | {"digest": tensor_digest(images)[:12]}

    @property
    def streams(self) -> set[str]:
        """Those of any target, and the images."""
        return super().streams | {"fake"}


class ModelOutputs(EvalTarget):
    """Samples of a model, or its reconstructions of held-out images."""

    def __init__(
        self,
        pipeline: Pipeline,
        n: int,
        seed: int,
        weights: str | float = "ema",
        kind: Literal["auto", "samples", "reconstructions"] = "auto",
        batch: int = 64,
        labels: Literal["data", "even"] = "data",
    ) -> None:
        """n: samples, and held-out images at most. kind: auto is samples of a model that draws
        any. labels: in the shares of the training data, which is "even" where these are equal.
        Raises ConfigError for a model without outputs of that kind."""
        model, self.pipeline, self.weights = pipeline.model, pipeline, weights
        generates, reconstructs = isinstance(model, Generates), isinstance(model, Reconstructs)
        if kind == "samples" and not generates:
            raise ConfigError("of=samples: this model draws none; use of=reconstructions")
        if kind == "reconstructions" and not reconstructs:
            raise ConfigError("of=reconstructions: this model has no encoder; use of=samples")
        self.kind = "reconstructions"
        if generates and kind != "reconstructions":
            self.kind = "samples"
        self.seed, self.batch = seed, batch
        self.hardware, self.dataset = pipeline.hardware, pipeline.data
        stored = self.dataset.spec
        resized = pipeline.output_shape != pipeline.spec.shape
        self.spec = replace(stored, shape=pipeline.output_shape) if resized else stored
        self.data = f"{pipeline.config['data']['name']} {size_of(stored)}"
        images, true, _ = self.dataset.load("test")
        self._held_out = subset(images, n)
        self._labels = None  # of the held-out images
        if true is not None and pipeline.classes is not None:
            self._labels = subset(true, n)
        self.held_out = len(self._held_out)
        self.n = n if self.kind == "samples" else self.held_out
        self._drawn: list[int] | None = None  # labels of samples
        if self.kind == "samples":
            self._choose_labels(labels)
        which = f"{tensor_digest(images)[:12]}, {self.held_out} of {len(images)}"
        self.held_out_set = f"{self.data} test {which}"
        self.codebook_size = model.codebook_size if reconstructs else None
        self.likelihood, self.no_likelihood = _likelihood(pipeline)
        self.density = _density(pipeline)

    @property
    def title(self) -> str:
        """The run and where it stands."""
        return self.pipeline.title

    @property
    def folder(self) -> Path:
        """<run>/eval."""
        return self.pipeline.run.path / "eval"

    @cached_property
    def key(self) -> str:
        """The weights, the held-out data and what computes."""
        pipeline, machine = self.pipeline, self.environment
        assert pipeline.checkpoint is not None
        parts = [pipeline.checkpoint.digest, self.held_out_set]
        parts += [self.hardware.precision, self.device.type, self.labels]
        parts += [machine[name] for name in ("attention", "genlab", "git")]
        if (average := pipeline.post_hoc_ema(self.weights)) is not None:
            parts += average.moments  # made of those that are kept, which may change
        return " ".join(map(str, parts))

    @property
    def streams(self) -> set[str]:
        """Those of any target, and what the model can do."""
        model, found = self.pipeline.model, super().streams
        if isinstance(model, Generates | Reconstructs):
            found.add("fake")
        if isinstance(model, Reconstructs):
            found.add("pairs")
        if self.codebook_size is not None:
            found.add("codes")
        if self.likelihood:
            found.add("bits")
        return found

    @property
    def enlarged(self) -> str:
        """Why samples do not compare with the data, in words; "" where they are of one size."""
        assert self.dataset is not None
        stored = self.dataset.spec
        if self.spec.shape == stored.shape:
            return ""
        return (
            f"guidance draws {size_of(self.spec)} and the data are {size_of(stored)}, which no "
            f"metric compares; use another guidance, or genlab eval with real=<images> "
            f"size={self.spec.shape[1]}"
        )

    def draw(self, rows: range) -> Tensor:
        """[n, *S] samples."""
        labels = None if self._drawn is None else self._drawn[rows.start : rows.stop]
        return self.pipeline.draw(labels, self.seed, rows, self.weights)

    def _choose_labels(self, wanted: Literal["data", "even"]) -> None:
        """Sets what labels samples are drawn with, and in which words that is recorded."""
        classes = self.pipeline.classes
        if classes is None:
            self.labels = "none"
            return
        counts = [1] * classes
        if wanted == "data":
            assert self.dataset is not None
            stored = self.dataset.load("train").y
            assert stored is not None
            counts = torch.bincount(stored, minlength=classes).tolist()
        self.labels = "even" if len(set(counts)) == 1 else "data"
        self._drawn = in_proportion(counts, self.n)

    def pairs(self, rows: range) -> Pairs:
        """Held-out images, their reconstructions and codes."""
        originals = self._held_out[rows.start : rows.stop].contiguous()
        codes = self.pipeline.encode(originals, self.weights)
        return Pairs(originals, self.pipeline.decode(codes, self.weights), codes)

    def bits(self, rows: range) -> Tensor:
        """[n] float64 bits per dimension of held-out data."""
        images = self._held_out[rows.start : rows.stop]
        labels = None if self._labels is None else self._labels[rows.start : rows.stop]
        return self.pipeline.bits_per_dim(images, labels, self.seed, rows, self.weights)

    @cached_property
    def description(self) -> dict[str, Any]:
        """For the record: that of the run at its checkpoint, and the batch."""
        assert self.pipeline.checkpoint is not None
        described = self.describe(self.pipeline.run, self.pipeline.checkpoint.images)
        return described | {"batch": self.batch}

    def describe(self, run: Run, images: int) -> dict[str, Any]:
        """All in which two numbers of one protocol may differ, also while the run is training.

        images: that the run had drawn.
        """
        pipeline = self.pipeline
        averaged = any(isinstance(m, EMA) for m in pipeline.model.modules())
        found: dict[str, Any] = {
            "run": run.title,
            "id": run.id,
            "of": self.kind,
            "checkpoint": images,
            "weights": self.weights if averaged else "raw",
            "seed": self.seed,
        }
        if (average := pipeline.post_hoc_ema(self.weights)) is not None:
            found["residual"] = average.residual
        if self.likelihood:
            found["likelihood"] = self.likelihood
        if self.kind == "samples":
            found |= _sampling(pipeline)
        return found


def _sampling(pipeline: Pipeline) -> Mapping[str, Any]:
    """How samples are drawn, for the record, and what one costs."""
    found = {"sampler": pipeline.sampler_config()}
    if pipeline.config["guidance"].get("name") is not None:
        found["guidance"] = pipeline.config["guidance"]
    found |= pipeline.named_runs()
    found["temperature"] = pipeline.sampler.temperature
    if pipeline.sampler.follows_path:  # counted on one sample
        pipeline.sampler.recount()
        pipeline.draw([0] if pipeline.classes else None, 0, [0])
    found["evaluations"] = pipeline.sampler.evaluations
    return found


def _likelihood(pipeline: Pipeline) -> tuple[str, str]:
    """How the likelihood of a model is computed, and why there is none; one of them is empty."""
    if not isinstance(pipeline.model, HasLikelihood):
        return "", ""
    try:
        return pipeline.likelihood(), ""
    except (ConfigError, DeviceError) as e:
        return "", str(e)


def _density(pipeline: Pipeline) -> str:
    """Of which numbers a likelihood is: fewer bits are easier to predict.

    A bound of the bytes themselves is not ranked with densities of dequantized ones.
    """
    if pipeline.model.discrete_likelihood:
        return "bytes"
    codec = pipeline.codec
    return codec.name + (f" {codec.bits} bits" if codec.bits else "")
