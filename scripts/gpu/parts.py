"""What scripts/gpu_check.py does on a GPU, most important first. Only the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from genlab.config import catalog
from genlab.core import registry

__all__ = ["COMMAND", "LONG", "ROOT", "WHOLE", "Part", "parts", "recipes"]

ROOT = Path(__file__).parents[2]
LONG = 2_000_000
"""Images from which a recipe is meant for GPUs."""
COMMAND, WHOLE = 540.0, 720.0
"""Seconds of one command, and of all."""
FIRST = ("tests/training/test_trainer_gpu.py", "tests/core/test_dist_gpu.py")
MARKS = ("mark.gpu", "helpers.gpu")
MASKS, WIDTHS, LENGTHS = ("causal", "full", "prefix", "packed"), (64, 128), (4096, 1024, 16384)


@dataclass(frozen=True)
class Part:
    """A group of like items.

    work: what a process does with an item, a function of child.py. limit: seconds that a command
    gives the part; each: that one process gets; beside: processes at a time; several: items that
    one process does.
    """

    name: str
    says: str
    work: str
    items: tuple[str, ...]
    limit: float
    each: float
    beside: int = 1
    several: int = 1


@cache
def recipes() -> tuple[str, ...]:
    """The experiments of at least LONG images."""

    def images(name: str) -> int:
        found = catalog.keys("train", {"experiment": name})["schedule.images"].default
        return int(found.replace("_", ""))

    return tuple(name for name in registry.names("experiment") if images(name) >= LONG)


def one_a_model(names: Sequence[str]) -> tuple[str, ...]:
    """The first recipe of every model."""
    firsts: dict[str, str] = {}
    for name in names:
        firsts.setdefault(catalog.chosen("train", {"experiment": name})["model"].name, name)
    return tuple(firsts.values())


def tests() -> dict[str, str]:
    """The files of tests that have some for GPUs, with what they hold."""
    found = (p for p in sorted((ROOT / "tests").rglob("test_*.py")) if p.stem != "test_gpu_check")
    files = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in found}
    return {name: text for name, text in files.items() if any(m in text for m in MARKS)}


def parts(rehearse: bool = False, only: Sequence[str] = ()) -> list[Part]:
    """All parts, or those named, in their order; of a rehearsal with fewer processes."""
    files, long = tests(), recipes()
    others = tuple(f for f in files if f not in FIRST)
    compiled = one_a_model(long) if rehearse else long
    slow = tuple(f for f in others if "mark.slow" in files[f])
    cells = [f"{m} {w} {n}" for n in LENGTHS for w in WIDTHS for m in MASKS]
    cells = ["causal 16 64", "prefix 16 128"] if rehearse else cells
    found = [
        Part(
            "trainer",
            "steps that are taken back, Adamax that counts on the device, NCCL and its watch",
            "tests",
            tuple(f for f in FIRST if f in files),
            limit=60,
            each=60,
            beside=2,
        ),
        Part("tests", "the quick tests that need a GPU", "tests", others, 200, 195, beside=2),
        Part("speed", "training in bf16", "train", long, 170, 60, beside=2),
        Part(
            "attention",
            "bf16 beside FlashAttention, cuDNN and FlexAttention",
            "attention",
            tuple(cells),
            limit=130,
            each=120,
            beside=4,
        ),
        Part("compiled", "the same, compiled", "compiled", compiled, 160, 140, beside=3),
        Part("slow", "the slow tests that need a GPU", "slow", slow, 240, 235, beside=2),
    ]
    if rehearse:  # on few cores, where to import torch takes seconds
        few = [p.name for p in found if p.work in ("train", "compiled", "attention")]
        found = [
            Part(p.name, p.says, p.work, p.items, 240, 235, 1, 100 if p.name in few else 1)
            for p in found
        ]
    if unknown := [name for name in only if name not in {p.name for p in found}]:
        names = ", ".join(p.name for p in found)
        raise ValueError(f"no part {', '.join(unknown)}; there are {names}")
    return [p for p in found if not only or p.name in only]
