"""Composed configs, each composed once, and what is kept of them in tests/golden/digests.json."""

from __future__ import annotations

import copy
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from genlab.config.compose import compose, digest
from genlab.core.registry import GROUPS, names

__all__ = ["DIGESTS", "WORDS", "composed", "printed"]

DIGESTS = Path(__file__).parent.parent / "golden" / "digests.json"

WORDS = [f"{group}={name}" for group in (*GROUPS, "experiment") for name in names(group)]
"""Every yaml of configs/."""

LATER = ("eval.labels", "eval.held_out", "data.shift")
"""Keys that every config has, or every one of images, added after `DIGESTS` were kept."""


@lru_cache
def _composed(words: str) -> dict[str, Any]:
    return compose(words.split())


def composed(words: str) -> dict[str, Any]:
    """The config of words with spaces between them; a copy of its own."""
    return copy.deepcopy(_composed(words))


def printed(words: str) -> list[str]:
    """The digest of a composed config, and 12 hex digits of its sorted JSON without later keys."""
    config = composed(words)
    config["data"]["root"] = "data"  # not that of the machine
    for key in LATER:
        place, _, leaf = key.rpartition(".")
        config[place].pop(leaf, None)
    text = json.dumps(config, sort_keys=True)
    return [digest(config), hashlib.sha256(text.encode()).hexdigest()[:12]]
