"""The content of a run directory as a report shows it, read without trust in any of its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from genlab.core.files import read_text
from genlab.report.journal import Journal, Series, is_number, read_journal
from genlab.run.directory import NAME, Run
from genlab.run.results import Result, results
from genlab.run.spike import KEYS

__all__ = ["METRIC", "RunData", "Series", "is_number", "leaves", "read_run", "value_text"]

METRIC = "metric/"
"""Prefix of the journal's values that evaluations during training found."""

DEPTH = 12  # levels of a config; yaml can be endless
CURVES = 60


@dataclass
class RunData:
    """A run directory; `problems` names in sentences what could not be read.

    provenance: dotted key -> who chose its value. evaluations: the newest first.
    """

    path: Path
    state: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    environment: dict[str, Any]
    overrides: list[str]
    journal: Journal
    problems: list[str] = field(default_factory=list)
    evaluations: list[Result] = field(default_factory=list)

    @property
    def title(self) -> str:
        """`<model> on <data>` as chosen, or the name of the folder."""
        chosen = Run(self.path).name
        if chosen != self.path.resolve().parent.name:
            return " on ".join(chosen.rsplit("-", 1))
        model, data = self._name("model"), self._name("data")
        return f"{model} on {data}" if model and data else self.path.resolve().parent.name

    def _name(self, group: str) -> str:
        node = self.config.get(group)
        return value_text(node["name"]) if isinstance(node, dict) and node.get("name") else ""

    @property
    def has_id(self) -> bool:
        """Whether the folder is named as genlab names runs, so that its id finds it."""
        return NAME.fullmatch(self.path.resolve().name) is not None

    @property
    def short_id(self) -> str:
        """The six digits at the end of the folder's name, or the whole name."""
        path = self.path.resolve()
        return Run(path).id if self.has_id else path.name

    @property
    def seed(self) -> str:
        """The seed as text, empty where none is known."""
        return value_text(self.config["seed"]) if "seed" in self.config else ""

    @property
    def total_images(self) -> int | None:
        """Length of the whole training in images."""
        node = self.config.get("schedule")
        value = node.get("images") if isinstance(node, dict) else None
        return int(value) if is_number(value) and 0 < value < 1e15 else None

    @property
    def checkpoint(self) -> int | None:
        """Images at the latest checkpoint."""
        text = _read_text(self.path / "checkpoints" / "latest", [], self.path).strip()
        return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None

    @property
    def parameters(self) -> dict[str, int]:
        """Trainable parameters per network, where the environment has them."""
        value = self.environment.get("parameters")
        table = value if isinstance(value, dict) else {"": value}
        return {value_text(k): int(v) for k, v in table.items() if is_number(v)}

    @cached_property
    def names(self) -> list[str]:
        """Every logged quantity, in the order of first appearance."""
        clock = ("step", "images", "seconds")
        logged = (k for k in self.journal.names if k not in clock and not k.startswith(KEYS))
        return list(logged)[:CURVES]

    def series(self, name: str) -> Series:
        """The curve of a logged quantity."""
        return self.journal.series(name)

    def last(self, name: str) -> float | None:
        """The latest finite value of a quantity."""
        return self.journal.last(name)

    def chosen_by(self, key: str) -> str:
        """The file or command line that set a key; of a nested key, what set its parent."""
        while key:
            if key in self.provenance:
                return value_text(self.provenance[key])
            key = key.rpartition(".")[0]
        return ""


def read_run(path: Path) -> RunData:
    """Reads everything there is; what is missing is empty."""
    problems: list[str] = []
    text = _read_text(path / "overrides.txt", problems)
    config = _read_mapping(path / "config.yaml", problems)
    return RunData(
        path=path,
        state=Run(path).status[:2000],
        config=config,
        provenance=_read_mapping(path / "provenance.json", problems),
        environment=_read_mapping(path / "environment.json", problems),
        overrides=[line for line in text.splitlines() if line.strip()],
        journal=read_journal(path / "metrics.jsonl", problems),
        problems=problems,
        evaluations=results(path, problems, config)[::-1],
    )


def leaves(node: object, most: int | None = None, lists: bool = False) -> list[tuple[str, str]]:
    """(dotted key, value as text) of a nested mapping, at most `most` of them.

    lists: every element under its position; else a list is one value, cut where it is long.
    """
    return list(islice(_leaves(node, lists, "", 0), most))


def value_text(value: Any) -> str:
    """A value as a config would write it, cut where it is endless; none where it is empty."""
    if value in ({}, [], {"name": None}):
        return "none"
    if isinstance(value, dict) and len(value) < 20:
        # as of a component with its keys, the sampler of a set of samples: heun, steps 18
        named = isinstance(value.get("name"), str)
        keys = [f"{_flow(k)} {_flow(v)}" for k, v in value.items() if not (named and k == "name")]
        return ", ".join([value["name"], *keys] if named else keys)[:2000]
    return _flow(value)[:2000]


LEVELS, ELEMENTS, LETTERS = 4, 24, 200  # of a value within another


def _flow(value: Any, level: int = 0) -> str:
    """A value in one line of YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (dict, list)) and level >= LEVELS:
        return "..."
    more = ["..."] if isinstance(value, (dict, list)) and len(value) > ELEMENTS else []
    if isinstance(value, dict):
        pairs = islice(value.items(), ELEMENTS)
        found = [f"{_flow(k, level + 1)}: {_flow(v, level + 1)}" for k, v in pairs]
        return "{" + ", ".join(found + more) + "}"
    if isinstance(value, list):
        found = [_flow(v, level + 1) for v in value[:ELEMENTS]]
        return "[" + ", ".join(found + more) + "]"
    try:
        return str(value)[: LETTERS if level else 2000]
    except ValueError:  # Python refuses to write out a number of thousands of digits
        return "a very long number"


def _leaves(node: Any, lists: bool, key: str, depth: int) -> Iterator[tuple[str, str]]:
    if node and depth < DEPTH and isinstance(node, (dict, list) if lists else dict):
        for k, value in node.items() if isinstance(node, dict) else enumerate(node):
            inner = f"{key}.{value_text(k)}" if key else value_text(k)
            yield from _leaves(value, lists, inner, depth + 1)
    elif key:
        yield key, value_text(node)


def _read_text(path: Path, problems: list[str], root: Path | None = None) -> str:
    try:
        return read_text(path, root)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as e:
        problems.append(f"{path.name}: {e.strerror if isinstance(e, OSError) else e}")
        return ""


def _read_mapping(path: Path, problems: list[str]) -> dict[str, Any]:
    text = _read_text(path, problems)
    try:
        value = json.loads(text or "{}") if path.suffix == ".json" else yaml.safe_load(text) or {}
    except (ValueError, yaml.YAMLError, RecursionError) as e:
        problems.append(f"{path.name}: {str(e).splitlines()[0] if str(e) else 'nested too deep'}")
        return {}
    if isinstance(value, dict):
        return {value_text(k): v for k, v in value.items()}
    problems.append(f"{path.name}: not a mapping")
    return {}
