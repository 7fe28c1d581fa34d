"""What can be said about `key=value` words before Hydra is imported.

The grammar is Hydra's (`key=value`, `+key=value`, `++key=value`, `~key`, sweeps with commas); only
as much of it is read here as it takes to find a wrong name or a forgotten `-m` in a blink.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from genlab.config import catalog
from genlab.config.catalog import names_in
from genlab.core import registry

__all__ = ["Override", "check", "expand", "parse", "picks", "split"]


class Override(NamedTuple):
    """One word of the command line; value is None for `~key`."""

    sign: str  # "", "+", "++" or "~"
    key: str
    value: str | None

    @property
    def group(self) -> str:
        """The key without a package: `model@other` -> `model`."""
        return self.key.partition("@")[0]


_WORD = re.compile(r"^(\+\+|\+|~|)([A-Za-z_][\w./@:-]*)(?:=(.*))?$", re.DOTALL)
_SWEEP = re.compile(r"^(choice|range|interval|glob)\((.*)\)$", re.DOTALL)
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def parse(word: str) -> Override | None:
    """The override a word is, or None when it is none."""
    match = _WORD.match(word)
    if match is None or (match[3] is None and match[1] != "~"):
        return None
    return Override(match[1], match[2], match[3])


def split(value: str) -> list[str]:
    """The values between the commas that make a sweep: not those in quotes or brackets."""
    parts, start, closing, quote = [], 0, [], ""
    i = 0
    while i < len(value):
        c = value[i]
        if c == "\\":
            i += 1
        elif quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in _PAIRS:
            closing.append(_PAIRS[c])
        elif closing and c == closing[-1]:
            closing.pop()
        elif c == "," and not closing:
            parts.append(value[start:i])
            start = i + 1
        i += 1
    return [p.strip() for p in (*parts, value[start:])]


def _choices(value: str) -> Iterator[str]:
    """The values of a group in a sweep, lists as such; what only Hydra can resolve is left out."""
    for part in split(value):
        sweep = _SWEEP.match(part)
        if sweep and sweep[1] == "choice":
            yield from _choices(sweep[2])
        elif not sweep and "${" not in part and part.lower() != "null":
            yield part[1:-1] if part[:1] in ("'", '"') and part[-1:] == part[:1] else part


def picks(words: Iterable[str], *folders: Path) -> dict[str, str]:
    """Group -> what a command line sets it to, `fid` or `[fid,kid]`; the first of a sweep."""
    known = set(catalog.groups(*folders))
    found = {}
    for word in words:
        override = parse(word)
        if override and override.sign != "~" and override.group in known:
            for choice in _choices(override.value or ""):
                found[override.group] = choice
                break
    return found


def check(
    words: Iterable[str],
    *,
    primary: str,
    multirun: bool = False,
    sweeps: bool = True,
    folders: Iterable[Path] = (),
    more: Iterable[str] = (),
) -> list[str]:
    """Every problem of a command line that its words and the config folders alone can show.

    primary: "train" or "sample", whose keys are known; more: further keys the verb takes;
    sweeps: whether it takes -m at all.
    """
    words, folders = list(words), tuple(folders)
    problems = []
    groups = set(catalog.groups(*folders))
    known = catalog.known(primary, *folders)
    searched = any("hydra.searchpath" in w for w in words)  # may add what only Hydra can see
    for word in words:
        override = parse(word)
        if override is None:
            problems.append(_no_override(word, groups, folders))
            continue
        value = override.value or ""
        if not multirun and (len(split(value)) > 1 or _SWEEP.match(value)):
            key = word.partition("=")[0]
            listed = f"write a list as '{key}=[{value}]'"
            problems.append(
                f"{word} is a sweep: add -m to run every value, or {listed}"
                if sweeps
                else f"{key} takes one value: {listed}"
            )
        head = override.group.partition(".")[0]
        if head.startswith("hydra") or searched:
            continue
        if override.group in groups and override.sign != "~":
            options = registry.names(override.group, *folders)
            for name in dict.fromkeys(n for c in _choices(value) for n in names_in(c)):
                if name not in options:
                    problems.append(registry.unknown(override.group, name, options))
                problems += _hidden(override.group, name, folders)
        elif known and head not in known and head not in more:
            problems.append(_no_key(override.key, primary, [*known, *more], words, folders))
    return problems


def _hidden(group: str, name: str, folders: tuple[Path, ...]) -> Iterator[str]:
    """Hydra takes the first yaml of a name it finds: genlab's own, silently."""
    if name in registry.names(group):
        for folder in folders:
            if (folder / group / f"{name}.yaml").is_file():
                yield (
                    f"{folder / group / name}.yaml would not be read, genlab's own {group} "
                    f"{name!r} comes first; give your file another name"
                )


def _no_override(word: str, groups: set[str], folders: tuple[Path, ...]) -> str:
    if word.startswith("-"):
        return f"no flag {word!r}: options are written key=value (`genlab --help` lists the flags)"
    for group in sorted(groups):
        if word in registry.names(group, *folders):
            return f"{word!r} is not key=value. Did you mean '{group}={word}'?"
    return f"{word!r} is not key=value, e.g. seed=1"


def _no_key(
    key: str, primary: str, known: list[str], words: list[str], folders: tuple[Path, ...]
) -> str:
    """`lr` is nobody's name but the last part of optimizer.lr: that comes first."""
    head, _, rest = key.partition(".")
    nested = catalog.keys(primary, picks(words, *folders), *folders)
    inside = [n for n in nested if n.endswith(f".{key}")]
    near = "Did you mean " + " or ".join(map(repr, inside[:3])) + "?" if inside else ""
    if not near:
        near = registry.suggest(head, [k for k in known if k not in ("hydra", "extra")])
        if rest and near:
            near = near.replace("'?", f".{rest}'?").replace("' or", f".{rest}' or")
    return f"no key {key!r}. {near or 'There are: ' + ', '.join(sorted(known)) + '.'}"


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a sweep, in Hydra's order."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
