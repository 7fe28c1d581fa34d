"""The components of every config group, their signatures, and how a config becomes an object.

A config group is a folder of this package and one of configs/. A component is a class
with `@register`; its name is the stem of its file unless the decorator gives others.
Nothing here imports a component before it is built: names come from a regular expression over the
sources, signatures from `ast`. This file imports neither torch nor hydra.

The constructor is the schema. Positional parameters are what `genlab.assemble` gives (built
networks, the Spec of the data, ...); keyword-only ones are the keys of the yaml, have no defaults
there, and their annotations say what a value may be.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

from genlab.core.errors import ConfigError, Refused
from genlab.core.schema import coerce

__all__ = [
    "BASES",
    "COMMON",
    "GROUPS",
    "SEVERAL",
    "Signature",
    "build",
    "check",
    "components",
    "configs_dir",
    "find",
    "import_from_here",
    "mismatches",
    "named_runs",
    "names",
    "nodes",
    "owners",
    "paths",
    "register",
    "signature",
    "suggest",
]

PACKAGE = Path(__file__).parent.parent
GROUPS = (
    "model",
    "network",
    "process",
    "sampler",
    "guidance",
    "codec",
    "data",
    "optimizer",
    "schedule",
    "hardware",
    "track",
    "metric",
    "features",
)

SEVERAL = ("network", "metric")
"""Groups of which a config has any number of components, each under a name: network.net."""

COMMON: dict[str, dict[str, str]] = {
    "model": {"classes": "int | Literal['auto', 'none']"},
    "data": {"root": "str"},
    "optimizer": {"players": "dict[str, dict]"},
    "sampler": {"through": "str | None"},
}
"""Keys that every component of a group has, given to constructors with such a positional one."""

BASES = {
    "model": "genlab.core.contract:Model",
    "network": "genlab.core.contract:Network",
    "process": "genlab.core.contract:Process",
    "sampler": "genlab.core.contract:Sampler",
    "guidance": "genlab.core.contract:Guidance",
    "codec": "genlab.core.contract:Codec",
    "data": "genlab.core.contract:Dataset",
    "optimizer": "genlab.core.contract:Optimizer",
    "schedule": "genlab.core.contract:Schedule",
    "metric": "genlab.core.metric:Metric",
    "features": "genlab.core.metric:Features",
}
"""The class that declares what the components of a group can do, from which all are derived."""

MISSING = "???"
"""What a yaml has for a key that those which inherit it must set."""

T = TypeVar("T")


@overload
def register(target: type[T]) -> type[T]: ...
@overload
def register(target: str, *more: str) -> Callable[[T], T]: ...
def register(target: Any, *more: str) -> Any:
    """Marks a component: `@register`, or `@register("adam", "adamw")` for other names."""
    own = (target, *more) if isinstance(target, str) else None

    def mark(cls: Any) -> Any:
        cls.registered = own or (cls.__module__.rpartition(".")[2],)
        return cls

    return mark if own else mark(target)


# --- names ---------------------------------------------------------------------------------------


def configs_dir() -> Path:
    """The folder of the config groups: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


_MARK = re.compile(r"^@register(?:\(([^)]*)\))?\s*$", re.MULTILINE)


@lru_cache
def components(group: str) -> Mapping[str, Path]:
    """Name -> source file of every component of a group, without importing any."""
    found: dict[str, Path] = {}
    for path in sorted((PACKAGE / group).glob("*.py")):
        if path.stem == "__init__":
            continue
        for match in _MARK.finditer(path.read_text(encoding="utf-8")):
            given = re.findall(r"[\"']([^\"']+)[\"']", match[1] or "")
            for name in given or [path.stem]:
                if name in found:
                    raise AssertionError(f"{group} {name!r} is registered twice: {path}")
                found[name] = path
    return types.MappingProxyType(found)


