"""What the config folders hold, read as text: groups, components, keys and their comments.

Hydra is the truth about a composition and costs a quarter of a second to import. Help, Tab, `list`
and the check of names need less: which groups there are, what each of them would have, and which
keys stand in a yaml. A yaml here is plain enough for lines and regular expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from genlab.core.registry import configs_dir

__all__ = ["Choice", "Key", "chosen", "find_yaml", "groups", "keys", "known", "scan", "summary"]


class Key(NamedTuple):
    """One line of a yaml: dotted name in the composed config, default as text, comment."""

    name: str
    default: str
    comment: str


class Choice(NamedTuple):
    """The member a group would have, and who chose it ("train.yaml", "command line", ...)."""

    member: str
    who: str


_LINE = re.compile(r"^(\s*)([A-Za-z_]\w*)\s*:(?:\s+(.*))?$")
_VALUE = re.compile(r"^((?:\"[^\"]*\"|'[^']*'|[^#\s]|\s(?!\s*#)|(?<=\S)#)*)(?:\s*#\s*(.*))?$")
_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)")
_DEFAULTS = re.compile(r"^defaults:[^\n]*\n((?:[ \t]*(?:[-#][^\n]*)?\n)*)", re.MULTILINE)
_DEFAULT = re.compile(
    r"^\s*-\s+(?:(?:override|optional)\s+)?/?([\w/]+)(?:@[\w.]+)?:\s*([\w./-]+)", re.MULTILINE
)
_FLOW = re.compile(r"([A-Za-z_]\w*)\s*:\s*(\[[^\]]*\]|\{[^}]*\}|[^,{}\[\]]+)")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") + "\n"
    except (OSError, UnicodeDecodeError):
        return ""


def groups(*folders: Path) -> list[str]:
    """The config groups: folders of the config roots that hold a yaml."""
    found = set()
    for root in (configs_dir(), *folders):
        if root.is_dir():
            found |= {p.name for p in root.iterdir() if p.is_dir() and any(p.rglob("*.yaml"))}
    return sorted(found - {"hydra"})


def find_yaml(group: str, name: str, *folders: Path) -> Path | None:
    """The yaml of a member; a later folder never hides an earlier one, as in Hydra."""
    for root in (configs_dir(), *folders):
        path = root / group / f"{name}.yaml"
        if path.is_file():
            return path
    return None


def scan(path: Path, group: str = "") -> list[Key]:
    """Every `key: value  # comment` of a yaml under its dotted name.

    group: the folder the yaml lies in, its package unless its first line names another.
    """
    prefix = group.replace("/", ".")
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    hidden: int | None = None  # indent of a `defaults:` or of a block of text that is being passed
    found = []
    for line in _read(path).splitlines():
        if package := _PACKAGE.match(line):
            prefix = "" if package[1] == "_global_" else package[1]
            continue
        if line.lstrip().startswith("#"):
            above.append(line.lstrip("# \t"))
            continue
        match = _LINE.match(line)
        if match is None:
            above = []
            continue
        indent, name, rest = len(match[1]), match[2], match[3] or ""
        if hidden is not None and indent > hidden:
            continue
        value, comment = _split(rest)
        hidden = indent if name == "defaults" or value[:1] in ("|", ">") else None
        if name == "defaults":
            continue
        while parents and parents[-1][0] >= indent:
            parents.pop()
        dotted = ".".join(filter(None, (prefix, *(p for _, p in parents), name)))
        found.append(Key(dotted, value, comment or " ".join(above)))
        found += [Key(f"{dotted}.{k}", v.strip(), "") for k, v in _flow(value)]
        parents.append((indent, name))
        above = []
    return found


def _split(rest: str) -> tuple[str, str]:
    match = _VALUE.match(rest)
    return (match[1].strip(), (match[2] or "").strip()) if match else (rest.strip(), "")


def _flow(value: str) -> Iterator[tuple[str, str]]:
    if value.startswith("{") and value.endswith("}"):
        yield from _FLOW.findall(value[1:-1])


def summary(path: Path) -> str:
    """The first comment of a yaml that says something, for members without a class."""
    for line in _read(path).splitlines():
        if line.startswith("#") and not _PACKAGE.match(line):
            return line.lstrip("# ").strip()
        if line.strip() and not line.startswith("#"):
            return ""
    return ""


def _defaults(path: Path) -> dict[str, str]:
    block = _DEFAULTS.search(_read(path))
    return dict(_DEFAULT.findall(block[1])) if block else {}


def chosen(primary: str, picks: Mapping[str, str], *folders: Path) -> dict[str, Choice]:
    """Group -> member a composition would have, with who chose it.

    primary: "train" or "sample"; picks: group -> member given on the command line. The command
    line wins over the experiment, the experiment over the model, the model over the primary.
    """
    path = configs_dir() / f"{primary}.yaml"
    bound = {g: m for g, m in _defaults(path).items() if m != "null" and "/" not in g}
    result = {g: Choice(m, path.name) for g, m in bound.items()}
    by_hand = {g: Choice(m, "command line") for g, m in picks.items()}
    asked = {**result, **by_hand}
    layers = []
    if "experiment" in asked:
        layers.append(_bound("experiment", asked["experiment"].member, *folders))
        asked = {**asked, **layers[0], **by_hand}
    if "model" in asked:
        layers.insert(0, _bound("model", asked["model"].member, *folders))
    for layer in layers:
        result.update(layer)
    return {**result, **by_hand}


def _bound(group: str, member: str, *folders: Path) -> dict[str, Choice]:
    path = find_yaml(group, member, *folders)
    who = f"{group}/{member}.yaml"
    return {g: Choice(m, who) for g, m in _defaults(path).items()} if path else {}


def keys(primary: str, picks: Mapping[str, str], *folders: Path) -> dict[str, Key]:
    """Dotted name -> key of everything a composition would hold."""
    found = {k.name: k for k in scan(configs_dir() / f"{primary}.yaml")}
    for group, choice in chosen(primary, picks, *folders).items():
        path = find_yaml(group, choice.member, *folders)
        if path is not None:
            for key in scan(path, group):
                old = found.get(key.name)
                found[key.name] = key if key.comment or not old else key._replace(comment=old[2])
    return {n: k for n, k in found.items() if n.partition(".")[0] != "hydra"}


def known(primary: str, *folders: Path) -> set[str]:
    """The names that may begin a key: groups and the top level of the primary config."""
    own = {k.name.partition(".")[0] for k in scan(configs_dir() / f"{primary}.yaml")}
    return own | set(groups(*folders)) | {"hydra", "extra"} if own else set()
