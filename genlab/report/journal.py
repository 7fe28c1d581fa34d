"""A journal as a report reads it: by quantity, in blocks of lines, however long it is.

A million lines as dictionaries are gigabytes; the numbers alone are eight bytes each. A long curve
is thinned where it is asked for: of each stretch the lowest and the highest value stay,
so that a spike does, with the mean of the stretch.
"""

from __future__ import annotations

import gc
import json
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from genlab.core.files import opened
from genlab.run.spike import VALUE

__all__ = ["Journal", "Series", "is_logged", "is_number", "read_journal", "usable"]

BLOCK = 1_000_000  # bytes that are read at once
LONGEST = 10_000_000  # bytes of a line; nobody writes one
STRETCHES = 5_000  # of a thinned curve, of up to three values each
MANY = 20_000  # values from which a curve is thinned
SPIKED = 10_000  # lines with spikes that are kept whole
LATEST = 10_000  # values that are looked through for one of some number of images

Floats = NDArray[np.float64]


class Series(NamedTuple):
    """One logged quantity: images [n] (increasing) and values [n], which may not be finite.

    means: [n] the mean of the usable values of the stretch that each stands for, None where each
    stands for itself. lost: values that were not usable, None where they all are here.
    """

    name: str
    images: Floats
    values: Floats
    means: Floats | None = None
    lost: int | None = None

    @property
    def not_usable(self) -> int:
        """How many of the logged values were not finite, or far too large."""
        return int((~usable(self.values)).sum()) if self.lost is None else self.lost


class _Column:
    """The values of a quantity, and the lines they stand in, None while they stand in every one.

    Arrays that grow in place: parts that are joined later would be there twice.
    """

    def __init__(self) -> None:
        self._values = array("d")
        self._lines: array[int] | None = None

    def add(self, values: Floats, lines: NDArray[np.int32], whole: bool) -> None:
        """whole: whether they stand in every line since the last ones that were added."""
        if self._lines is None and not (whole and len(self._values) == lines[0]):
            self._lines = array("i", range(len(self._values)))
        self._values.frombytes(values.tobytes())
        if self._lines is not None:
            self._lines.frombytes(lines.tobytes())

    @property
    def values(self) -> Floats:
        """[n]."""
        return np.frombuffer(self._values, np.float64)

    @property
    def lines(self) -> NDArray[np.int32]:
        """[n] increasing."""
        if self._lines is None:
            return np.arange(len(self._values), dtype=np.int32)
        return np.frombuffer(self._lines, np.int32)


