"""`genlab sample`: draws, edits or reconstructs images by a trained run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from genlab.config.compose import compose, split_options
from genlab.config.keys import KEYS
from genlab.core.contract import Generates, Reconstructs
from genlab.core.errors import ConfigError
from genlab.core.files import disk, remove_leftovers, write_text
from genlab.core.format import clean
from genlab.run import pictures
from genlab.sampling.from_images import write_edits, write_reconstructions
from genlab.sampling.pipeline import STEPS, Pipeline, load

__all__ = ["main"]

FRAMES = 40  # most frames of an animation


def main(words: Sequence[str]) -> int:
    """Draws samples of a run into <run>/samples/<name>/ and says where; returns 0.

    With from= it reconstructs the images there instead, with task= too it edits them.
    """
    options, rest = split_options(words)
    own, others = [], []
    for word in rest:
        (own if word.partition("=")[0] in KEYS["sample"] else others).append(word)
    asked = compose(own, primary="sample")
    trust, links = options.get("trust", False), "links" in options.get("allow", [])
    pipeline = load(asked["run"], asked["outputs"], trust, others, links=links)
    _check_given(asked)
    pipeline.require(Reconstructs if asked["from"] and not asked["task"] else Generates)
    if asked["animate"] and not pipeline.sampler.follows_path:
        pipeline.trajectory(1)  # raises before anything is drawn
    pipeline.labels(asked["n"], asked["labels"])  # wrong ones make no folder
    if (made := pipeline.post_hoc_ema(asked["weights"])) is not None:
        print(made)
    remove_leftovers(pipeline.run.path)
    folder = pipeline.run.path / "samples" / _slug(asked["name"])
    with disk("write samples to", folder):
        if asked["from"] is not None:
            write = write_edits if asked["task"] else write_reconstructions
            write(pipeline, asked, folder)
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        _write(pipeline, asked, folder)
    return 0


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


def _write(pipeline: Pipeline, asked: Mapping[str, Any], folder: Path) -> None:
    n, seed, weights = asked["n"], asked["seed"], asked["weights"]
    pipeline.sampler.recount()
    samples = pipeline.sample(
        n, labels=asked["labels"], seed=seed, batch=asked["batch"], weights=weights
    )
    evaluations = pipeline.sampler.evaluations
    if asked["save"] == "npy" or (asked["save"] == "png" and samples.ndim == 2):
        np.save(folder / "samples.npy", samples, allow_pickle=False)
    elif asked["save"] == "png":
        pictures.save_each(samples, folder)
    pictures.save(pictures.sheet(samples[:256]), folder / "grid.png")
    if asked["interpolate"]:
        label = asked["labels"] if isinstance(asked["labels"], int) else None
        rows = pipeline.interpolate(seed=seed, weights=weights, label=label)
        picture = pictures.grid(rows, columns=STEPS) if rows.ndim == 4 else pictures.sheet(rows)
        pictures.save(picture, folder / "interpolation.png")
    if asked["animate"]:
        states = pipeline.trajectory(
            min(n, 64), labels=asked["labels"], seed=seed, weights=weights
        )
        pick = sorted({round(i * (len(states) - 1) / (FRAMES - 1)) for i in range(FRAMES)})
        frames = [pictures.sheet(states[i]) for i in pick]
        pictures.animation(frames, folder / "trajectory.png")
    made = pipeline.post_hoc_ema(weights)
    record = {
        **{k: asked[k] for k in ("n", "batch", "seed", "labels", "weights")},
        **({"residual": made.residual} if made else {}),
        **pipeline.record(),
        "evaluations": evaluations,
    }
    write_text(folder / "sample.json", json.dumps(record, indent=1))
    print(f"{n} samples of {pipeline.title}: {clean(str(folder))}")


def _slug(name: str | None) -> str:
    """A folder name that stays inside its folder."""
    if name is None:
        return datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if not name or name in (".", "..") or name == "train" or any(c in name for c in "/\\\0"):
        raise ConfigError(f"name={name!r} must be a plain folder name, and not train")
    return name[:100]
