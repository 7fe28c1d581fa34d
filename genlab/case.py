"""What an evaluation is of: a run at a checkpoint, or a folder of images, and its reference."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genlab import dist, registry
from genlab.build import Built
from genlab.contract import Dataset, Denoises, Spec
from genlab.environment import environment
from genlab.errors import DataError
from genlab.extract import digest
from genlab.gather import Reference, Subject, choose
from genlab.hardware.auto import Hardware
from genlab.loaded import Loaded
from genlab.nn.shadow import Shadow
from genlab.progress import say
from genlab.run.directory import Run, find_run
from genlab.subject import of_built, of_images, read_images, reference

__all__ = ["Case", "enlarged", "of_folder", "of_run", "size_of", "told_of"]

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
    loaded = Loaded(run, trust, others, asked["checkpoint"])
    built, config = loaded.built, loaded.config
    dist.start(built.hardware.device)
    if dist.rank() == 0 and not run.status.startswith("done"):
        state = "still training" if run.status == "running" else run.status
        say(
            f"{run.title} is {state}; its checkpoint at image {int(loaded.checkpoint):,} is judged"
        )
    made = built.rebuilt(asked["weights"])
    if made is not None and dist.rank() == 0:
        say(str(made))
    name = f"{config['data']['name']} {size_of(built.data.spec)}"
    n = _samples(asked["n"], built.hardware)
    if asked["real"] is None and (problem := enlarged(built)):
        raise DataError(problem)
    spec = _drawn(built)
    subject = of_built(built, name, n, asked["seed"], asked["weights"], asked["of"])
    told = told_of(
        run, config, built, subject, asked["weights"], asked["seed"], int(loaded.checkpoint)
    )
    told["batch"] = asked["batch"]
    env = environment(built.hardware, built.data)
    machine = [built.hardware.precision, built.hardware.device.type]
    machine += [env[key] for key in ("attention", "genlab", "git")]
    kept = made.moments if made else ()  # those at hand may change, and the average with them
    return Case(
        title=f"{run.title} at image {int(loaded.checkpoint):,}",
        subject=subject,
        told=told,
        real=_reference(asked, built.data, name, spec, built.hardware, n, subject.of),
        spec=spec,
        hardware=built.hardware,
        home=run.path / "eval",
        key=" ".join([loaded.saved, subject.held_out_set, *map(str, [*machine, *kept])]),
        run=run.path,
        environment=env,
    )


def told_of(
    run: Run,
    config: Mapping[str, Any],
    built: Built,
    subject: Subject,
    weights: str | float,
    seed: int,
    checkpoint: int,
) -> dict[str, Any]:
    """What is judged, for the record: all that two numbers of one protocol may differ in."""
    averaged = any(isinstance(m, Shadow) for m in built.model.modules())
    told: dict[str, Any] = {
        "run": run.title,
        "id": run.id,
        "of": subject.of,
        "checkpoint": checkpoint,
        "weights": weights if averaged else "raw",
        "seed": seed,
    }
    if (made := built.rebuilt(weights)) is not None:
        told["residual"] = made.residual
    if subject.likelihood:
        told["likelihood"] = subject.likelihood
    if subject.of == "samples":
        told["sampler"] = config["sampler"]
        if config["guidance"].get("name") is not None:
            told["guidance"] = config["guidance"]
        if built.reference is not None:
            told["reference"] = built.reference.record()
        told["temperature"] = built.solver.temperature
        told["evaluations"] = _evaluations(built)
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
    training = (lambda: data.load("train")[0]) if data is not None else None
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


def _drawn(built: Built) -> Spec:
    """Of what is judged, as stored: guidance may draw at another size than that of training."""
    resized = built.canvas != built.spec.shape
    return replace(built.data.spec, shape=built.canvas) if resized else built.data.spec


def enlarged(built: Built) -> str:
    """The sentence for samples of another size than the data; "" where they are of one."""
    drawn = _drawn(built)
    if drawn.shape == built.data.spec.shape:
        return ""
    return (
        f"guidance draws {size_of(drawn)} and the data are {size_of(built.data.spec)}, which no "
        f"metric compares; use another guidance, or genlab eval with real=<images> "
        f"size={drawn.shape[1]}"
    )


def _evaluations(built: Built) -> int | float:
    """Network evaluations a sample costs, counted on one."""
    if not isinstance(built.model, Denoises):
        return 1
    built.solver.recount()
    built.draw([0] if built.spec.classes else None, 0, [0])
    return built.solver.evaluations


def size_of(spec: Spec) -> str:
    """HxWxC of images, the number of coordinates of points."""
    if len(spec.shape) == 1:
        return f"{spec.shape[0]}-D"
    return "x".join(str(n) for n in (*spec.shape[1:], spec.shape[0]))
