"""Settings of a run's page: the config with who chose each value, and where the run computed."""

from __future__ import annotations

import re
from itertools import groupby

from genlab.report.markup import Markup, tag
from genlab.report.page import html_table, section, terms
from genlab.report.run_data import RunData, leaves, value_text

__all__ = ["config_section", "environment_section"]

ORDER = "model network process codec data sampler guidance optimizer schedule hardware track every"
"""Config groups in the order of the page; others follow by name, keys of none stand first."""

ROWS = 2000  # of the config table


def config_section(run: RunData) -> Markup | None:
    """What was typed, then every key by config group with who chose it."""
    rows = leaves(run.config, ROWS)
    if not rows:
        return None
    order = ORDER.split()

    def group(row: tuple[str, str]) -> str:
        head, dot, _ = row[0].partition(".")
        return head if dot else ""

    def place(name: str) -> tuple[int, str]:
        return (-1 if not name else order.index(name) if name in order else len(order), name)

    tables = []
    for name, keys in groupby(sorted(rows, key=lambda r: place(group(r))), key=group):
        node = run.config.get(name)
        component = value_text(node["name"]) if isinstance(node, dict) and "name" in node else ""
        title = [name or "run", *([" ", tag("code", component)] if component else [])]
        body = tag("tbody", [_key_row(run, key, value, name) for key, value in keys])
        table = html_table(("key", "value", "chosen by"), body)
        tables.append(tag("section", tag("h3", title), table, class_="group"))
    typed = [tag("li", tag("code", o)) for o in run.overrides]
    lead = tag("ul", typed, class_="typed") if typed else tag("p", "nothing: all defaults")
    return section(
        "config",
        "Config",
        tag("div", tag("h3", "Typed on the command line"), lead, class_="overrides"),
        tag("div", tables, class_="groups"),
    )


def environment_section(run: RunData) -> Markup | None:
    """Versions, device and the like."""
    rows = leaves(run.environment, 200)
    return section("environment", "Environment", terms(rows)) if rows else None


def _key_row(run: RunData, key: str, value: str, group: str) -> Markup:
    who = run.chosen_by(key)
    return tag(
        "tr",
        tag("th", key[len(group) + 1 :] if group else key, scope="row"),
        tag("td", tag("code", value)),
        tag("td", who, class_="who"),
        class_="chosen" if re.match(r"command|experiment", who) else None,
    )
