"""What the config folders hold, read as text: groups, configs, keys and their comments.

Hydra is the truth about a composition and costs a quarter of a second to import. Help, Tab, `list`
and the check of names need less: which groups there are, which config of each would be chosen, and
which keys that has. A yaml here is plain enough for lines and regular expressions.

A config inherits by Hydra's defaults list: `defaults: [unet]` stands for the keys of unet.yaml,
which its own lines change. `files` follows these lists; whatever reads a config without composing
it goes through `files` or `lines`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from genlab.core.registry import GROUPS, configs_dir

__all__ = [
    "Choice",
    "File",
    "Key",
    "chosen",
    "files",
    "find_yaml",
    "groups",
    "keys",
    "known",
    "lines",
    "names_in",
    "ordered",
    "scan",
    "scan_text",
    "summary",
]


class Key(NamedTuple):
    """One line of a yaml: dotted name in the composed config, default as text, comment, file."""

    name: str
    default: str
    comment: str
    file: str = ""


class File(NamedTuple):
    """One yaml of a config: where it lies, and the dotted place of its keys in a composed one."""

    path: Path
    name: str  # "model/base/path.yaml"
    package: str


class Choice(NamedTuple):
    """The config a group would have, and who chose it ("train.yaml", "command line", ...)."""

    name: str
    who: str


_LINE = re.compile(r"^(\s*)([A-Za-z_]\w*)\s*:(?:\s+(.*))?$")
_VALUE = re.compile(r"^((?:\"[^\"]*\"|'[^']*'|[^#\s]|\s(?!\s*#)|(?<=\S)#)*)(?:\s*#\s*(.*))?$")
_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)
_DEFAULTS = re.compile(
    r"^defaults:[ \t]*(?:\[(?P<flow>[^\]]*)\][^\n]*\n"
    r"|(?:#[^\n]*)?\n(?P<block>(?:[ \t]*(?:[-#][^\n]*)?\n)*))",
    re.MULTILINE,
)
_DEFAULT = re.compile(
    r"^(?:(override|optional)\s+)?([\w./-]+)(?:@([\w.]+))?(?:\s*:\s*(\[[^\]]*\]|[\w./-]+))?$"
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


def ordered(groups: Sequence[str]) -> list[str]:
    """The groups in the order of the registry, then the others."""
    return sorted(groups, key=lambda g: (GROUPS.index(g) if g in GROUPS else len(GROUPS), g))


def find_yaml(group: str, name: str, *folders: Path) -> Path | None:
    """The yaml of a config; a later folder never hides an earlier one, as in Hydra."""
    for root in (configs_dir(), *folders):
        path = root / group / f"{name}.yaml"
        if path.is_file():
            return path
    return None


# --- inheritance ---------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """`override /network@net: unet` of a defaults list as kind, path, package and name."""

    kind: str
    path: str
    package: str
    name: str


def _defaults(text: str) -> list[_Entry]:
    block = _DEFAULTS.search(text)
    if block is None:
        return []
    entries = (block["flow"] or "").split(",")
    entries += [line.strip().removeprefix("-") for line in (block["block"] or "").splitlines()]
    found = [_DEFAULT.match(_split(entry.strip())[0]) for entry in entries]
    return [_Entry(*(part or "" for part in match.groups())) for match in found if match]


def files(group: str, name: str, *folders: Path) -> list[File]:
    """The yamls that make up a config, in the order in which they are merged.

    Those of its defaults list come before its own keys, unless that has `_self_` before them.
    """
    path = find_yaml(group, name, *folders)
    return list(_files(path, f"{group}/{name}", None, folders)) if path else []


def _files(
    path: Path, name: str, package: str | None, folders: tuple[Path, ...], *below: Path
) -> Iterator[File]:
    """name: path in the config folders; package: as the list has it that names this yaml."""
    text, (group, _, _) = _read(path), name.rpartition("/")
    if package is None:
        header = _PACKAGE.search(text)
        package = _within("", header[1] if header else group.replace("/", "."))
    own = [File(path, f"{name}.yaml", package)]
    for entry in _defaults(text):
        if entry.path == "_self_":
            yield own.pop()
        elif entry.kind != "override":
            for n in names_in(entry.name) if entry.name else [""]:
                inner = "/".join(filter(None, (entry.path, n)))
                yield from _inherited(inner, entry.package, group, package, folders, path, *below)
    yield from own


def _inherited(
    inner: str, at: str, group: str, package: str, folders: tuple[Path, ...], *below: Path
) -> Iterator[File]:
    """The yamls of one entry, of a yaml of this group and package."""
    whole = inner[1:] if inner[0] == "/" else f"{group}/{inner}"
    where, _, stem = whole.rpartition("/")
    path = find_yaml(where, stem, *folders)
    if path is None or path in below:  # which Hydra refuses
        return
    if at:
        given = _within(package, at)
    elif _PACKAGE.search(_read(path)):
        given = None
    else:
        given = _within(package, inner.rpartition("/")[0].replace("/", "."))
    yield from _files(path, whole, given, folders, *below)


def _within(package: str, inner: str) -> str:
    """A package within another: `_here_` is that itself, `_global_` the whole config."""
    parts = [p for p in f"{package}.{inner}".split(".") if p and p != "_here_"]
    start = max((i + 1 for i, p in enumerate(parts) if p == "_global_"), default=0)
    return ".".join(parts[start:])


def names_in(value: str) -> list[str]:
    """The names in what a group is set to: `fid`, or the list `[fid,kid]`; none in `null`."""
    found = [n.strip().strip("'\"") for n in value.strip("[]").split(",")]
    return [n for n in found if n and n != "null"]


# --- keys ----------------------------------------------------------------------------------------


def lines(group: str, name: str, *folders: Path) -> dict[str, Key]:
    """Dotted name -> key of a config, with those it inherits; a comment is inherited, too."""
    found: dict[str, Key] = {}
    for file in files(group, name, *folders):
        _update(found, scan(file.path, file.package, file.name))
    return found


def _update(found: dict[str, Key], new: list[Key]) -> None:
    for key in new:
        old = found.get(key.name)
        found[key.name] = key if key.comment or not old else key._replace(comment=old.comment)


def scan(path: Path, package: str = "", file: str = "") -> list[Key]:
    """Every `key: value  # comment` of a yaml alone, under its dotted name."""
    return scan_text(_read(path), package, file)


def scan_text(text: str, package: str = "", file: str = "") -> list[Key]:
    """The same of its text."""
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    hidden: int | None = None  # indent of a `defaults:` or of a block of text that is being passed
    found = []
    for line in text.splitlines():
        if _PACKAGE.match(line):
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
        dotted = ".".join(filter(None, (package, *(p for _, p in parents), name)))
        beside = comment or " ".join(above if found else [])  # the first one is of the whole file
        found.append(Key(dotted, value, beside, file))
        found += [Key(f"{dotted}.{k}", v.strip(), "", file) for k, v in _flow(value)]
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
    """The first comment of a yaml that says something, for configs without a class."""
    for line in _read(path).splitlines():
        if line.startswith("#") and not _PACKAGE.match(line):
            return line.lstrip("# ").strip()
        if line.strip() and not line.startswith("#"):
            return ""
    return ""


# --- what a command line would compose -----------------------------------------------------------


def chosen(primary: str, picks: Mapping[str, str], *folders: Path) -> dict[str, Choice]:
    """Group -> config a composition would have, with who chose it.

    primary: "train" or "sample"; picks: group -> name given on the command line. The command line
    wins over the experiment, the experiment over the model, the model over the primary.
    """
    path = configs_dir() / f"{primary}.yaml"
    bound = {e.path: e.name for e in _defaults(_read(path)) if e.name and e.kind != "override"}
    result = {g: Choice(n, path.name) for g, n in bound.items() if n != "null"}
    by_hand = {g: Choice(n, "command line") for g, n in picks.items()}
    asked = {**result, **by_hand}
    layers = []
    if "experiment" in asked:
        layers.append(_layer("experiment", asked["experiment"].name, *folders))
        asked = {**asked, **layers[0], **by_hand}
    if "model" in asked:
        layers.insert(0, _layer("model", asked["model"].name, *folders))
    for layer in layers:
        result.update(layer)
    return {**result, **by_hand}


def _layer(group: str, names: str, *folders: Path) -> dict[str, Choice]:
    """What a config chooses of other groups: `override /network: unet` in a defaults list."""
    found = [f for name in names_in(names) for f in files(group, name, *folders)]
    return {
        entry.path.removeprefix("/"): Choice(entry.name, file.name)
        for file in found
        for entry in _defaults(_read(file.path))
        if entry.kind == "override"
    }


def keys(primary: str, picks: Mapping[str, str], *folders: Path) -> dict[str, Key]:
    """Dotted name -> key of everything a composition would hold."""
    path = configs_dir() / f"{primary}.yaml"
    found = {k.name: k for k in scan(path, file=path.name)}
    for group, choice in chosen(primary, picks, *folders).items():
        for name in names_in(choice.name):
            _update(found, list(lines(group, name, *folders).values()))
    return {n: k for n, k in found.items() if n.partition(".")[0] != "hydra"}


def known(primary: str, *folders: Path) -> set[str]:
    """The names that may begin a key: groups and the top level of the primary config."""
    own = {k.name.partition(".")[0] for k in scan(configs_dir() / f"{primary}.yaml")}
    return own | set(groups(*folders)) | {"hydra", "extra"} if own else set()
