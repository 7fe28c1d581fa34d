"""Writing what an evaluation found; `run/verdicts.py` says what lies where."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from genlab.errors import Refused
from genlab.run import pictures
from genlab.run.files import disk, write_text
from genlab.run.verdicts import FORMAT

__all__ = ["write_result"]


def write_result(
    folder: Path,
    subject: Mapping[str, Any],
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
                for i, both in enumerate(torch.cat([left, right], 3).split(1)):
                    pictures.save(
                        pictures.grid(both.numpy(), pad=0), folder / name / f"{i:02d}.png"
                    )
            node[name] = kept
    record = {
        "format": FORMAT,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "subject": dict(subject),
        "metrics": node,
        "environment": dict(environment),
    }
    path = folder / "result.json"
    write_text(path, json.dumps(record, indent=1, allow_nan=False))
    return path
