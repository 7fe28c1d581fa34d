"""What a value of a config may be: the annotations of keyword-only constructor parameters.

An annotation is read as text from the source, so nothing is imported to check a value.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

from genlab.core.errors import ConfigError

__all__ = [
    "CHOICES",
    "WEIGHTS",
    "Average",
    "Count",
    "Density",
    "FilePath",
    "Fraction",
    "Grid",
    "Natural",
    "NonNegative",
    "Penalty",
    "Positive",
    "Predict",
    "Spread",
    "Weight",
    "chosen_density",
    "coerce",
    "mistyped",
]

Positive = Annotated[float, "> 0"]
NonNegative = Annotated[float, ">= 0"]
Fraction = Annotated[float, "in [0, 1]"]
Count = Annotated[int, ">= 1"]
Natural = Annotated[int, ">= 0"]
FilePath = str  # of a file or folder; as typed, it counts from where the command is given
Spread = Annotated[float, "in (0, 0.288]"]  # relative standard deviation, see core/ema.py
Average = float | dict[str, Any]  # what `ema` may be, see core/ema.py
Penalty = dict[str, Any]  # on the slope of a discriminator, see nn/adversarial.py
Predict = Literal["eps", "x0", "v", "velocity", "score", "F"]  # see core/gaussian_path.py
Weight = Literal["uniform", "x0", "eps", "velocity", "edm", "min_snr", "likelihood"]
Density = Literal["auto", "uniform", "lognormal", "logit_normal", "u_shape", "likelihood"]
WEIGHTS = "Literal['ema', 'raw'] | Spread"  # of a run: which samples are drawn with
Grid = Literal["auto", "uniform", "quadratic", "geometric", "karras"]  # see Gridded
CHOICES = {"Predict": Predict, "Weight": Weight, "Density": Density, "Grid": Grid}
"""Names of closed sets of words that several components take."""

_ALIASES: dict[str, tuple[str, str, Callable[[float], bool]]] = {
    "Positive": ("float", "a finite number > 0", lambda v: v > 0),
    "NonNegative": ("float", "a finite number >= 0", lambda v: v >= 0),
    "Fraction": ("float", "a number in [0, 1]", lambda v: 0 <= v <= 1),
    "Part": ("float", "a number in (0, 1]", lambda v: 0 < v <= 1),  # strength of an edit
    "Count": ("int", "a whole number >= 1", lambda v: v >= 1),
    "Natural": ("int", "a whole number >= 0", lambda v: v >= 0),
    "Spread": (
        "float",
        "a relative standard deviation above 0 and at most 0.288",
        lambda v: 0 < v <= 0.288,
    ),
    "Decay": ("float", "a number >= 0 and below 1", lambda v: 0 <= v < 1),  # of an Average alone
}
_AVERAGES = {
    "halflife": {"halflife": "Positive", "ramp": "NonNegative"},
    "decay": {"decay": "Decay"},
    "std": {"std": "list[Spread]"},
}
"""Mappings an Average may be, by the key that tells them apart."""
_OPTIONAL = {"ramp": 0.05}
_RUN = {
    "run": "str",
    "checkpoint": "Literal['latest', 'best'] | Natural",
    "weights": "Literal['ema', 'raw']",
}
_MAPPINGS: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "RunRef": (
        _RUN,
        {"checkpoint": "latest", "weights": "ema"},
        "a run, by path or id, or {run: ..., checkpoint: latest, weights: ema}",
    ),
    "Init": (
        {**_RUN, "role": "str | None", "into": "str | None"},
        {"checkpoint": "latest", "weights": "ema", "role": None, "into": None},
        "a run, by path or id, or {run: ..., role: net}, to which checkpoint, weights and into "
        "may be added",
    ),
}
"""Annotations of a run that a key names: keys, their defaults, what a value may be in words."""
_STDS = "{std: [...]} with relative standard deviations above 0 and at most 0.288, none twice"


_PENALTY = {
    "at": "Literal['real', 'fake', 'between']",
    "weight": "NonNegative",
    "center": "NonNegative",
    "power": "Positive",
    "one_sided": "bool",
}
_PENALTY_OPTIONAL = {"center": 0.0, "power": 2.0, "one_sided": False}


def chosen_density(density: str, weight: str) -> str:
    """The density of times that is meant, auto being uniform but for weight=likelihood."""
    if density != "auto":
        return density
    return "likelihood" if weight == "likelihood" else "uniform"


class _Mismatch(Exception):
    """A value that an annotation does not take; the message says what it takes."""


def mistyped(values: Mapping[str, Any], annotations: Mapping[str, str]) -> list[str]:
    """A sentence for each dotted key whose value its annotation does not take."""
    problems = []
    for key, annotation in annotations.items():
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        try:
            coerce(value, annotation)
        except ValueError as e:
            problems.append(f"{key} must be {e}, not {value!r}")
    return problems


def coerce(value: Any, annotation: str) -> Any:
    """The value as the annotation wants it: 2e6 -> 2000000 for int, 1 -> 1.0 for float.

    Raises ValueError that says what was expected.
    """
    try:
        return _coerce(value, ast.parse(annotation, mode="eval").body)
    except _Mismatch as e:
        raise ValueError(str(e)) from None


def _coerce(value: Any, node: ast.expr) -> Any:
    match node:
        case ast.BinOp(op=ast.BitOr()):
            expected = []
            for side in (node.left, node.right):
                try:
                    return _coerce(value, side)
                except _Mismatch as e:
                    expected.append(str(e))
            raise _Mismatch(" or ".join(expected))
        case ast.Constant(value=None):
            if value is None:
                return None
            raise _Mismatch("null")
        case ast.Subscript(value=ast.Name(id="Literal")):
            inner = node.slice
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _choose(value, [ast.literal_eval(option) for option in options])
        case ast.Subscript(value=ast.Name(id="list" | "tuple" as kind)):
            if not isinstance(value, (list, tuple)):
                raise _Mismatch("a list like [2,1]")
            inner = node.slice
            element = inner.elts[0] if isinstance(inner, ast.Tuple) else inner
            try:
                items = [_coerce(v, element) for v in value]
            except _Mismatch as e:
                raise _Mismatch(f"a list like [2,1] of which each is {e}") from None
            return tuple(items) if kind == "tuple" else items
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, inner])):
            if not isinstance(value, Mapping):
                raise _Mismatch("a mapping like {a: 1}")
            return {k: _coerce(v, inner) for k, v in value.items()}
        case ast.Name(id=name):
            return _coerce_name(value, name)
    raise ConfigError(f"annotation {ast.unparse(node)} is not one a yaml key can have")


def _choose(value: Any, options: list[Any]) -> Any:
    if value in options and type(value) in {type(o) for o in options}:
        return value
    raise _Mismatch(" or ".join(map(str, options)))


def _average(value: Any) -> float | dict[str, Any]:
    """A half-life, or a mapping with every key it may have."""
    if not isinstance(value, Mapping):
        try:
            return _coerce_name(value, "NonNegative")
        except _Mismatch:
            value = {}
    kind = _AVERAGES.get(next((k for k in _AVERAGES if k in value), ""))
    if kind is None or not set(value) <= set(kind):
        raise _Mismatch(
            "a half-life in images >= 0, {halflife: 500_000, ramp: 0.05}, {decay: 0.9999} "
            "or {std: [0.05,0.1]}"
        )
    found = {}
    for key, annotation in kind.items():
        try:
            found[key] = coerce(value.get(key, _OPTIONAL.get(key)), annotation)
        except ValueError as e:
            raise _Mismatch(_STDS if key == "std" else f"{{{key}: ...}} with {e}") from None
    stds = found.get("std")
    if stds is not None and (not stds or len(set(stds)) < len(stds)):
        raise _Mismatch(_STDS)
    return found


def _penalty(value: Any) -> dict[str, Any]:
    """A mapping with every key a Penalty has."""
    found = {}
    if not isinstance(value, Mapping) or not set(value) <= set(_PENALTY):
        raise _Mismatch("a penalty like {at: real, weight: 1, center: 0, power: 2}")
    for key, annotation in _PENALTY.items():
        try:
            found[key] = coerce(value.get(key, _PENALTY_OPTIONAL.get(key)), annotation)
        except ValueError as e:
            raise _Mismatch(f"a penalty {{{key}: ...}} with {e}") from None
    return found


def _named_run(value: Any, name: str) -> dict[str, Any]:
    """A run as a mapping with every key it may have; text is its path or id."""
    keys, defaults, words = _MAPPINGS[name]
    if isinstance(value, str):
        value = {"run": value}
    if not isinstance(value, Mapping) or not set(value) <= set(keys):
        raise _Mismatch(words)
    try:
        return {k: coerce({**defaults, **value}.get(k), keys[k]) for k in keys}
    except ValueError:
        raise _Mismatch(words) from None


def _coerce_name(value: Any, name: str) -> Any:
    if name == "Average":
        return _average(value)
    if name == "Penalty":
        return _penalty(value)
    if name in _MAPPINGS:
        return _named_run(value, name)
    if name in CHOICES:
        return _choose(value, list(get_args(CHOICES[name])))
    if name in _ALIASES:
        base, words, holds = _ALIASES[name]
        try:
            number = _coerce_name(value, base)
        except _Mismatch:
            raise _Mismatch(words) from None
        if not holds(number):
            raise _Mismatch(words)
        return number
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match name:
        case "bool" if isinstance(value, bool):
            return value
        case "int" if is_number and abs(value) < 2**53 and value == int(value):
            return int(value)
        case "float" if is_number and math.isfinite(value):
            return float(value)
        case "str" | "FilePath" if isinstance(value, str):
            return value
        case "dict" if isinstance(value, Mapping):
            return dict(value)
    kinds = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a finite number",
        "str": "text",
        "FilePath": "a path",
        "dict": "a mapping",
    }
    if name not in kinds:
        raise ConfigError(f"annotation {name} is not one a yaml key can have")
    raise _Mismatch(kinds[name])
