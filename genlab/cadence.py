"""How often the events of a run come, in images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["cadences"]


def cadences(every: Mapping[str, Any], total: int, batch: int) -> dict[str, int]:
    """Images between two of each event, `auto` resolved by the length of the run."""
    shares = {"log": 100, "sample": 10, "checkpoint": 10, "eval": 10}
    return {
        what: max(batch, total // share) if every[what] == "auto" else int(every[what])
        for what, share in shares.items()
    }