def names(group: str, *folders: Path) -> list[str]:
    """The names of a config group: the yaml files of its folder, nested ones as `a/b`.

    Those in its folder `base` are no choices: what others inherit. folders: further config roots
    beside the built-in one.
    """
    found = set()
    for root in (configs_dir(), *folders):
        base = root / group
        if base.is_dir():
            found |= {p.relative_to(base).with_suffix("").as_posix() for p in base.rglob("*.yaml")}
    return sorted(n for n in found if not n.startswith("base/"))


def suggest(word: str, options: Iterable[str], n: int = 3) -> str:
    """`Did you mean ...?` with the nearest options, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(o) for o in options], n=n, cutoff=0.5)
    if not close:
        return ""
    return "Did you mean " + " or ".join(repr(c) for c in close) + "?"


def unknown(group: str, name: str, options: Iterable[str]) -> str:
    """The sentence for a name that does not exist."""
    options = list(options)
    hint = suggest(name, options) or "There are: " + ", ".join(options) + "."
    return f"no {group} {name!r}. {hint} (`genlab list {group}` shows all)"


# --- signatures ----------------------------------------------------------------------------------


class Signature(NamedTuple):
    """What a constructor takes.

    given: positional parameters, given by `genlab.assemble`; required those without default.
    keys: keyword-only parameters, the keys of the yaml, with their annotations as text.
    doc: first line of the docstring.

    A constructor with `**kwargs` takes what that of its base class takes besides; a key that both
    name has the annotation of the subclass.
    """

    given: tuple[str, ...]
    required: tuple[str, ...]
    keys: Mapping[str, str]
    doc: str


def _source(group: str, name: str) -> tuple[Path, str | None]:
    """File of a component, and the class name for an out-of-tree `package.module:Class`."""
    if ":" in name:
        module, _, cls = name.partition(":")
        origin = _origin(module)
        if origin is None:
            raise ConfigError(
                f"{group}.name={name}: no module {module!r} on the Python path or in this folder; "
                f"go where {module.partition('.')[0]} lies, or put that folder on PYTHONPATH"
            )
        return origin, cls
    known = components(group)
    if name not in known:
        raise ConfigError(unknown(group, name, known))
    return known[name], None


def _origin(module: str) -> Path | None:
    """The source file of a module; unlike importlib.util.find_spec, no parent is imported.

    The current folder comes last and stays off the path: what is only read may be foreign.
    """
    name, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(name)
        spec = spec or importlib.machinery.PathFinder.find_spec(name, [os.getcwd()])
    except (ImportError, ValueError, OSError):
        return None
    for part in rest:
        name = f"{name}.{part}"
        inside = spec.submodule_search_locations if spec else None
        spec = importlib.machinery.PathFinder.find_spec(name, list(inside or ()))
    origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _registers(node: ast.expr, name: str, stem: str) -> bool:
    if isinstance(node, ast.Name):
        return node.id == "register" and name == stem
    match node:
        case ast.Call(func=ast.Name(id="register"), args=args):
            return name in [a.value for a in args if isinstance(a, ast.Constant)]
    return False


@lru_cache
def signature(group: str, name: str) -> Signature:
    """The constructor of a component, read from its source file without importing it."""
    path, cls = _source(group, name)
    for node in _module(path)[0].values():
        if node.name == cls or any(_registers(d, name, path.stem) for d in node.decorator_list):
            doc = (ast.get_docstring(node) or "").strip().split("\n")[0]
            found = _constructor(path, node.name) or Signature((), (), {}, "")
            return found._replace(doc=doc)
    raise ConfigError(f"{group}.name={name}: {path} has no such class")


@lru_cache
def _module(path: Path) -> tuple[dict[str, ast.ClassDef], dict[str, tuple[ast.ImportFrom, str]]]:
    """The classes of a source file, and the names it imports `from` others, as they have them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (
        {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)},
        {
            alias.asname or alias.name: (node, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        },
    )


