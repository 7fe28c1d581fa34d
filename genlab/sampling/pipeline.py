"""A model with all it takes to draw from it: `genlab.load(run).sample(n)` in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genlab.assemble.components import Components, build, with_other_sampler
from genlab.config.compose import validate
from genlab.config.keys import KEYS
from genlab.config.saved import apply
from genlab.core import schema
from genlab.core.contract import Generates, HasLikelihood, Reconstructs
from genlab.core.errors import CheckpointError, ConfigError
from genlab.core.random import SampleNoise
from genlab.run.asked import no_checkpoint
from genlab.run.checkpoint import Checkpoint, Checkpoints
from genlab.run.directory import Run
from genlab.run.trust import trusted, trusted_runs
from genlab.sampling.arrays import Images, Output, as_tensor, check_output, handed_out
from genlab.sampling.edit import ImageEditor, Task
from genlab.sampling.tensors import TensorPipeline
from genlab.sampling.trained_run import find_trained

__all__ = ["STEPS", "Pipeline", "load"]

OF_MODEL = ("sampler", "guidance")  # groups that another may be chosen of for any drawing
OF_RUN = (*OF_MODEL, "hardware")  # and when a run is loaded
PAIRS, STEPS = 6, 9  # rows and columns of an interpolation strip


def load(
    run: str | Path | Run = "latest",
    outputs: str | Path = "outputs",
    trust: bool | Sequence[str] = False,
    overrides: Sequence[str] = (),
    checkpoint: str | int = "latest",
    links: bool = False,
) -> Pipeline:
    """The pipeline of a trained run: `genlab.load("outputs/...").sample(16)`.

    run: path, id, latest, or what `genlab.train` returned; overrides: of sampler, guidance and
    hardware, as on a command line; checkpoint: latest (the newest valid one), best, or the images
    it had seen; trust: allow its config to import code from outside genlab (True), or those of
    runs that it names (their paths); links: follow links of one's own to folders. Raises a
    GenlabError.
    """
    found = run if isinstance(run, Run) else find_trained(str(run), outputs)
    found.check_links(links)
    place = {"outputs": str(found.path.parent.parent)}  # where it lies now
    config = _with(found.config, overrides) | place
    if problems := validate(config):
        raise ConfigError(*problems)
    saved = Checkpoints(found.path / "checkpoints").find(checkpoint)
    if saved is None:
        raise CheckpointError(no_checkpoint(found))
    how = {"trust": trusted(found.path, trust, first=True), "trust_runs": trusted_runs(trust)}
    return Pipeline(build(config, **how, run=found.path), saved, how)


class Pipeline(TensorPipeline):
    """Draws, encodes, decodes and measures with a model, at given weights.

    `genlab.load` makes one of a saved run. One of components alone works with the model as it
    stands, so a training looks at itself through it. What takes and gives arrays or images does so
    in batches; tensors are the business of its base class.
    """

    def __init__(
        self,
        components: Components,
        checkpoint: Checkpoint | None = None,
        trust: Mapping[str, Any] | None = None,
    ) -> None:
        """checkpoint: whose weights are loaded; None leaves those that the model has.

        trust: `trust` and `trust_runs` as `build` takes them, for samplers that are chosen later.
        """
        super().__init__(components, checkpoint)
        self._trust: Mapping[str, Any] = trust or {}
        self._varied: tuple[tuple[str, ...], Pipeline] | None = None

    def __repr__(self) -> str:
        """What it is: run, model, data, shape, classes, checkpoint."""
        config, saved = self.config, self.checkpoint
        of = {"run": self.run.id} if saved else {}
        of |= {key: config[key]["name"] for key in ("model", "data")}
        of |= {"draws": list(self.output_shape), "classes": self.classes}
        of |= {"images_seen": saved.images, "path": str(self.run.path)} if saved else {}
        return f"Pipeline({', '.join(f'{k}={v!r}' for k, v in of.items())})"

    def varied(
        self,
        *words: str,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | str | None = None,
    ) -> Pipeline:
        """The same model at the same weights with another sampler or guidance.

        words: as on a command line, `sampler.churn=40`; steps: sampler.steps; sampler: its name;
        guidance: guidance.scale, or its name. Raises ConfigError for what the run has not or the
        model cannot do.
        """
        named = {"sampler": sampler, "sampler.steps": steps}
        named["guidance" if isinstance(guidance, str) else "guidance.scale"] = guidance
        given = (*(f"{k}={v}" for k, v in named.items() if v is not None), *words)
        if not given:
            return self
        if self._varied is None or self._varied[0] != given:
            config = _with(self.config, given, OF_MODEL)
            if problems := validate(config):
                raise ConfigError(*problems)
            run = self.checkpoint.run if self.checkpoint else None
            other = copy(self)
            other.components = with_other_sampler(self.components, config, **self._trust, run=run)
            other.config, other.sampler = config, other.components.sampler
            other._varied = None
            self._varied = given, other
        return self._varied[1]

    # --- arrays, in batches --------------------------------------------------------------------

    def labels(self, n: int, asked: int | Sequence[int] | None = None) -> list[int] | None:
        """n labels: `asked` repeated, or all classes in turn; None without classes."""
        k = self.spec.classes
        if isinstance(asked, np.ndarray | np.integer | Tensor):
            asked = asked.tolist()
        _check(labels=asked if asked is None or isinstance(asked, int) else list(asked))
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
        labels: int | Sequence[int] | None = None,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | str | None = None,
        overrides: Sequence[str] = (),
        seed: int = 0,
        batch: int = 64,
        weights: str | float = "ema",
        output: Output = "array",
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """uint8 [n, C, H, W] images (or float32 [n, 2] points); output="pil": n Pillow images.

        labels: a class or a list that is repeated, else all in turn. steps, sampler, guidance,
        overrides: for this call, as of `varied`. weights: ema, raw, or the std of an average.

        Image i is a function of (seed, i, its label) alone, not of n or batch; convolutions may
        differ in the last bit between batch sizes, which is at most one grey level.
        """
        self.require(Generates)
        _check(n=n, batch=batch, seed=seed)
        check_output(output, self.output_shape)
        how = self.varied(*overrides, steps=steps, sampler=sampler, guidance=guidance)
        y = self.labels(n, labels)
        parts = []
        for start in range(0, n, batch):
            stop = min(n, start + batch)
            part = None if y is None else y[start:stop]
            parts.append(how.draw(part, seed, range(start, stop), weights).numpy())
            if progress:
                progress(stop)
        return handed_out(np.concatenate(parts), output)

    def reconstruct(
        self,
        images: Images,
        *,
        batch: int = 64,
        weights: str | float = "ema",
        output: Output = "array",
    ) -> tuple[NDArray[Any], Any]:
        """Images -> (their codes, int64 [n, h, w] of a VQ-VAE; copies uint8 [n, C, H, W]).

        images: uint8 [n, C, H, W], or n Pillow images; output="pil": the copies as such. Raises
        ConfigError for a model that does not reconstruct and for images of another shape.
        """
        self.require(Reconstructs)
        check_output(output, self.data.spec.shape)
        u = as_tensor(images, self.data.spec.shape)
        codes = [self.encode(part, weights) for part in u.split(batch)]
        copies = [self.decode(part, weights) for part in codes]
        return torch.cat(codes).numpy(), handed_out(torch.cat(copies).numpy(), output)

    def log_prob(
        self,
        images: Images,
        labels: int | Sequence[int] | None = None,
        *,
        seed: int = 0,
        batch: int = 64,
        weights: str | float = "ema",
    ) -> NDArray[np.float64]:
        """Images -> log p of the bytes they are stored as, float64 [n], in nats.

        images: as of `reconstruct`, or float [n, 2] points. labels: that they take in turn; None
        asks for the density without labels. Where it is an estimate, or of dequantized bytes, its
        noise is a function of (seed, number of the image). Divided by -ln 2 and the numbers of an
        image it is bits per dimension. Raises ConfigError for a model without a density, and
        DeviceError where the package that integrates it is missing.
        """
        self.require(HasLikelihood)
        _check(batch=batch, seed=seed)
        self.likelihood()
        if labels is None and self.classes and not self.model.label_dropout:
            raise ConfigError("labels= is needed: this run knows no density without a label")
        u = as_tensor(images, self.data.spec.shape)
        y = None if labels is None else torch.tensor(self.labels(len(u), labels))
        found = []
        for i in range(0, len(u), batch):
            part = u[i : i + batch]
            at = None if y is None else y[i : i + batch]
            found.append(self.nats(part, at, seed, range(i, i + len(part)), weights))
        return torch.cat(found).numpy()

    def edit(
        self,
        images: Images,
        task: Task = "edit",
        *,
        mask: NDArray[np.bool_] | None = None,
        strength: float | None = None,
        variants: int = 1,
        labels: int | Sequence[int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | str | None = None,
        overrides: Sequence[str] = (),
        seed: int = 0,
        batch: int = 64,
        weights: str | float = "ema",
        output: Output = "array",
        first: int = 0,
    ) -> tuple[Any, Any]:
        """uint8 [n, C, H, W] -> (edits [n, variants, C, H, W], known [n, C, H, W]), uint8 too.

        images may also be n Pillow images; output="pil" gives n lists of edits, and a list of what
        was known. steps, sampler, guidance, overrides: for this call, as of `varied`.

        task: inpaint (what lies inside the mask), colourise, or edit: to the noise and back, see
        `ImageEditor`. mask: [H, W], True where it shall draw. strength: of edit, the share of
        noise it starts from, in (0, 1]. labels: which the images take in turn. Known is what the
        sampler begins with: the rest of the image, its grey, or the image with its noise.

        Variant k of image i is a function of (seed, (first + i) variants + k, image, label) alone:
        `first` is the number of the first of `images` where they come in parts. Raises ConfigError
        for a run or options that allow no such edit, DataError for a mask that does not fit.
        """
        _check(task=task, strength=strength, variants=variants, batch=batch, seed=seed)
        check_output(output, self.output_shape)
        how = self.varied(*overrides, steps=steps, sampler=sampler, guidance=guidance)
        editor = ImageEditor(how.components, task, mask=mask, strength=strength, labels=labels)
        u, device = as_tensor(images, how.output_shape), self.hardware.device
        y = None if labels is None else torch.tensor(self.labels(first + len(u), labels))
        edits, known = [], []
        for part in u.split(max(1, batch // variants)):
            stop = first + len(part)
            noise = SampleNoise(seed, range(first * variants, stop * variants), device)
            part = part.to(device).repeat_interleave(variants, 0)
            at = None if y is None else y[first:stop].to(device).repeat_interleave(variants)
            with torch.inference_mode(), self.using(weights):
                drawn, seen = editor(part, how.start(noise), at, noise)
            edits.append(drawn.unflatten(0, (-1, variants)).cpu())
            known.append(seen[::variants].cpu())
            first = stop
        return tuple(handed_out(torch.cat(u).numpy(), output) for u in (edits, known))

    def require(
        self, capability: type[Generates] | type[Reconstructs] | type[HasLikelihood]
    ) -> None:
        """ConfigError with what to do instead, for a model without a capability."""
        if isinstance(self.model, capability):
            return
        name = repr(self.config["model"]["name"])
        if capability is HasLikelihood:
            raise ConfigError(f"model {name} has no density; flows and models of a path have one")
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


def _check(**given: Any) -> None:
    """ConfigError for values that the keys of `genlab sample` do not take."""
    takes = {**KEYS["sample"], "n": "Count"}
    if problems := schema.mistyped(given, {key: takes[key] for key in given}):
        raise ConfigError(*problems)


def _with(
    config: Mapping[str, Any], words: Sequence[str], groups: Sequence[str] = OF_RUN
) -> dict[str, Any]:
    """The run's config with another sampler or guidance, or hardware where it is loaded."""

    def refusal(key: str, was: Any, value: Any) -> str:
        group = key.partition(".")[0]
        if group in groups or (key == "data.root" and groups == OF_RUN):
            return ""
        if group in OF_RUN or key == "data.root":
            return f"{key} is chosen when a run is loaded: genlab.load(..., overrides=[...])"
        return (
            f"{key}: sampling can change sampler, guidance, hardware and data.root; "
            "the rest belongs to the run"
        )

    return apply(config, words, groups, refusal)
