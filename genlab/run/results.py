"""The results of `genlab eval` in a run directory: numbers, each with its protocol.

<run>/eval/<images>-<hash6>/result.json     one evaluation; `training` holds the last one of those
                                            made while training, whose numbers are in the journal
    format: 1
    when: ISO time
    subject: of what: run, checkpoint, weights, sampler, guidance, evaluations, seed, ...
    metrics: name -> {values: {value: number or null}, better: {value: low or high},
                      protocol: {key: text, number or null}, seconds, captions: [text]}
    environment: genlab, code, torch, device, precision, ...
<run>/eval/<...>/<metric>/00.png ...        pairs to look at side by side, one a caption

A protocol holds all that must be equal for two numbers to be ranked: which images, how many and
with which labels, which reference, features, resizer, keys of the metric. `subject` holds what may
be compared. Samples of which it does not name the labels were drawn evenly, by an earlier genlab.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from genlab.core.errors import Refused
from genlab.core.files import disk, read_json, write_text
from genlab.run import pictures

__all__ = ["FORMAT", "Number", "Result", "results", "write_result"]

FORMAT = 1
LARGEST = 4_000_000  # bytes of a result; nobody writes a larger one
PAIRS = 100  # of a metric: their pictures have two digits
BROKEN: tuple[type[Exception], ...] = (OSError, LookupError, ValueError, TypeError, AttributeError)
BROKEN += (ArithmeticError, RecursionError)  # numbers and nesting without end


@dataclass(frozen=True)
class Number:
    """One measured value.

    name: e.g. fid; metric: which found it; value: None where it was not finite; better: low,
    high, or "" without order; protocol: how it was measured; seconds: what the metric took.
    """

    name: str
    metric: str
    value: float | None
    better: str
    protocol: Mapping[str, Any]
    seconds: float | None = None


@dataclass
class Result:
    """One evaluation; numbers in the order they were found."""

    path: Path  # its folder
    when: str
    description: dict[str, Any]  # of what is evaluated, `subject` in the file
    numbers: list[Number]
    environment: dict[str, Any]
    captions: dict[str, list[str]] = field(default_factory=dict)  # metric -> of its pairs

    @property
    def images(self) -> int | None:
        """Images the checkpoint had seen."""
        value = self.description.get("checkpoint")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def while_training(self) -> bool:
        """Whether it is the last one of those made while training."""
        return self.path.name == "training"

    def pairs(self, metric: str) -> list[tuple[Path, str]]:
        """(picture, caption) of each pair of a metric whose picture is there, at most 100."""
        if metric in ("", ".", "..") or "/" in metric:  # a foreign record leads nowhere else
            return []
        found = enumerate(self.captions.get(metric, [])[:PAIRS])
        files = [(self.path / metric / f"{i:02d}.png", caption) for i, caption in found]
        return [(path, caption) for path, caption in files if _is_file(path)]


def results(
    run_dir: Path, problems: list[str] | None = None, config: Mapping[str, Any] | None = None
) -> list[Result]:
    """Every evaluation of a run directory, oldest first; unreadable ones go to `problems`.

    config: of the run, which says what an earlier genlab did not write down.
    """
    found, labels = [], _earlier_labels(config or {})
    for path in sorted((run_dir / "eval").glob("*/result.json")):
        try:
            found.append(_read(path, labels))
        except BROKEN as e:
            if problems is not None:
                problems.append(f"{path.parent.name}/{path.name}: {e or type(e).__name__}")
    return sorted(found, key=lambda r: r.when)


def _earlier_labels(config: Mapping[str, Any]) -> str:
    """What labels samples had before protocols named them: "none" if the config says so.

    Where it takes those of its data, they may have had none either; nothing tells.
    """
    model = config.get("model")
    return "none" if isinstance(model, Mapping) and model.get("classes") == "none" else "even"


def _read(path: Path, labels: str) -> Result:
    node = read_json(path, path.parents[2], LARGEST)
    if node["format"] != FORMAT:
        raise ValueError(f"format {node['format']} is not known here")
    metrics = {str(name): dict(m) for name, m in node["metrics"].items()}
    return Result(
        path=path.parent,
        when=str(node["when"]),
        description=dict(node["subject"]),
        numbers=[n for name, metric in metrics.items() for n in _numbers(name, metric, labels)],
        environment=dict(node["environment"]),
        captions={
            n: [str(c) for c in m["captions"]] for n, m in metrics.items() if "captions" in m
        },
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # e.g. a name that is too long
        return False


def _numbers(name: str, metric: Mapping[str, Any], labels: str) -> Iterator[Number]:
    better, seconds = dict(metric["better"]), metric.get("seconds")
    protocol = dict(metric["protocol"])
    if protocol.get("of") == "samples":
        protocol.setdefault("labels", labels)
    for value in metric["values"]:
        number = metric["values"][value]
        yield Number(
            name=str(value),
            metric=name,
            value=None if number is None else float(number),
            better=str(better.get(value, "")),
            protocol=protocol,
            seconds=None if seconds is None else float(seconds),
        )


def write_result(
    folder: Path,
    description: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, Any],
) -> Path:
    """Writes <folder>/result.json and the pairs of metrics that have some; returns its path."""
    node: dict[str, Any] = {}
    if strange := [name for name in metrics if not re.fullmatch(r"\w{1,60}", name)]:
        raise Refused(f"metric {strange[0]!r} would leave the folder of its results")
    with disk("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():  # pairs of an evaluation of the same name
            if old.is_dir() and not old.name.startswith("."):
                shutil.rmtree(old)
        for name, record in metrics.items():
            kept = {k: v for k, v in record.items() if k != "pairs"}
            kept["values"] = {
                k: v if math.isfinite(v) else None for k, v in kept["values"].items()
            }
            if "pairs" in record:
                left, right, captions = record["pairs"]
                kept["captions"] = list(captions)
                beside = np.concatenate([left.numpy(), right.numpy()], 3)  # [n, C, H, 2 W]
                for i, both in enumerate(beside):
                    pictures.save(pictures.grid(both[None], pad=0), folder / name / f"{i:02d}.png")
            node[name] = kept
    record = {
        "format": FORMAT,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "subject": dict(description),
        "metrics": node,
        "environment": dict(environment),
    }
    path = folder / "result.json"
    write_text(path, json.dumps(record, indent=1, allow_nan=False))
    return path