class Journal:
    """The numbers of a journal, by quantity.

    spiked: the lines that hold a spike, whole.
    """

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._count = 0
        self.spiked: list[dict[str, Any]] = []

    @property
    def names(self) -> list[str]:
        """Every quantity, in the order of first appearance."""
        return list(self._columns)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes lines that are objects with a number of images."""
        alike: dict[tuple[str, ...], list[int]] = {}
        for i, row in enumerate(rows):
            alike.setdefault(tuple(row), []).append(i)
        parts: dict[str, list[tuple[NDArray[np.int32], Floats]]] = {}
        for keys, places in alike.items():
            which = np.array(places, np.int32)
            columns = zip(*(rows[i].values() for i in places), strict=True)
            for key, column in zip(keys, columns, strict=True):
                lines, values = _numbers(which, column)
                if len(lines):
                    parts.setdefault(key, []).append((lines, values))
            if any(key.startswith(VALUE) for key in keys) and len(self.spiked) < SPIKED:
                self.spiked += [rows[i] for i in places]
        for key, found in parts.items():
            which = np.concatenate([part for part, _ in found])
            values = np.concatenate([part for _, part in found])
            if len(found) > 1:
                order = np.argsort(which)
                which, values = which[order], values[order]
            whole = self._columns.setdefault(key, _Column())
            whole.add(values, which + np.int32(self._count), len(which) == len(rows))
        self._count += len(rows)

    def _column(self, name: str) -> _Column:
        return self._columns.get(name, _Column())

    def series(self, name: str) -> Series:
        """The curve of a quantity, thinned where it is long."""
        column = self._column(name)
        values = column.values
        images = self._column("images").values[column.lines]
        if (np.diff(images) < 0).any():
            order = np.argsort(images, kind="stable")
            images, values = images[order], values[order]
        if len(values) <= MANY:
            return Series(name, images, values)
        return _thinned(name, images, values)

    def last(self, name: str) -> float | None:
        """The latest finite value of a quantity."""
        values = self._column(name).values
        finite = np.flatnonzero(np.isfinite(values))
        return float(values[finite[-1]]) if len(finite) else None

    def backwards(self, names: Sequence[str]) -> Iterator[tuple[float, str, float]]:
        """(images, name, value) of the finite values of some quantities, the last line first."""
        found = []
        for order, name in enumerate(dict.fromkeys(names)):
            column = self._column(name)
            lines, values = column.lines, column.values
            good = np.flatnonzero(np.isfinite(values))[::-1][:LATEST]
            found += [(-int(lines[i]), order, name, float(values[i])) for i in good]
        images = self._column("images").values
        for line, _, name, value in sorted(found):
            yield float(images[-line]), name, value


def _numbers(
    lines: NDArray[np.int32], column: tuple[Any, ...]
) -> tuple[NDArray[np.int32], Floats]:
    """The lines whose value is a number or null, and these; null is one that was not finite."""
    if not {*map(type, column)} <= {int, float, type(None)}:
        logged = [i for i, v in enumerate(column) if v is None or is_logged(v)]
        lines, column = lines[logged], tuple(column[i] for i in logged)
    try:
        return lines, np.array(column, np.float64)  # None becomes nan
    except OverflowError:
        return lines, np.array([_float(v) for v in column])


def _thinned(name: str, images: Floats, values: Floats) -> Series:
    """Of each stretch the lowest and highest value, one that is not usable, and the two ends."""
    n, good = len(values), usable(values)
    each = -(-n // STRETCHES)

    def stretches(filled: Floats, rest: float) -> Floats:
        """[STRETCHES, each]: the values, and `rest` behind the last."""
        out = np.full(each * STRETCHES, rest)
        out[:n] = filled
        return out.reshape(STRETCHES, each)

    start = np.arange(STRETCHES) * each
    lowest = start + stretches(np.where(good, values, np.inf), np.inf).argmin(1)
    highest = start + stretches(np.where(good, values, -np.inf), -np.inf).argmax(1)
    bad = stretches((~good).astype(float), 0.0)
    many = stretches(good.astype(float), 0.0).sum(1)
    means = stretches(np.where(good, values, 0.0), 0.0).sum(1) / np.maximum(many, 1)
    lost = (start + bad.argmax(1))[bad.any(1)]
    some = many > 0
    keep = np.unique(np.concatenate([[0], lowest[some], highest[some], lost, [n - 1]]))
    return Series(name, images[keep], values[keep], means[keep // each], int(bad.sum()))


# --- reading -------------------------------------------------------------------------------------


def read_journal(path: Path, problems: list[str]) -> Journal:
    """The lines that are objects with a number of images; a line cut off by a crash is not."""
    found, broken, last = Journal(), 0, True
    collecting = gc.isenabled()
    gc.disable()  # it would look through the numbers of every block
    try:
        with opened(path) as f:
            for lines in _blocks(f):
                rows = _parsed(lines)
                good = [row for row in rows if row is not None]
                if good:
                    found.add(good)
                broken += len(rows) - len(good)
                last = bool(rows) and rows[-1] is not None
    except FileNotFoundError:
        return found
    except (OSError, ValueError) as e:
        problems.append(f"{path.name}: {e.strerror if isinstance(e, OSError) else e}")
    finally:
        if collecting:
            gc.enable()
    if broken and not (broken == 1 and not last):  # the last line may be half written
        problems.append(f"{path.name}: {broken} lines are not readable and were left out")
    return found


def _blocks(f: Any) -> Iterator[list[bytes]]:
    """Lists of whole lines that are not empty."""
    rest = b""
    while block := f.read(BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > LONGEST:
            raise ValueError(f"a line has more than {LONGEST:,} bytes; what follows is left out")
        if lines := [line for line in lines if line.strip()]:
            yield lines
    if rest.strip():
        yield [rest]


def _parsed(lines: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """Each line as an object, None where it is none: at once, or where that fails line by line."""
    try:
        whole = all(line[:1] == b"{" and line[-1:] == b"}" for line in lines)
        rows = json.loads(b"[" + b",".join(lines) + b"]") if whole else []
        whole = len(rows) == len(lines)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        rows = [_line(line) for line in lines]
    return [row if _is_line(row) else None for row in rows]


def _line(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_line(row: Any) -> bool:
    if type(row) is not dict:
        return False
    images = row.get("images")
    if type(images) is int:
        return 0 <= images < 1 << 1000  # a number of more digits is no float
    return type(images) is float and 0 <= images < math.inf


# --- numbers -------------------------------------------------------------------------------------


def usable(values: Floats) -> NDArray[np.bool_]:
    """Finite, and small enough that differences are too."""
    return np.asarray(np.abs(values) < 1e100)  # False for nan


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return is_logged(value) and math.isfinite(_float(value))


def is_logged(value: Any) -> TypeGuard[float]:
    """Whether a value is a number, finite or not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: Any) -> float:
    """A logged value; null stands for one that was not finite."""
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.inf
