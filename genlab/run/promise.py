"""What an experiment promises, beside what the journal has of it."""

from __future__ import annotations

from genlab.run.facts import Facts, is_number, plain
from genlab.run.markup import Markup, tag
from genlab.run.words import count, number

__all__ = ["promise"]


def promise(facts: Facts) -> Markup | None:
    """The promise of a run's config as a list of facts; None where it makes none."""
    made = facts.config.get("promise")
    if not isinstance(made, dict) or not made:
        return None
    metric, value, tolerance = made.get("metric"), made.get("value"), made.get("tolerance")
    promised = " ± ".join(plain(v) for v in (value, tolerance) if v is not None)
    rows = [(plain(metric), f"{promised}{_after(made.get('images'))}")]
    row = next((r for r in reversed(facts.journal) if is_number(r.get(plain(metric)))), None)
    if row is None:
        rows.append(("measured", "not measured yet"))
    else:
        last = row[plain(metric)]
        verdict = ""
        if is_number(value) and is_number(tolerance):
            off = last - value
            verdict = f": off by {off:+.4g}" if abs(off) > tolerance else ": as promised"
        rows.append(("measured", f"{number(last)}{_after(row['images'])}{verdict}"))
    rows += [(k, plain(made[k])) for k in ("protocol", "source") if made.get(k) is not None]
    cells = [tag("div", tag("dt", name), tag("dd", words)) for name, words in rows]
    return tag("dl", cells, class_="made")


def _after(images: object) -> str:
    return f" after {count(images)} images" if is_number(images) else ""