def _imported(path: Path, node: ast.ImportFrom) -> Path | None:
    """The source file an import of another leads to; None outside of what can be read."""
    module = node.module or ""
    if node.level:
        place = path.parents[node.level - 1].joinpath(*module.split("."))
        return next(
            (p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None
        )
    return None if module.partition(".")[0] in sys.stdlib_module_names else _origin(module)


def _constructor(
    path: Path, name: str, below: tuple[tuple[Path, str], ...] = ()
) -> Signature | None:
    """The constructor of a class that a source file has or imports; None where none is written.

    below: the classes between it and the one that is asked for.
    """
    if (path, name) in below:
        raise ConfigError(f"class {name} of {path} is a base of its own")
    below = (*below, (path, name))
    classes, imports = _module(path)
    if name not in classes:
        node, there = imports.get(name, (None, name))
        origin = _imported(path, node) if node else None
        return _constructor(origin, there, below) if origin else None
    own = _own_constructor(classes[name])
    if own is not None and own[1] is None:
        return own[0]
    bases = [b.value if isinstance(b, ast.Subscript) else b for b in classes[name].bases]
    above = (_constructor(path, b.id, below) for b in bases if isinstance(b, ast.Name))
    inherited = next(filter(None, above), None)
    if own is None:
        return inherited
    if inherited is None:
        raise ConfigError(
            f"class {name} of {path} takes **{own[1]}, and no base class says which keys those "
            "are: name them, or import the base by `from module import Base`"
        )
    mine = own[0]
    return Signature(
        tuple(dict.fromkeys((*mine.given, *inherited.given))),
        mine.required + tuple(g for g in inherited.required if g not in mine.given),
        {**inherited.keys, **mine.keys},
        "",
    )


def _own_constructor(node: ast.ClassDef) -> tuple[Signature, str | None] | None:
    """What is written in a class itself, and the name of its `**kwargs`."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            args = item.args
            given = tuple(a.arg for a in args.args[1:])
            required = given[: len(given) - len(args.defaults)]
            keys = {
                a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in args.kwonlyargs
            }
            return Signature(given, required, keys, ""), args.kwarg.arg if args.kwarg else None
    return None


def owners(group: str, key: str) -> str:
    """`eta is a key of sampler=ddim.`, or an empty string where no component has it."""
    found = [f"{group}={n}" for n in components(group) if key in signature(group, n).keys]
    return f"{key} is a key of {' and '.join(found)}." if found else ""


def nodes(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(where it stands, its group, it) of the node of every component of a config."""
    for group in GROUPS:
        found = config.get(group)
        if not isinstance(found, Mapping):
            continue
        several = group in SEVERAL
        for key, node in found.items() if several else [(group, found)]:
            if isinstance(node, Mapping):
                yield (f"{group}.{key}" if several else group), group, node


# --- from a config node to an object -------------------------------------------------------------


def check(group: str, node: Mapping[str, Any], key: str | None = None) -> list[str]:
    """Every problem of a config node as a sentence; nothing is imported.

    key: where the node stands in the config, e.g. "network.net"; the group itself by default.
    """
    key = key or group
    name = node.get("name")
    if not isinstance(name, str):
        return [f"{key}.name is missing: it names a component of {group} (`genlab list {group}`)"]
    try:
        wanted = signature(group, name)
    except ConfigError as e:
        return list(e.problems)
    own = {k: value for k, value in node.items() if k != "name"}
    more = COMMON.get(group, {})
    return mismatches(own, key, f"{group} {name!r}", wanted.keys, more, lambda k: owners(group, k))


def mismatches(
    node: Mapping[str, Any],
    key: str,
    whose: str,
    needed: Mapping[str, str],
    more: Mapping[str, str] = types.MappingProxyType({}),
    elsewhere: Callable[[str], str] = lambda key: "",
) -> list[str]:
    """Every unknown, mistyped or missing key of a mapping as a sentence.

    key: where it stands in the config; whose: what it describes; needed, more: key -> annotation
    of those it must and those it may have; elsewhere: a sentence on who else has a key.
    """
    schema = {**needed, **more}
    problems = []
    for k, value in node.items():
        if value == MISSING:
            continue
        if k not in schema:
            near = (
                elsewhere(k)
                or suggest(k, schema)
                or "It has: " + (", ".join(schema) or "no keys") + "."
            )
            problems.append(f"{key}.{k}: {whose} has no such key. {near}")
            continue
        try:
            coerce(value, schema[k])
        except ValueError as e:
            problems.append(f"{key}.{k} must be {e}, not {value!r}")
    if missing := [k for k in needed if node.get(k, MISSING) == MISSING]:
        problems.append(f"{key}: {whose} needs the key {', '.join(missing)}")
    return problems


def import_from_here() -> None:
    """Lets out-of-tree names be found in the current folder too, after all that is installed."""
    here = os.getcwd()
    sys.path += [here] * (here not in sys.path and "" not in sys.path)


def find(group: str, name: str, *, trust: bool = True) -> Any:
    """The class behind a name; imports its file.

    trust: False refuses out-of-tree names (a run directory of somebody else is data, not code).
    """
    if ":" in name:
        if not trust:
            raise Refused(
                f"{group}.name={name} would import code from outside genlab; "
                "read that code, then add trust=true"
            )
        module, _, cls = name.partition(":")
        import_from_here()
        return getattr(importlib.import_module(module), cls)
    path, _ = _source(group, name)
    module_object = importlib.import_module(f"genlab.{group}.{path.stem}")
    for value in vars(module_object).values():
        own = isinstance(value, type) and value.__module__ == module_object.__name__
        if own and name in vars(value).get("registered", ()):
            return value
    raise AssertionError(f"{path} does not register {name!r}")


def named_runs(group: str, node: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Key -> {run, checkpoint, weights} of every run that a config node names.

    A key annotated `RunRef` names one. A key called `run` may have its checkpoint and weights
    beside it, as keys of the component.
    """
    try:
        wanted = signature(group, node.get("name") or "").keys
    except ConfigError:
        return {}
    found = {}
    for key, annotation in wanted.items():
        if "RunRef" in annotation and node.get(key) is not None:
            beside = {k: node[k] for k in ("checkpoint", "weights") if key == "run" and k in node}
            with suppress(ValueError):  # `check` says what is wrong with it
                found[key] = {**coerce(node[key], "RunRef"), **beside}
    return found


def paths(config: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """(node, key) of every key of a config that is annotated `FilePath` and has a value."""
    for _, group, node in nodes(config):
        with suppress(ConfigError):  # `check` says what is wrong with it
            for key, annotation in signature(group, node.get("name") or "").keys.items():
                if "FilePath" in annotation and isinstance(node.get(key), str):
                    yield node, key


def build(
    group: str,
    node: Mapping[str, Any],
    key: str | None = None,
    trust: bool = True,
    runs: Mapping[str, Any] = types.MappingProxyType({}),
    **given: Any,
) -> Any:
    """Constructs the component a config node names.

    runs: for each of `named_runs` what the constructor receives. given: all else there is; the
    constructor takes what its positional parameters name. Raises ConfigError with every problem
    of the node, or with the ValueError of the constructor.
    """
    key = key or group
    if problems := check(group, node, key):
        raise ConfigError(*problems)
    name = node["name"]
    wanted = signature(group, name)
    for k in COMMON.get(group, {}):
        if k in node and k in wanted.given:
            given[k] = node[k]
    if absent := [g for g in wanted.required if g not in given]:
        raise ConfigError(
            f"{key}: {group} {name!r} needs {', '.join(absent)}, which nothing gives"
        )
    values = {k: coerce(node[k], a) for k, a in wanted.keys.items()} | dict(runs)
    component = find(group, name, trust=trust)
    if group in BASES:
        module, _, base = BASES[group].partition(":")
        if not issubclass(component, getattr(importlib.import_module(module), base)):
            raise ConfigError(
                f"{key}.name={name} is no {module}.{base}, which says what it can do; derive "
                f"{component.__name__} from that class"
            )
    try:
        return component(**{g: given[g] for g in wanted.given if g in given}, **values)
    except ValueError as e:
        raise ConfigError(f"{key}: {e}") from e
