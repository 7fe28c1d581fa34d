"""`genlab sample`: draws, edits or reconstructs images by a trained run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from genlab.config.compose import compose, split_options
from genlab.config.keys import KEYS
from genlab.core.console import log
from genlab.core.contract import Generates, Reconstructs
from genlab.core.errors import ConfigError
from genlab.core.files import disk, remove_leftovers
from genlab.core.format import clean
from genlab.run import pictures
from genlab.run.directory import Run
from genlab.sampling.drawing import drawing, stoppable
from genlab.sampling.from_images import write_edits, write_reconstructions
from genlab.sampling.kept_samples import KeptSamples, read_record, same
from genlab.sampling.pipeline import STEPS, Pipeline, load
from genlab.sampling.trained_run import find_trained, say_state

__all__ = ["main"]

SAMPLES = 64  # or images of from= that are edited, unless n= says how many
FRAMES = 40  # most frames of an animation
STAMP = re.compile(r"\d{8}-\d{6}(-\d+)?")


def main(words: Sequence[str], answer: dict[str, Any] | None = None) -> int:
    """Draws samples of a run into <run>/samples/<name>/ and says where; returns 0.

    With from= it reconstructs the images there instead, with task= too it edits them. answer:
    gets the run, what was written and how it was made.
    """
    options, rest = split_options(words)
    own, others = [], []
    for word in rest:
        (own if word.partition("=")[0] in KEYS["sample"] else others).append(word)
    asked = compose(own, primary="sample")
    trust, links = options.get("trust", False), "links" in options.get("allow", [])
    _check_given(asked)
    reconstructs = asked["from"] is not None and asked["task"] is None
    asked["n"] = asked["n"] or (None if reconstructs else SAMPLES)
    run = find_trained(str(asked["run"]), asked["outputs"], draws=not reconstructs)
    which = {"checkpoint": asked["checkpoint"], "overrides": others}
    pipeline = load(run.path, trust=trust, links=links, **which)
    assert pipeline.checkpoint is not None
    say_state(run, pipeline.checkpoint.images)
    pipeline.require(Reconstructs if reconstructs else Generates)
    if asked["animate"] and not pipeline.sampler.follows_path:
        pipeline.trajectory(1)  # raises before anything is drawn
    pipeline.labels(1, asked["labels"])  # wrong ones make no folder
    if (made := pipeline.post_hoc_ema(asked["weights"])) is not None:
        print(made)
    remove_leftovers(pipeline.run.path)
    folder = _folder(pipeline, asked)
    if asked["from"] and Path(asked["from"]).expanduser().resolve().is_relative_to(
        folder.resolve()
    ):
        raise ConfigError(f"from= lies in {folder}, where what is made goes; choose another name=")
    again = _again(words, pipeline.run, folder)
    with disk("write samples to", folder):
        if asked["from"] is not None:
            write = write_edits if asked["task"] else write_reconstructions
            write(pipeline, asked, folder, again)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            _write(pipeline, asked, folder, again)
    if answer is not None:
        files = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
        answer |= {"run": pipeline.run.id, "path": str(folder), "files": files}
        answer |= {"run_path": str(pipeline.run.path), "record": read_record(folder)}
    return 0


def _folder(pipeline: Pipeline, asked: Mapping[str, Any]) -> Path:
    """Where samples go: to the folder of a name; without one, to that of the same command if it
    was stopped, else to a new one of this second."""
    samples = pipeline.run.path / "samples"
    if asked["name"] is not None:
        return samples / _slug(asked["name"])
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if asked["from"] is None and samples.is_dir():
        how = _how(pipeline, asked)
        for folder in sorted(
            (p for p in samples.iterdir() if STAMP.fullmatch(p.name)), reverse=True
        ):
            record = read_record(folder)
            if "drawn" in record and record.get("n") == asked["n"] and same(record, how):
                return folder
    names = (f"{stamp}-{i}" if i else stamp for i in count())
    return next(folder for name in names if not (folder := samples / name).exists())


def _again(words: Sequence[str], run: Run, folder: Path) -> str:
    """The command that goes on in this folder."""
    other = [w for w in words if w.partition("=")[0] not in ("run", "outputs", "name")]
    again = ["genlab", "sample", f"run={run.reference}", *other, f"name={folder.name}"]
    return shlex.join(again)


def _check_given(asked: Mapping[str, Any]) -> None:
    """ConfigError for options of given images that do not go together."""
    task, given = asked["task"], asked["from"]
    if given is not None and (asked["animate"] or asked["interpolate"]):
        does = "edits" if task else "reconstructs"
        raise ConfigError(f"from= {does} images; it goes with neither animate nor interpolate")
    if task is not None and given is None:
        raise ConfigError(f"task={task} needs from=<image, folder or .zip> of images")
    if task is None and (stray := [k for k in ("mask", "strength") if asked[k] is not None]):
        raise ConfigError(f"{stray[0]}= is of task=inpaint or edit; name the task")


def _write(pipeline: Pipeline, asked: Mapping[str, Any], folder: Path, again: str) -> None:
    """Draws the samples that the folder lacks, then pictures of them."""
    seed, weights = asked["seed"], asked["weights"]
    points = len(pipeline.output_shape) == 1
    save = "npy" if points and asked["save"] == "png" else asked["save"]
    kept = KeptSamples(folder, _how(pipeline, asked), asked["n"], save)
    if kept.drawn:
        log(f"{kept.drawn:,} of {kept.n:,} samples are there")
    with stoppable(lambda: f"{kept.state()}: {again}"):
        try:
            _draw(pipeline, asked, kept)
        finally:
            kept.finish()
        if asked["interpolate"]:
            label = asked["labels"] if isinstance(asked["labels"], int) else None
            rows = pipeline.interpolate(seed=seed, weights=weights, label=label)
            strips = rows.ndim == 4
            picture = pictures.grid(rows, columns=STEPS) if strips else pictures.sheet(rows)
            pictures.save(picture, folder / "interpolation.png")
        if asked["animate"]:
            states = pipeline.trajectory(
                min(kept.n, 64), labels=asked["labels"], seed=seed, weights=weights
            )
            pick = sorted({round(i * (len(states) - 1) / (FRAMES - 1)) for i in range(FRAMES)})
            frames = [pictures.sheet(states[i]) for i in pick]
            pictures.animation(frames, folder / "trajectory.png")
    print(f"{kept.n:,} samples of {pipeline.title}: {clean(str(folder))}")


def _draw(pipeline: Pipeline, asked: Mapping[str, Any], kept: KeptSamples) -> None:
    """Draws what is missing, batch by batch."""
    labels, sampler = pipeline.labels(kept.n, asked["labels"]), pipeline.sampler
    sampler.recount()
    with drawing("samples", kept.n - kept.drawn, sampler) as batches:
        for rows in kept.missing(asked["batch"]):
            y = None if labels is None else labels[rows.start : rows.stop]
            with batches.batch(len(kept.lacking(rows))):
                samples = pipeline.draw(y, asked["seed"], rows, asked["weights"]).numpy()
            kept.keep(samples, rows, sampler.evaluations)


def _how(pipeline: Pipeline, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All that samples depend on, for the record."""
    made, hardware = pipeline.post_hoc_ema(asked["weights"]), pipeline.hardware
    return {
        **{k: asked[k] for k in ("batch", "seed", "labels", "weights")},
        **({"residual": made.residual} if made else {}),
        **pipeline.record(),
        "device": hardware.device.type,
        "precision": hardware.precision,
        "attention": hardware.attention_backend,
    }


def _slug(name: str) -> str:
    """A folder name that stays inside its folder."""
    if not name or name in (".", "..") or name == "train" or any(c in name for c in "/\\\0"):
        raise ConfigError(f"name={name!r} must be a plain folder name, and not train")
    return name[:100]
