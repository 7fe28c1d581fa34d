"""What a run was asked to do: its config with who chose each value, and where it ran."""

from __future__ import annotations

import re
from itertools import groupby

from genlab.run.facts import Facts, leaves, plain
from genlab.run.markup import Markup, tag
from genlab.run.page import section, terms

__all__ = ["config", "environment"]

ROOMS = "model network process codec data sampler guidance optimizer schedule hardware track every"
ROWS = 2000  # of the config table


def config(facts: Facts) -> Markup | None:
    """What was typed, then every key by room with who chose it."""
    rows = leaves(facts.config, ROWS)
    if not rows:
        return None
    order = ROOMS.split()

    def room(row: tuple[str, str]) -> str:
        head, dot, _ = row[0].partition(".")
        return head if dot else ""

    def place(name: str) -> tuple[int, str]:
        return (-1 if not name else order.index(name) if name in order else len(order), name)

    rooms = []
    for name, group in groupby(sorted(rows, key=lambda r: place(room(r))), key=room):
        lines = [_row(facts, key, value, name) for key, value in group]
        member = facts.config.get(name)
        title = [name or "run"]
        own = plain(member["name"]) if isinstance(member, dict) and "name" in member else ""
        title += [" ", tag("code", own)] if own else []
        head = tag("tr", *(tag("th", h, scope="col") for h in ("key", "value", "chosen by")))
        table = tag("table", tag("thead", head), tag("tbody", lines))
        rooms.append(tag("section", tag("h3", title), table, class_="room"))
    typed = [tag("li", tag("code", o)) for o in facts.overrides]
    lead = tag("ul", typed, class_="typed") if typed else tag("p", "nothing: all defaults")
    return section(
        "config",
        "Config",
        tag("div", tag("h3", "Typed on the command line"), lead, class_="overrides"),
        tag("div", rooms, class_="rooms"),
    )


def environment(facts: Facts) -> Markup | None:
    """Versions, device and the like."""
    rows = leaves(facts.environment, 200)
    return section("environment", "Environment", terms(rows)) if rows else None


def _row(facts: Facts, key: str, value: str, room: str) -> Markup:
    who = facts.who(key)
    name = key[len(room) + 1 :] if room else key
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", tag("code", value)),
        tag("td", who, class_="who"),
        class_="chosen" if re.match(r"command|experiment", who) else None,
    )
