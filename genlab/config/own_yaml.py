"""The YAML of a --config-dir, read before Hydra does: what is wrong is said with file and line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from genlab.core.errors import ConfigError

__all__ = ["check_folder"]

LARGEST = 200_000  # bytes; nobody writes a longer one
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_folder(folder: Path) -> None:
    """ConfigError with every YAML file below a folder that is no plain data, at most ten."""
    problems = [p for path in sorted(folder.rglob("*.yaml")) for p in _problems(path)]
    if problems:
        raise ConfigError(*problems[:10])


def _problems(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is no regular file"
        return
    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST else None
    except OSError as e:
        yield f"{path}: {e.strerror}"
        return
    if data is None:
        yield f"{path} has more than {LARGEST:,} bytes: no config is that long"
        return
    if data.startswith(b"\xef\xbb\xbf"):
        yield f"{path}:1: it begins with a byte order mark; save it as UTF-8 without one"
        return
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        yield f"{path}:{line}: a byte there is no UTF-8; save the file as UTF-8"
        return
    yield from _in_text(path, text)


def _in_text(path: Path, text: str) -> Iterator[str]:
    try:
        # events come before anything is built, so what aliases would multiply stays a short text
        for event in yaml.parse(text, Loader=LOADER):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                yield f"{path}:{line}: anchors (&, *) are not read; write the value out"
                return
            if (tag := getattr(event, "tag", None)) and tag != "!":
                yield f"{path}:{line}: the tag {tag} is not read; write plain values"
                return
        root = yaml.compose(text, Loader=LOADER)
    except RecursionError:
        yield f"{path} is nested too deep for a config"
        return
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        tab = mark is not None and "\t" in _line(text, mark.line)
        hint = "a tab; indent with spaces" if tab else f"{e.problem or 'no YAML'}"
        yield f"{where}: {hint}"
        return
    except yaml.YAMLError as e:
        yield f"{path} is no YAML: {str(e).splitlines()[0]}"
        return
    if root is not None and not isinstance(root, yaml.MappingNode):
        yield f"{path}:{root.start_mark.line + 1}: it has no keys; write key: value"
    elif root is not None:
        yield from _twice(path, root)


def _line(text: str, number: int) -> str:
    lines = text.splitlines()
    return lines[number] if number < len(lines) else ""


def _twice(path: Path, node: yaml.Node) -> Iterator[str]:
    """A key that a mapping has twice, of which YAML would keep the last in silence."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(path, item)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            yield f"{path}:{line}: a key that is a list or a mapping; write a word"
            continue
        name = str(key.value)
        if name in seen:
            yield f"{path}:{line}: the key {name!r} is there twice, first in line {seen[name]}"
        seen.setdefault(name, line)
        yield from _twice(path, value)
