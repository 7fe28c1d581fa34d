"""A model with all it takes to draw from it: `genlab.load(run).sample(n)` in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genlab.assemble.components import Components, build
from genlab.config.compose import validate
from genlab.config.keys import KEYS
from genlab.config.saved import apply
from genlab.core import schema
from genlab.core.contract import Generates, HasLikelihood, Noise, Reconstructs
from genlab.core.errors import CheckpointError, ConfigError
from genlab.core.random import SampleNoise
from genlab.run.averages import Averages, PostHocEMA
from genlab.run.checkpoint import Checkpoint, Checkpoints
from genlab.run.directory import Run, resume_command
from genlab.run.trust import trusted, trusted_runs
from genlab.sampling.edit import ImageEditor, Task
from genlab.sampling.trained_run import find_trained

__all__ = ["STEPS", "Pipeline", "load"]

OF_RUN = ("sampler", "guidance", "hardware")  # groups that another may be chosen of
PAIRS, STEPS = 6, 9  # rows and columns of an interpolation strip


def load(
    run: str | Path = "latest",
    outputs: str | Path = "outputs",
    trust: bool | Sequence[str] = False,
    overrides: Sequence[str] = (),
    checkpoint: str | int = "latest",
    links: bool = False,
) -> Pipeline:
    """The pipeline of a trained run: `genlab.load("outputs/...").sample(16)`.

    run: path, id or latest; overrides: of sampler, guidance and hardware, as on a command line;
    checkpoint: latest (the newest valid one), best, or the images it had seen; trust: allow its
    config to import code from outside genlab (True), or those of runs that it names (their paths);
    links: follow links of one's own to folders. Raises a GenlabError.
    """
    found = find_trained(str(run), outputs)
    found.check_links(links)
    place = {"outputs": str(found.path.parent.parent)}  # where it lies now
    config = _with(found.config, overrides) | place
    if problems := validate(config):
        raise ConfigError(*problems)
    saved = Checkpoints(found.path / "checkpoints").find(checkpoint)
    if saved is None:
        raise CheckpointError(
            f"{found.path} has no checkpoint yet; train it with {resume_command(found)}"
        )
    how = {"trust": trusted(found.path, trust, first=True), "trust_runs": trusted_runs(trust)}
    return Pipeline(build(config, **how, run=found.path), saved)


class Pipeline:
    """Draws, encodes, decodes and measures with a model, at given weights.

    `genlab.load` makes one of a saved run. One of components alone works with the model as it
    stands, so a training looks at itself through it.

    What takes and gives arrays does so in batches; what takes and gives tensors does it at once:
    on any device, the result on the CPU. u are stored data, uint8 [n, C, H, W] or float points
    [n, 2]; weights are "ema", "raw", or the relative std of a power-function average that is made
    of those the run has kept.
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
    def log_prob(
        self,
        u: Tensor,
        labels: Tensor | None,
        seed: int,
        indices: Sequence[int],
        weights: str | float = "ema",
    ) -> Tensor:
        """u [n, ...] -> log p(u) [n] float64 nats = log p(x) + log |dx/du|.

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

    def bits_per_dim(
        self,
        u: Tensor,
        labels: Tensor | None,
        seed: int,
        indices: Sequence[int],
        weights: str | float = "ema",
    ) -> Tensor:
        """u [n, ...] -> -log p(u) / (D ln 2) [n] float64, where u has D numbers each."""
        nats = self.log_prob(u, labels, seed, indices, weights)
        return nats / (-math.log(2) * math.prod(self.spec.shape))

    # --- arrays, in batches --------------------------------------------------------------------

    def labels(self, n: int, asked: int | Sequence[int] | None = None) -> list[int] | None:
        """n labels: `asked` repeated, or all classes in turn; None without classes."""
        k = self.spec.classes
        if k is None:
            if asked is not None:
                raise ConfigError(
                    "labels= needs a class-conditional run; this one was trained without labels"
                )
            return None
        if asked is None:
            return [i % k for i in range(n)]
        wanted = [asked] if isinstance(asked, int) else list(asked)
        if not wanted:
            raise ConfigError(f"labels=[] is empty: name some of 0 to {k - 1}, or leave it out")
        if min(wanted) < 0 or max(wanted) >= k:
            raise ConfigError(f"labels={asked}: this run has the labels 0 to {k - 1}")
        return [wanted[i % len(wanted)] for i in range(n)]

    def sample(
        self,
        n: int,
        *,
        labels: int | Sequence[int] | None = None,
        seed: int = 0,
        batch: int = 64,
        weights: str | float = "ema",
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[Any]:
        """uint8 [n, C, H, W] images (or float32 [n, 2] points).

        Image i is a function of (seed, i, its label) alone, not of n or batch; convolutions may
        differ in the last bit between batch sizes, which is at most one grey level.
        """
        self.require(Generates)
        y = self.labels(n, labels)
        parts = []
        for start in range(0, n, batch):
            stop = min(n, start + batch)
            part = None if y is None else y[start:stop]
            parts.append(self.draw(part, seed, range(start, stop), weights).numpy())
            if progress:
                progress(stop)
        return np.concatenate(parts)

    def reconstruct(
        self, images: NDArray[np.uint8], *, batch: int = 64, weights: str | float = "ema"
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """uint8 [n, C, H, W] -> (their codes, int64 [n, h, w] of a VQ-VAE; uint8 [n, C, H, W]).

        Raises ConfigError for a model that does not reconstruct and for images of another shape.
        """
        self.require(Reconstructs)
        u = _tensor(images, self.data.spec.shape)
        codes = [self.encode(part, weights) for part in u.split(batch)]
        copies = [self.decode(part, weights) for part in codes]
        return torch.cat(codes).numpy(), torch.cat(copies).numpy()

    def edit(
        self,
        images: NDArray[np.uint8],
        task: Task = "edit",
        *,
        mask: NDArray[np.bool_] | None = None,
        strength: float | None = None,
        variants: int = 1,
        labels: int | Sequence[int] | None = None,
        seed: int = 0,
        batch: int = 64,
        weights: str | float = "ema",
        first: int = 0,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """uint8 [n, C, H, W] -> (edits [n, variants, C, H, W], known [n, C, H, W]), uint8 too.

        task: inpaint (what lies inside the mask), colourise, or edit: to the noise and back, see
        `ImageEditor`. mask: [H, W], True where it shall draw. strength: of edit, the share of
        noise it starts from, in (0, 1]. labels: which the images take in turn. Known is what the
        sampler begins with: the rest of the image, its grey, or the image with its noise.

        Variant k of image i is a function of (seed, (first + i) variants + k, image, label) alone:
        `first` is the number of the first of `images` where they come in parts. Raises ConfigError
        for a run or options that allow no such edit, DataError for a mask that does not fit.
        """
        given = {"task": task, "strength": strength, "variants": variants, "batch": batch}
        if problems := schema.mistyped(given, {key: KEYS["sample"][key] for key in given}):
            raise ConfigError(*problems)
        editor = ImageEditor(self.components, task, mask=mask, strength=strength, labels=labels)
        u, device = _tensor(images, self.output_shape), self.hardware.device
        y = None if labels is None else torch.tensor(self.labels(first + len(u), labels))
        edits, known = [], []
        for part in u.split(max(1, batch // variants)):
            stop = first + len(part)
            noise = SampleNoise(seed, range(first * variants, stop * variants), device)
            part = part.to(device).repeat_interleave(variants, 0)
            at = None if y is None else y[first:stop].to(device).repeat_interleave(variants)
            with torch.inference_mode(), self.using(weights):
                drawn, seen = editor(part, self.start(noise), at, noise)
            edits.append(drawn.unflatten(0, (-1, variants)).cpu())
            known.append(seen[::variants].cpu())
            first = stop
        return torch.cat(edits).numpy(), torch.cat(known).numpy()

    def require(self, capability: type[Generates] | type[Reconstructs]) -> None:
        """ConfigError with what to do instead, for a model without a capability."""
        if isinstance(self.model, capability):
            return
        name = repr(self.config["model"]["name"])
        if capability is Reconstructs:
            raise ConfigError(
                f"model {name} has no encoder, so it cannot reconstruct images; leave out from="
            )
        raise ConfigError(
            f"model {name} draws no images of its own, it reconstructs given ones: "
            f"genlab sample run={self.run.reference} from=<folder or .zip of images>"
        )

    def interpolate(
        self, *, seed: int = 0, weights: str | float = "ema", label: int | None = None
    ) -> Any:
        """[PAIRS * STEPS, ...] samples along great circles between pairs of starting points.

        A spherical path keeps the norm a Gaussian prior expects; a straight one would pass
        through points the model never saw.
        """
        self.require(Generates)
        with torch.inference_mode(), self.using(weights), self.hardware.autocast():
            ends = self.start(SampleNoise(seed, range(2 * PAIRS), self.hardware.device))
            a, b = ends[0::2].flatten(1), ends[1::2].flatten(1)
            cos = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)
            angle = cos.acos()[:, None]
            rows = []
            for i in range(STEPS):
                f = i / (STEPS - 1)
                mixed = (torch.sin((1 - f) * angle) * a + torch.sin(f * angle) * b) / angle.sin()
                rows.append(mixed.view(PAIRS, *ends.shape[1:]))
            z = torch.stack(rows, 1).flatten(0, 1)
            y = None
            if k := self.spec.classes:
                chosen = [label if label is not None else p % k for p in range(PAIRS)]
                y = torch.tensor(chosen, device=z.device).repeat_interleave(STEPS)
            noise = SampleNoise(seed, range(len(z)), self.hardware.device)
            x = self.model.transport(z, y, noise, self.sampler)
        return self.codec.decode(x).cpu().numpy()

    def trajectory(
        self, n: int, *, labels: Any = None, seed: int = 0, weights: str | float = "ema"
    ) -> list[NDArray[Any]]:
        """The decoded states from noise to n samples; ConfigError for a model without a path."""
        if not self.sampler.follows_path:
            raise ConfigError(
                f"animate=true needs a model with a path; {self.config['model']['name']!r} draws "
                "its samples in one step"
            )
        frames: list[NDArray[Any]] = []
        self.sampler.watch = lambda x: frames.append(self.codec.decode(x).cpu().numpy())
        try:
            self.draw(self.labels(n, labels), seed, range(n), weights)
        finally:
            self.sampler.watch = None
        return frames


def _tensor(images: NDArray[Any], shape: tuple[int, ...]) -> Tensor:
    """Images as a tensor; ConfigError for any but uint8 [n, *shape]."""
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ConfigError(
            f"this run takes uint8 images [n, {', '.join(map(str, shape))}], "
            f"not {images.dtype} {list(images.shape)}"
        )
    return torch.tensor(images)  # a copy: what Pillow gives is read-only


def _with(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The run's config with another sampler, guidance or hardware."""

    def refusal(key: str, was: Any, value: Any) -> str:
        if key == "data.root" or key.partition(".")[0] in OF_RUN:
            return ""
        return (
            f"{key}: sampling can change sampler, guidance, hardware and data.root; "
            "the rest belongs to the run"
        )

    return apply(config, words, OF_RUN, refusal)
