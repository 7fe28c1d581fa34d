"""What an evaluation is of: a run at a checkpoint, or a folder of images, and its reference."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.core import dist, registry
from genlab.core.console import log
from genlab.core.contract import Dataset, Generates, HasLikelihood, Reconstructs, Spec
from genlab.core.ema import EMA
from genlab.core.errors import ConfigError, DataError, DeviceError
from genlab.core.metric import Pairs
from genlab.data.source import iter_images
from genlab.evaluation.cache import digest
from genlab.evaluation.streams import Reference, Subject, choose
from genlab.hardware.hardware import Hardware
from genlab.run.directory import Run, find_run
from genlab.run.environment import environment
from genlab.sampling.pipeline import Pipeline, load

__all__ = [
    "Case",
    "enlarged",
    "of_built",
    "of_folder",
    "of_images",
    "of_run",
    "read_images",
    "reference",
    "size_of",
    "told_of",
]


def of_built(
    pipeline: Pipeline,
    name: str,
    n: int,
    seed: int,
    weights: str | float = "ema",
    of: Literal["auto", "samples", "reconstructions"] = "auto",
) -> Subject:
    """A model as it stands. name: of its data, in words; n: samples, and held-out images at most.

    Raises ConfigError where it has no samples or reconstructions.
    """
    model, data = pipeline.model, pipeline.data
    draws, copies = isinstance(model, Generates), isinstance(model, Reconstructs)
    if of == "samples" and not draws:
        raise ConfigError("of=samples: this model draws none; use of=reconstructions")
    if of == "reconstructions" and not copies:
        raise ConfigError("of=reconstructions: this model has no encoder; use of=samples")
    samples = draws and of != "reconstructions"
    held, labels, _ = data.load("test")
    total, whole = len(held), digest(held)[:12]
    held = choose(held, n)
    labels = None if labels is None or pipeline.spec.classes is None else choose(labels, n)
    classes = pipeline.spec.classes

    def draw(part: range) -> Tensor:
        y = None if classes is None else [i % classes for i in part]
        return pipeline.draw(y, seed, part, weights)

    def pairs(part: range) -> Pairs:
        originals = held[part.start : part.stop].contiguous()
        codes = pipeline.encode(originals, weights)
        return Pairs(originals, pipeline.decode(codes, weights), codes)

    def bits(part: range) -> Tensor:
        y = None if labels is None else labels[part.start : part.stop]
        return pipeline.bits_per_dim(held[part.start : part.stop], y, seed, part, weights)

    likelihood, silent = _likelihood(pipeline)
    return Subject(
        n=n if samples else len(held),
        held_out=len(held),
        draw=draw if samples else None,
        pairs=pairs if copies else None,
        bits=bits if likelihood else None,
        training=lambda: data.load("train").x,
        codes=model.codebook_size if copies else None,
        of="samples" if samples else "reconstructions",
        held_out_set=f"{name} test {whole}, {len(held)} of {total}",
        data=name,
        density=_density(pipeline),
        likelihood=likelihood,
        silent=silent,
    )


def _likelihood(pipeline: Pipeline) -> tuple[str, str]:
    """How the likelihood of a model is found, and why there is none; one of them is empty."""
    model, codec = pipeline.model, pipeline.codec
    if not isinstance(model, HasLikelihood):
        return "", ""
    if not model.discrete_likelihood and codec.logdet(torch.zeros(1, *codec.spec.shape)) is None:
        return "", f"codec={codec.name} gives images no density; train with codec=dequantize"
    try:
        return model.likelihood(), ""
    except DeviceError as e:
        return "", str(e)


def _density(pipeline: Pipeline) -> str:
    """Of which numbers a likelihood is: fewer bits are easier to predict.

    A bound of the bytes themselves is not ranked with densities of dequantized ones.
    """
    if pipeline.model.discrete_likelihood:
        return "bytes"
    codec = pipeline.codec
    return codec.name + (f" {codec.bits} bits" if codec.bits else "")


def of_images(images: Tensor, name: str, training: Callable[[], Tensor] | None) -> Subject:
    """Given images uint8 [n, C, H, W]; training: what their model learned from, if known.

    name: of that, or of the kind of images, in words.
    """
    return Subject(
        n=len(images), held_out=0, training=training, of="images", data=name, given=images
    )


def reference(data: Dataset, name: str, split: str, n: int | None) -> Reference:
    """n images of a split, all for None, always the same ones."""
    images = data.load(split).x
    return Reference(f"{name} {split}", choose(images, n).contiguous(), len(images))


def read_images(place: str, key: str, size: int | None, channels: int | None) -> Tensor:
    """uint8 [N, C, H, W] of all images of a folder, .zip or .npy, in the order of names.

    key: fake or real, for messages. size: side they are resampled to, None as they are, which
    must be of one size. channels: 1 or 3, None as stored (3 for files). Raises DataError.
    """
    path = Path(os.path.expanduser(place))
    if not path.exists():
        raise DataError(f"{key}={place} is not there; give a folder, a .zip or a .npy of images")
    images: list[Tensor] = []
    first = ""
    done: Counter[str] = Counter()
    for name, image, words in iter_images(str(path), channels, size):
        if image is None:
            reason = ", ".join(words)
            raise DataError(f"{key}={place}: {name} is corrupt ({reason}); replace or remove it")
        first = first or name
        if images and image.shape != images[0].shape:
            (h, w), (h2, w2) = images[0].shape[1:], image.shape[1:]
            raise DataError(
                f"{key}={place} mixes sizes: {first} has {w} x {h} pixels, {name} has "
                f"{w2} x {h2}; add size={min(h, w)} (or another side) to crop and resize all"
            )
        images.append(image)
        done.update(words)
    if done and dist.rank() == 0:
        log(f"{key}={place}: {', '.join(f'{n:,} {what}' for what, n in sorted(done.items()))}")
    return torch.stack(images)


SAMPLES = {"cpu": 2_000, "cuda": 50_000}


@dataclass
class Case:
    """What is judged, with what it is compared, on what machine.

    title: in words. told: the subject as the record has it. spec: of the stored data. home:
    folder of evaluations. key: whatever else the samples depend on.
    """

    title: str
    subject: Subject
    told: dict[str, Any]
    real: Reference
    spec: Spec
    hardware: Hardware
    home: Path
    key: str
    run: Path | None = None  # directory of the run
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def streams(self) -> Path:
        """Where the samples and their features are kept: another place for other samples."""
        text = json.dumps([self.told, self.key], sort_keys=True, default=str)
        return self.home / f".streams-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def of_run(asked: Mapping[str, Any], others: Sequence[str], trust: bool) -> Case:
    """A run at one of its checkpoints. others: overrides of its sampler, guidance, hardware."""
    run = find_run(str(asked["run"]), asked["outputs"])
    pipeline = load(run.path, trust=trust, overrides=others, checkpoint=asked["checkpoint"])
    config, checkpoint = pipeline.config, pipeline.checkpoint
    assert checkpoint is not None
    dist.start(pipeline.hardware.device)
    if dist.rank() == 0 and not run.status.startswith("done"):
        state = "still training" if run.status == "running" else run.status
        log(f"{run.title} is {state}; its checkpoint at image {checkpoint.images:,} is judged")
    made = pipeline.post_hoc_ema(asked["weights"])
    if made is not None and dist.rank() == 0:
        log(str(made))
    name = f"{config['data']['name']} {size_of(pipeline.data.spec)}"
    n = _samples(asked["n"], pipeline.hardware)
    if asked["real"] is None and (problem := enlarged(pipeline)):
        raise DataError(problem)
    spec = _drawn(pipeline)
    subject = of_built(pipeline, name, n, asked["seed"], asked["weights"], asked["of"])
    told = told_of(
        run, config, pipeline, subject, asked["weights"], asked["seed"], checkpoint.images
    )
    told["batch"] = asked["batch"]
    env = environment(pipeline.hardware, pipeline.data)
    machine = [pipeline.hardware.precision, pipeline.hardware.device.type]
    machine += [env[key] for key in ("attention", "genlab", "git")]
    kept = made.moments if made else ()  # those at hand may change, and the average with them
    return Case(
        title=pipeline.title,
        subject=subject,
        told=told,
        real=_reference(asked, pipeline.data, name, spec, pipeline.hardware, n, subject.of),
        spec=spec,
        hardware=pipeline.hardware,
        home=run.path / "eval",
        key=" ".join([checkpoint.digest, subject.held_out_set, *map(str, [*machine, *kept])]),
        run=run.path,
        environment=env,
    )


def told_of(
    run: Run,
    config: Mapping[str, Any],
    pipeline: Pipeline,
    subject: Subject,
    weights: str | float,
    seed: int,
    checkpoint: int,
) -> dict[str, Any]:
    """What is judged, for the record: all that two numbers of one protocol may differ in."""
    averaged = any(isinstance(m, EMA) for m in pipeline.model.modules())
    told: dict[str, Any] = {
        "run": run.title,
        "id": run.id,
        "of": subject.of,
        "checkpoint": checkpoint,
        "weights": weights if averaged else "raw",
        "seed": seed,
    }
    if (made := pipeline.post_hoc_ema(weights)) is not None:
        told["residual"] = made.residual
    if subject.likelihood:
        told["likelihood"] = subject.likelihood
    if subject.of == "samples":
        told["sampler"] = config["sampler"]
        if config["guidance"].get("name") is not None:
            told["guidance"] = config["guidance"]
        if pipeline.reference is not None:
            told["reference"] = pipeline.reference.record()
        told["temperature"] = pipeline.sampler.temperature
        told["evaluations"] = _evaluations(pipeline)
    return told


def of_folder(asked: Mapping[str, Any]) -> Case:
    """The images of fake=, beside those of real= or data=."""
    hardware: Hardware = registry.build("hardware", asked["hardware"])
    hardware.start()
    dist.start(hardware.device)
    node = asked.get("data")
    data: Dataset | None = None
    channels: int | None = None
    if node is not None:
        data = registry.build("data", node, root=node["root"])
        channels = data.spec.shape[0]
        if len(data.spec.shape) != 3:
            raise DataError(
                f"data={node['name']} are no images; fake= images need a set of images"
            )
    images = read_images(asked["fake"], "fake", asked["size"], channels)
    images = choose(images, None if asked["n"] == "auto" else asked["n"]).contiguous()
    spec = Spec(tuple(images.shape[1:]))
    name = f"{node['name']} {size_of(data.spec)}" if node and data else f"images {size_of(spec)}"
    training = (lambda: data.load("train").x) if data is not None else None
    subject = of_images(images, name, training)
    real = _reference(asked, data, name, spec, hardware, len(images), "images")
    title = str(asked["fake"])
    told = {"folder": title, "of": "images", "images": len(images), "seed": asked["seed"]}
    told["digest"] = digest(images)[:12]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(title).name)[:60] or "images"
    return Case(
        title=title,
        subject=subject,
        told=told,
        real=real,
        spec=spec,
        hardware=hardware,
        home=Path(asked["outputs"]) / "eval" / slug,
        key="",
        environment=environment(hardware, data),
    )


def _samples(asked: int | str, hardware: Hardware) -> int:
    """How many samples n=auto means on this device."""
    return SAMPLES.get(hardware.device.type, SAMPLES["cuda"]) if asked == "auto" else int(asked)


def _reference(
    asked: Mapping[str, Any],
    data: Dataset | None,
    name: str,
    spec: Spec,
    hardware: Hardware,
    n: int,
    of: str,
) -> Reference:
    many = asked["n_real"]
    if asked["real"] is not None:
        if len(spec.shape) != 3:
            raise DataError("real= is of images; points are compared with those of their own set")
        images = read_images(asked["real"], "real", asked["size"], spec.shape[0])
        if tuple(images.shape[1:]) != spec.shape:
            raise DataError(_apart(spec, Spec(tuple(images.shape[1:])), "real="))
        chosen = choose(images, None if many in ("auto", "all") else many).contiguous()
        return Reference(str(asked["real"]), chosen, len(images))
    assert data is not None
    if data.spec.shape != spec.shape:
        raise DataError(_apart(spec, data.spec, f"data={name}"))
    split = asked["split"]
    if split == "auto":
        split = "test" if of == "reconstructions" else "train"
    if many == "auto":
        many = n if hardware.device.type == "cpu" else "all"
    return reference(data, name, split, None if many == "all" else many)


def _apart(judged: Spec, real: Spec, which: str) -> str:
    """The sentence for images of two sizes: a feature network would not mind, the number would."""
    side = min((real if which.startswith("data") else judged).shape[1:])
    return (
        f"what is judged is {size_of(judged)}, the reference {which} is {size_of(real)}; add "
        f"size={side} to resample images that are given"
    )


def _drawn(pipeline: Pipeline) -> Spec:
    """Of what is judged, as stored: guidance may draw at another size than that of training."""
    resized = pipeline.output_shape != pipeline.spec.shape
    spec = pipeline.data.spec
    return replace(spec, shape=pipeline.output_shape) if resized else spec


def enlarged(pipeline: Pipeline) -> str:
    """The sentence for samples of another size than the data; "" where they are of one."""
    drawn = _drawn(pipeline)
    if drawn.shape == pipeline.data.spec.shape:
        return ""
    return (
        f"guidance draws {size_of(drawn)} and the data are {size_of(pipeline.data.spec)}, which "
        f"no metric compares; use another guidance, or genlab eval with real=<images> "
        f"size={drawn.shape[1]}"
    )


def _evaluations(pipeline: Pipeline) -> int | float:
    """Network evaluations a sample costs, counted on one."""
    if not pipeline.sampler.follows_path:
        return 1
    pipeline.sampler.recount()
    pipeline.draw([0] if pipeline.spec.classes else None, 0, [0])
    return pipeline.sampler.evaluations


def size_of(spec: Spec) -> str:
    """HxWxC of images, the number of coordinates of points."""
    if len(spec.shape) == 1:
        return f"{spec.shape[0]}-D"
    return "x".join(str(n) for n in (*spec.shape[1:], spec.shape[0]))
