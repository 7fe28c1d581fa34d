"""Numbers as people read them; shared by the progress display, the tables and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["clean", "count", "cut", "duration", "fitting", "number", "short", "size", "table"]


def clean(text: str) -> str:
    """Text of a foreign file or folder for a terminal: what would steer it becomes U+FFFD."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def number(value: float) -> str:
    """A measured value with four significant digits: 0.2134, 1.2e-05, nan."""
    return f"{value:.4g}"


def count(value: float) -> str:
    """A whole number with thousands separated by commas: 12,800."""
    return f"{int(value):,}" if math.isfinite(value) else str(value)


def short(value: float) -> str:
    """A count or tick with a decimal prefix: 0, 250, 12.8k, 2M."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.99995:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}"


def size(value: float) -> str:
    """Bytes with a decimal unit: 1.2 GB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: 12s, 5m40s, 1h02m, 3d04h."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def table(rows: Sequence[Sequence[str]], gap: str = "  ", indent: str = "") -> str:
    """Left-aligned columns; the last one runs free."""
    if not rows:
        return f"{indent}none"
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[-1] = 0
    return "\n".join(
        (indent + gap.join(c.ljust(w) for c, w in zip(row, widths, strict=True))).rstrip()
        for row in rows
    )


def fitting(widths: Sequence[int], order: Sequence[int], width: int, gap: int = 2) -> list[int]:
    """The columns of these widths that fit beside each other into `width`, by their places.

    order: in which they are taken; one that does not fit is passed over, but the first never.
    """
    kept: list[int] = []
    used = -gap
    for i in order:
        if not kept or used + gap + widths[i] <= width:
            kept.append(i)
            used += gap + widths[i]
    return sorted(kept)


def cut(words: str, most: int) -> str:
    """At most so many letters, the last ones dots where it is longer."""
    return words if len(words) <= most else words[: max(1, most - 3)].rstrip(", ") + "..."
