"""`genlab show`: a composed config, key by key: value, type, who chose it, what it means."""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from genlab.cli.list import class_doc
from genlab.config import catalog, overrides
from genlab.config.compose import compose, provenance, split_options
from genlab.config.keys import EXPECTED_RESULT, KEYS
from genlab.core import registry
from genlab.core.format import table
from genlab.core.registry import COMMON, GROUPS
from genlab.core.schema import CHOICES

__all__ = ["text"]

Row = tuple[str, str, str, str, str]  # key, value, type, who chose it, comment


def text(words: Sequence[str], config_dirs: Sequence[str] = (), width: int = 10_000) -> str:
    """The answer of `genlab show ...`; ConfigError when the config is not valid.

    width: columns of the terminal.
    """
    _, words = split_options(words)
    composed = compose(words, config_dirs)
    who = provenance(words, config_dirs)
    folders = [Path(d) for d in config_dirs]
    picks = overrides.picks(words, *folders)
    notes = catalog.keys("train", picks, *folders)
    chosen = catalog.chosen("train", picks, *folders)

    def row(key: str, value: Any, annotation: str) -> Row:
        comment = notes[key].comment if key in notes else ""
        return key, _value(value), _type(annotation), _who(key, who), comment

    blocks: list[tuple[str, list[Row]]] = []
    for group in [g for g in GROUPS if g in composed]:
        name, by = chosen.get(group) or (str(composed[group].get("name")), "")
        nodes = [(key, node) for key, _, node in registry.nodes({group: composed[group]})]
        docs = [class_doc(group, node.get("name")) for _, node in nodes]
        name_key = notes.get(f"{group}.name")
        docs.append(name_key.comment if name_key else "")  # what this config says of itself
        title = f"{group}={name}" + (f"  ({by})" if by else "")
        rows = [
            row(f"{key}.{k}", value, annotations.get(k, ""))
            for key, node in nodes
            for annotations in [_types(group, node.get("name"))]
            for k, value in node.items()
            if (k, value) != ("name", None)  # `none`
        ]
        rows = [r for r in rows if r[:2] != (f"{group}.name", name)]  # the title says it
        blocks.append(("\n  ".join([title, *filter(None, docs)]), rows))
    rest = {k: v for k, v in composed.items() if k not in GROUPS}
    types = {**KEYS["train"], **{f"promise.{k}": t for k, t in EXPECTED_RESULT.items()}}
    blocks.append(("the run", [row(k, value, types.get(k, "")) for k, value in _leaves(rest)]))

    # one table, cut into its blocks again, so that the columns stand in line throughout
    every = [r for _, rows in blocks for r in rows]
    heads = table([(*r[:4], "|") for r in every], indent="  ").splitlines()
    lines = iter([_beside(h[:-1], r[4], width) for h, r in zip(heads, every, strict=True)])
    return "\n\n".join("\n".join([title, *(next(lines) for _ in rows)]) for title, rows in blocks)


def _beside(head: str, comment: str, width: int) -> str:
    """The comment in what the columns leave of the width, hanging below itself when long."""
    left = max(32, width - len(head))
    return (head + f"\n{' ' * len(head)}".join(textwrap.wrap(comment, left))).rstrip()


def _types(group: str, name: Any) -> dict[str, str]:
    """Key -> annotation of a component; of what has no name, of its group alone."""
    own = registry.signature(group, name).keys if isinstance(name, str) else {}
    return {"name": "str", **own, **COMMON.get(group, {})}


def _who(key: str, who: Mapping[str, str]) -> str:
    """Who set a key; a mapping is set where its last part was."""
    if key in who:
        return who[key]
    inside = [v for k, v in who.items() if k.startswith(f"{key}.")]
    return inside[-1] if inside else ""


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: Any) -> str:
    """As it would be typed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_TYPES = {
    "Positive": "float > 0",
    "NonNegative": "float >= 0",
    "Fraction": "float 0..1",
    "Count": "int >= 1",
    "Natural": "int >= 0",
    "Average": "float >= 0 | {halflife: ..., ramp: ...} | {decay: ...} | {std: [...]}",
    "FilePath": "path",
    "None": "null",
}


def _type(annotation: str) -> str:
    """An annotation in the words of somebody who types values."""
    return _read(ast.parse(annotation, mode="eval").body) if annotation else ""


def _read(node: ast.expr) -> str:
    match node:
        case ast.BinOp():
            return f"{_read(node.left)} | {_read(node.right)}"
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = [ast.literal_eval(e) for e in getattr(inner, "elts", [inner])]
            return " | ".join(map(str, options))
        case ast.Subscript(value=ast.Name(id="list" | "tuple"), slice=inner):
            element = inner.elts[0] if isinstance(inner, ast.Tuple) else inner
            return f"[{_read(element)}, ...]"
        case ast.Subscript(value=ast.Name(id="dict")):
            return "{name: ...}"
    word = ast.unparse(node)
    if word in CHOICES:
        return " | ".join(get_args(CHOICES[word]))
    return _TYPES.get(word, word)
