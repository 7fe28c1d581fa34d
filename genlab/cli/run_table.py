"""`genlab list runs`: which runs are meant, and a table of them as wide as the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from genlab.core.errors import ConfigError
from genlab.core.format import clean, cut, duration, fitting, number, short, size, table
from genlab.core.registry import suggest

__all__ = ["chosen", "runs_table"]

DIFFERS = 16  # letters of what was typed that a narrow table leaves free
NAME, STATE = 24, 16  # letters of a run's name and state in a narrow table
WIDE = 160  # columns from which nothing is cut


def chosen(found: Sequence[dict[str, Any]], given: Mapping[str, str]) -> list[dict[str, Any]]:
    """The runs that fit every key=value: model, data, state, seed, or a key of their configs.

    A value may have * ? [] and be several with commas between them. Raises ConfigError for a key
    that no run has.
    """
    known = {"state", *(key for run in found for key in run["keys"])}
    called = {k.removesuffix(".name") for k in known}
    if found and (strange := [key for key in given if key not in known | called]):
        near = suggest(strange[0], sorted(called)) or "state=, model=, data=, seed= are some keys."
        raise ConfigError(f"no run has a key {strange[0]!r}. {near}")
    return [run for run in found if all(_fits(run, k, v) for k, v in given.items())]


def _fits(run: Mapping[str, Any], key: str, value: str) -> bool:
    if key == "state":
        has = [str(run["state"]).partition(":")[0]]
    else:
        has = [run["keys"][k] for k in (key, f"{key}.name") if k in run["keys"]]
    if key in ("model", "data"):  # by the name that was chosen, too
        has.append(str(run["name"]).rpartition("-")[0 if key == "model" else 2])
    wanted = value.strip("[]").split(",")
    return any(fnmatchcase(h, w.strip()) or _same_number(h, w) for h in has for w in wanted)


def _same_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def runs_table(found: Sequence[dict[str, Any]], width: int) -> str:
    """A line a run: the columns that fit, what was typed for it and not for the others last."""
    apart, narrow = _apart(found), width < WIDE
    name, state = (NAME, STATE) if narrow else (200, 40)
    columns = {
        "id": [str(run["id"]) for run in found],
        "run": [cut(str(run["name"]), name) for run in found],
        "seed": [run["keys"].get("seed", "?") for run in found],
        "state": [cut(_state(run), state) for run in found],
        "images": [_images(run) for run in found],
        "loss": [_loss(run["loss"]) for run in found],
        "age": [duration(s) if (s := run["seconds"]) is not None else "?" for run in found],
        "size": [size(run["bytes"]) for run in found],
        "differs": apart,
    }
    lines = {k: [clean(word) for word in (k, *cells)] for k, cells in columns.items()}
    if not any(apart):
        del lines["differs"]
    heads = list(lines)
    widths = [max(map(len, cells)) for cells in lines.values()]
    if "differs" in lines:  # it runs free, and is cut where the line ends
        widths[-1] = min(widths[-1], DIFFERS) if narrow else 0
    order = [heads.index(h) for h in ORDER if h in lines]
    kept = fitting(widths, order, width)
    rows = [[lines[heads[i]][row] for i in kept] for row in range(len(found) + 1)]
    if heads[kept[-1]] == "differs":
        left = width - sum(widths[i] + 2 for i in kept[:-1])
        rows = [[*row[:-1], cut(row[-1], left)] for row in rows]
    return table(rows)


ORDER = ("id", "run", "state", "images", "seed", "differs", "loss", "age", "size")
"""Which columns a narrow table has rather than others."""


def _apart(found: Sequence[dict[str, Any]]) -> list[str]:
    """What was typed for each run but not for all, without what other columns say.

    Of a key its last part stands where no other one ends so: lr=0.001.
    """
    words = [[w for w in run["typed"] if not w.startswith(SAID)] for run in found]
    shared = set.intersection(*map(set, words)) if len(words) > 1 else set()
    whole = {w.partition("=")[0] for own in words for w in own}
    lasts = [key.rpartition(".")[2] for key in whole]
    briefly = {k: last for k in whole if lasts.count(last := k.rpartition(".")[2]) == 1}

    def brief(word: str) -> str:
        key, equals, value = word.partition("=")
        return f"{briefly.get(key, key)}{equals}{value}"

    return [" ".join(brief(w) for w in own if w not in shared) for own in words]


SAID = ("model=", "data=", "seed=", "outputs=", "data.root=")


def _state(run: Mapping[str, Any]) -> str:
    """The status, with the image of the last spike where it does not speak of spikes itself."""
    status, spike = str(run["state"]), run["spike"]
    if spike is None or status.startswith(("done:", "failed:")):
        return status
    return f"{status}{',' if ':' in status else ':'} spike at image {spike:,}"


def _images(run: Mapping[str, Any]) -> str:
    seen, total = run["images"], run["total"]
    if total is not None and seen >= total:
        return short(seen)
    return f"{short(seen)} / {short(total) if total is not None else '?'}"


def _loss(losses: Mapping[str, float]) -> str:
    named = (f"{k} {number(v)}" if len(losses) > 1 else number(v) for k, v in losses.items())
    return " ".join(named) or "-"
