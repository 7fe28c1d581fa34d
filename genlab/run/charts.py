"""Which curves of a journal stand together, and which in front."""

from __future__ import annotations

from collections.abc import Mapping

from genlab.run.curves import Series, chart
from genlab.run.facts import Facts
from genlab.run.markup import Markup, tag
from genlab.run.page import section

__all__ = ["curves"]

METRIC = "metric/"
"""Begins the names of what evaluations during training wrote into the journal."""


def curves(facts: Facts) -> Markup:
    """Losses with their held-out values, then metrics with their intervals; the rest is folded."""
    series = {name: facts.series(name) for name in facts.names}
    if not series:
        return section("curves", "Curves", tag("p", "No log line yet.", class_="empty"))
    held = {n: series[f"heldout/{n}"] for n in series if f"heldout/{n}" in series}
    players = [n for n in series if n.startswith("loss/")]
    if "heldout/loss" in series and len(players) == 1:
        held[players[0]] = series["heldout/loss"]
    bands = _bands(series)
    inside = {s.name for s in [*held.values(), *(s for pair in bands.values() for s in pair)]}
    # what was also measured on held-out data says more than what was not
    front = [n for n in series if n.startswith("loss/") or n.endswith("/loss") or n in held]
    front += [n for n in series if _measured(n, series) and n not in front]
    front += [n for n in ("images_per_second",) if n in series]
    rest = [chart(s) for name, s in series.items() if name not in inside.union(front)]
    return section(
        "curves",
        "Curves",
        tag(
            "div",
            [chart(series[n], held.get(n), bands.get(n)) for n in front if n not in inside],
            class_="charts",
        ),
        tag(
            "details",
            tag("summary", f"{len(rest)} more: learning rates, gradients, memory and the like"),
            tag("div", rest, class_="charts"),
        )
        if rest
        else None,
    )


def _bands(series: Mapping[str, Series]) -> dict[str, tuple[Series, Series]]:
    """Metric -> its lower and upper bound, where both were logged."""
    ends = {n: (f"{n}_low", f"{n}_high") for n in series if n.startswith(METRIC)}
    return {n: (series[a], series[b]) for n, (a, b) in ends.items() if a in series and b in series}


def _measured(name: str, series: Mapping[str, Series]) -> bool:
    """Whether a curve is a metric itself: fid, and not fid_bias, which is named after it."""
    first = (n for n in series if n.startswith(METRIC))
    return name.startswith(METRIC) and not any(name.startswith(f"{n}_") for n in first)
