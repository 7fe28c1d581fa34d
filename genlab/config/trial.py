"""A short trial of a recipe: one key, `schedule.images`, makes it the same run in small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genlab.config import catalog, overrides

__all__ = ["in_small", "scale", "sentence"]

SCALED = ("schedule.warmup", "schedule.reference")
"""Counts of images that are a share of the run."""

CADENCES = ("every.log", "every.sample", "every.checkpoint", "every.eval")
DECAY = "model.ema.decay"


def in_small(words: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
    """Dotted key -> its value in a run that `schedule.images=` of these words makes shorter.

    Of warm-up and `reference` the same share of the run; cadences that a recipe sets are left to
    `auto`, which is a share of it; an average with a decay a step reaches back over the
    same share. Half-lives in images are not touched: they are shortened early in any run (`ramp`).
    What was typed stays. Empty where the words make no run shorter than its yamls do.
    """
    typed = {word.lstrip("+~").partition("=")[0]: word.partition("=")[2] for word in words}
    folders = tuple(map(Path, config_dirs))
    if "schedule.images" not in typed:
        return {}
    found = catalog.keys("train", overrides.picks(words, *folders), *folders)
    asked, whole = _number(typed["schedule.images"]), _number(found["schedule.images"].default)
    if not 0 < asked < whole:
        return {}
    part, small = asked / whole, dict[str, Any]()
    given = {k: _number(found[k].default) for k in (*SCALED, *CADENCES, DECAY) if k in found}
    for key, value in given.items():
        by_hand = any(key == k or key.startswith(f"{k}.") for k in typed)
        if by_hand or not value > 0:
            continue
        if key in CADENCES:
            small[key] = "auto"
        elif key == DECAY:
            small[key] = float(f"{value ** (1 / part):.6g}")
        else:
            small[key] = max(1, round(value * part))
    return small


def scale(config: Mapping[str, Any], small: Mapping[str, Any]) -> None:
    """Sets what `in_small` found, where a composed config has such a key."""
    for key, value in small.items():
        *parents, leaf = key.split(".")
        node: Any = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, Mapping) else None
        if isinstance(node, dict) and leaf in node:
            node[leaf] = value


def sentence(small: Mapping[str, Any]) -> str:
    """What was scaled, in one line."""
    values = ", ".join(f"{key}={value}" for key, value in small.items())
    return f"a run shorter than its recipe, in proportion: {values} (what you type stays)"


def _number(text: str) -> float:
    """0 for what is no number."""
    try:
        return float(text)
    except ValueError:
        return 0.0
