"""What a run was computed with, recorded so that a difference can be named later."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genlab import __version__
from genlab.core import dist
from genlab.core.contract import Dataset
from genlab.core.ema import EMA
from genlab.core.errors import CheckpointError, DataError
from genlab.core.files import read_json, write_text
from genlab.core.openmp import waiting
from genlab.hardware.hardware import Hardware

__all__ = ["changes", "data_changes", "environment", "ranks", "record", "threads"]

EXACT = (
    "genlab",
    "torch",
    "device",
    "precision",
    "threads",
    "channels_last",
    "compile",
    "deterministic",
    "attention",
    "micro_batch",
)
"""Entries that bit-for-bit equality depends on."""


def environment(hardware: Hardware, data: Dataset | None) -> dict[str, Any]:
    """Versions, device and choices of this process, and what the data say of themselves."""
    cuda = hardware.device.type == "cuda"
    return {
        "genlab": __version__,
        "git": _git(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(hardware.device) if cuda else _cpu(),
        "precision": hardware.precision,
        "threads": hardware.threads,
        "openmp": waiting(),
        "channels_last": hardware.channels_last,
        "compile": hardware.compile,
        "deterministic": hardware.deterministic,
        "attention": hardware.attention_backend,
        "micro_batch": hardware.micro_batch,
        "world": dist.world(),
        "data": data.notes if data else {},
    }


def changes(folder: Path, now: Mapping[str, Any]) -> str:
    """What differs from the recorded environment where it matters, as text; "" if nothing."""
    try:
        then = dict(read_json(folder / "environment.json"))
    except (OSError, ValueError, TypeError):
        return "its environment was not recorded"
    if "attention" not in then:  # runs that are older than it had torch's alone
        new = now["attention"] in ("triton", "flex")
        then["attention"] = "sdpa" if new else now["attention"]
    return ", ".join(f"{k} was {then.get(k)}, is {now[k]}" for k in EXACT if then.get(k) != now[k])


def threads(folder: Path) -> int | None:
    """How many a run began with; None if that was not recorded."""
    try:
        found = dict(read_json(folder / "environment.json")).get("threads")
    except (OSError, ValueError, TypeError):
        return None
    return found if isinstance(found, int) and found > 0 else None


def ranks(then: int, allowed: bool) -> str:
    """What another number of ranks than a run was trained on means, as text; "" if it is the same.

    Raises CheckpointError unless that is allowed.
    """
    now = dist.world()
    if then == now:
        return ""
    if not allowed:
        raise CheckpointError(
            f"this run was trained on {then} ranks, this is {now}: the result is statistically "
            "the same, not bit for bit; add allow=[world]"
        )
    return f"{then} ranks became {now}: not bit for bit the same run"


def data_changes(folder: Path, now: Mapping[str, Any], allowed: bool) -> str:
    """How the data differ from those the run was trained on, as text; "" if they do not.

    now: with "trained_on", the identity of the data; a run whose record has none passes. Raises
    DataError unless that is allowed.
    """
    try:
        then = dict(read_json(folder / "environment.json"))["trained_on"]
        then = then if isinstance(then, Mapping) else {"record": then}
        keys = {**then, **now["trained_on"]}
        different = [
            f"{k} was {then.get(k)}, is {now['trained_on'].get(k)}"
            for k in keys
            if then.get(k) != now["trained_on"].get(k)
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return ""
    if different and not allowed:
        raise DataError(
            f"the data are not those this run was trained on ({', '.join(different)}); put these "
            "back, or go on with the others by allow=[data]"
        )
    return ", ".join(different)


def record(folder: Path, now: Mapping[str, Any], model: nn.Module) -> None:
    """Writes environment.json of a run directory, with the number of parameters of networks."""
    parameters = {
        role: sum(p.numel() for p in network.parameters())
        for role, network in model.named_children()
        if not isinstance(network, EMA)
    }
    write_text(
        folder / "environment.json", json.dumps({**now, "parameters": parameters}, indent=1)
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git() -> str | None:
    """Commit of the source, with a digest of uncommitted changes; None for an installed wheel."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None

    def run(*words: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, timeout=10, check=True
        ).stdout

    try:
        commit, diff = run("rev-parse", "HEAD").decode().strip(), run("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + (f"+{hashlib.sha256(diff).hexdigest()[:6]}" if diff else "")
