"""What the looks of a run at itself cost, before they are taken: measured on a few images."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlab.core import dist
from genlab.core.contract import Denoises, Generates, Model, Optimizer, Reconstructs, Split
from genlab.core.files import disk
from genlab.core.random import SampleNoise
from genlab.evaluation.in_training import TrainingMetrics
from genlab.nn.full_precision import full_precision
from genlab.run.tensors import model_tensors, optimizer_tensors
from genlab.sampling.pipeline import Pipeline
from genlab.training.preview import PAIRS, SAMPLES, mean_loss

__all__ = ["evaluations", "event_costs"]

PATIENCE = 2.0  # seconds above which something is not done twice, for a warm second time
WRITTEN = 2**23  # bytes of a checkpoint that are written to see how long all of it takes


def event_costs(
    pipeline: Pipeline,
    evaluator: TrainingMetrics,
    optimizers: Mapping[str, Optimizer],
    held: Split,
    held_out: int,
    folder: Path | None,
) -> dict[str, float]:
    """Kind of event, by its key under `every`, -> seconds of one.

    held: a few data, which it is measured on; held_out: of how many a held-out loss is the mean.
    folder: where checkpoints go, None for a temporary one. Leaves the model as it is.
    """
    model, rows = pipeline.model, len(held.x)
    sample = _drawing(pipeline, rows) / rows if isinstance(model, Generates) else 0.0
    copy = _seconds(lambda: _reconstructed(pipeline, held.x)) / rows if not sample else 0.0
    evaluation = 0.0
    if type(model).loss is not Model.loss:
        evaluation = _seconds(lambda: mean_loss(pipeline, held, rows, 0)) / rows * held_out
    if evaluator.metrics:
        look = evaluator.evaluate.network
        seen = 0.0 if look is None else _seconds(lambda: _sum(look(held.x))) / rows
        evaluation += evaluator.n * (sample + copy + seen) / dist.world()
    tensors = [*model_tensors(model).values(), *optimizer_tensors(model, optimizers).values()]
    size = sum(t.numel() * t.element_size() for t in tensors)
    return {
        "eval": evaluation,
        "sample": sample * SAMPLES + copy * PAIRS,
        "checkpoint": _writing(folder, size),
    }


def evaluations(pipeline: Pipeline) -> float:
    """Network evaluations of one sample, counted on a path whose every estimate is zero.

    Of a sampler that chooses its steps by what it sees (rk45) it is the least.
    """
    bound, device = pipeline.sampler, pipeline.hardware.device
    before = bound.rows, bound.drawn

    def nothing(x: Tensor, t: Tensor, y: Tensor | None) -> Any:
        zero = torch.zeros_like(x)
        return (zero, zero) if bound.learned_variance else zero

    bound.recount()
    y = None if pipeline.spec.classes is None else torch.zeros(1, dtype=torch.int64, device=device)
    try:
        noise = SampleNoise(0, [0], device)
        bound(nothing, noise.normal(*pipeline.output_shape), y, noise)
        return bound.rows / max(1, bound.drawn)
    finally:
        bound.rows, bound.drawn = before


@torch.inference_mode()
def _drawing(pipeline: Pipeline, rows: int) -> float:
    """Seconds of `rows` samples: of one network evaluation, times their number."""
    model, bound, device = pipeline.model, pipeline.sampler, pipeline.hardware.device
    classes = pipeline.spec.classes
    y = None if classes is None else [i % classes for i in range(rows)]
    if not bound.follows_path or not isinstance(model, Denoises):
        return _seconds(lambda: pipeline.draw(y, 0, range(rows)))
    denoise = model.predict_variance if bound.learned_variance else model.denoise
    x = torch.zeros(rows, *pipeline.output_shape, device=device)
    t = torch.full((rows,), 0.5, device=device)
    labels = None if y is None else torch.tensor(y, device=device)
    exact = full_precision(device) if bound.sampler.full_precision else nullcontext()
    with pipeline.using("ema"), pipeline.hardware.autocast(), exact:
        once = _seconds(lambda: _sum(denoise(x, t, labels)))
    return once * evaluations(pipeline)


def _reconstructed(pipeline: Pipeline, u: Tensor) -> Tensor | None:
    if not isinstance(pipeline.model, Reconstructs):
        return None
    return pipeline.decode(pipeline.encode(u))


def _sum(out: Any) -> float:
    """Waits for the device."""
    if isinstance(out, Mapping):
        out = tuple(out.values())
    return float((out[0] if isinstance(out, tuple) else out).sum())


def _seconds(act: Callable[[], object]) -> float:
    """Of the second time, as the first one allocates and compiles; of the first if it is long."""
    for _ in range(2):
        start = time.perf_counter()
        act()
        seconds = time.perf_counter() - start
        if seconds > PATIENCE:
            break
    return seconds


def _writing(folder: Path | None, size: int) -> float:
    """Seconds it takes to write and hash `size` bytes."""
    part = os.urandom(min(size, WRITTEN))
    start = time.perf_counter()
    where = folder or Path(tempfile.gettempdir())
    with disk("write to", where), tempfile.TemporaryFile(dir=where) as file:
        file.write(part)
        file.flush()
        os.fsync(file.fileno())
        hashlib.sha256(part)
        seconds = time.perf_counter() - start
    return seconds * size / max(1, len(part))
