"""Spikes of a run as its journal has them, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genlab.core.format import count, number
from genlab.core.spikes import Spike

__all__ = ["KEYS", "VALUE", "lines", "sentence", "spikes", "summary"]

KEYS = VALUE, BEFORE, LIMIT = "spike/", "spike_before/", "spike_limit/"
"""Prefixes of the journal's keys, before the name of the value."""


LARGEST = 1e300  # beyond are inf and whole numbers that are no float


def lines(found: Iterable[Spike]) -> list[dict[str, float]]:
    """Lines for the journal, one a step."""
    out: dict[int, dict[str, float]] = {}
    for s in found:
        line = out.setdefault(s.step, {"step": s.step, "images": s.images})
        line |= {VALUE + s.name: s.value, BEFORE + s.name: s.before, LIMIT + s.name: s.limit}
    return list(out.values())


def spikes(journal: Iterable[Mapping[str, Any]]) -> list[Spike]:
    """Those of a journal, in its order; a line that lacks a part of one is passed over."""
    found = []
    for line in journal:
        for key in line:
            if not key.startswith(VALUE):
                continue
            name = key.removeprefix(VALUE)
            keys = ("step", "images", key, BEFORE + name, LIMIT + name)
            parts = [line[k] for k in keys if isinstance(line.get(k), int | float)]
            if len(parts) == len(keys) and all(-LARGEST < v < LARGEST for v in parts):
                step, images, value, before, limit = parts
                found.append(Spike(name, int(step), int(images), value, before, limit))
    return found


def sentence(found: Sequence[Spike]) -> str:
    """What is said of the spikes of one step."""
    parts = []
    for s in found:
        times = f"{number(s.value / s.before)} times the" if s.before > 0 else "from"
        parts.append(f"{s.name} {number(s.value)}, {times} {number(s.before)} before")
    return f"spike at step {count(found[0].step)}: {'; '.join(parts)}"


def summary(journal: Sequence[Mapping[str, Any]]) -> str:
    """What a run with spikes ends with, "" for one without: whether a loss has stayed above."""
    found = spikes(journal)
    if not found:
        return ""
    for name in dict.fromkeys(s.name for s in reversed(found) if s.name.startswith("loss/")):
        last = next((x[name] for x in reversed(journal) if isinstance(x.get(name), float)), None)
        first = next(s for s in found if s.name == name)
        if last is not None and last > first.limit:
            return (
                f"{name} ended at {number(last)}, it was {number(first.before)} before its spike "
                f"at image {count(first.images)}"
            )
    many = f"{len(found)} spikes, the last" if len(found) > 1 else "1 spike"
    return f"{many} of {found[-1].name} at image {count(found[-1].images)}"
