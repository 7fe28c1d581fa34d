"""Tab completion: the scripts for bash and zsh, and the words they ask `genlab` for.

The script hands over the line up to the cursor and gets whole words back. A word that takes a
value ends in `=` or `.` and gets no space after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from genlab.config import catalog, overrides
from genlab.config.keys import KEYS, OPTIONS
from genlab.core import registry
from genlab.core.errors import ConfigError, GenlabError
from genlab.core.schema import CHOICES

if TYPE_CHECKING:
    from genlab.cli.verb import Verb

__all__ = ["candidates", "script"]

BASH = r"""
# Tab completion of genlab for bash: eval "$(genlab completion bash)"
_genlab() {
    local line=${COMP_LINE:0:COMP_POINT} word IFS=$'\n'
    word=${line##*[[:space:]]}
    COMPREPLY=($("${COMP_WORDS[0]}" __complete "$line" 2>/dev/null))
    # readline breaks words at these and wants only what follows the last break
    local break
    for break in = :; do
        if [[ $COMP_WORDBREAKS == *"$break"* && $word == *"$break"* ]]; then
            COMPREPLY=("${COMPREPLY[@]#"${word%"$break"*}$break"}")
        fi
    done
    local i
    for i in "${!COMPREPLY[@]}"; do
        [[ ${COMPREPLY[i]} == *[=.] ]] || COMPREPLY[i]+=" "
    done
}
complete -o nospace -o default -F _genlab genlab
"""

ZSH = r"""
#compdef genlab
# Tab completion of genlab for zsh: eval "$(genlab completion zsh)" after compinit
_genlab() {
    local -a found open closed
    found=("${(@f)$("${words[1]}" __complete "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    open=(${(M)found:#*[=.]})
    closed=(${found:#*[=.]})
    (( ${#open} + ${#closed} )) || { _files; return }
    compadd -Q -S '' -- $open
    compadd -Q -- $closed
}
compdef _genlab genlab
"""


def script(*shell: str) -> str:
    """The script of one shell."""
    scripts = {"bash": BASH, "zsh": ZSH}
    if len(shell) != 1 or shell[0] not in scripts:
        raise ConfigError("name the shell: genlab completion bash, or genlab completion zsh")
    return scripts[shell[0]].strip()


def candidates(line: str) -> list[str]:
    """The whole words that could stand where the line ends."""
    words = line.split()
    current = "" if not words or line[-1:].isspace() else words.pop()
    return [c for c in _all(words[1:], current) if c.startswith(current)]


def _all(before: list[str], current: str) -> Iterable[str]:
    from genlab.cli.verb import VERBS

    folders = [Path(after) for flag, after in pairwise(before) if flag == "--config-dir"]
    if before and before[-1] == "--config-dir":
        return []
    plain = [w for w in before if not w.startswith("-") and Path(w) not in folders]
    verb = plain[0] if plain else ""
    if current.startswith("-"):
        flags = VERBS[verb].flags if verb in VERBS else ("--version",)
        return [f.split()[0] for f in (*flags, "-v", "--help")]
    if before and before[-1] == "--cfg":
        return ["job"]
    if verb not in VERBS:
        return list(VERBS) if not verb else []
    given = plain[1:]
    match verb:
        case "completion":
            return ["bash", "zsh"]
        case "list":
            kinds = [*catalog.groups(*folders), "runs"]
            filters = ["model=", "data=", "seed=", "state=", "outputs="]
            return filters if "runs" in given else [*kinds, "outputs="]
        case "compare":  # a run is named by itself
            runs = [r.removeprefix("run=") for r in _runs(given, "run=")]
            return [*runs, *(f"{key.name}=" for key in VERBS[verb].keys)]
    return _runs(given, current) or _overrides(VERBS[verb], given, current, folders)


def _runs(given: list[str], current: str) -> list[str]:
    """run= and init= take the id of a run, newest first."""
    key, equals, _ = current.partition("=")
    if key not in ("run", "init") or not equals:
        return []
    from genlab.run import directory

    outputs = next((w[8:] for w in given if w.startswith("outputs=")), "outputs")
    ids = [r.id for r in reversed(directory.runs(Path(outputs)))]
    return [f"{key}={i}" for i in ("latest", *ids)]


def _overrides(verb: Verb, given: list[str], current: str, folders: list[Path]) -> list[str]:
    """Groups, keys and the first parts of keys that a verb takes, and the values of one."""
    if verb.primary in ("sample", "eval"):
        given = [*_of_run(given), *given]
    picks = overrides.picks(given, *folders)
    keys = catalog.keys(verb.primary, picks, *folders) if verb.primary else {}
    groups = catalog.groups(*folders)
    sign = current[: len(current) - len(current.lstrip("+~"))]
    key, equals, value = current[len(sign) :].partition("=")
    if equals:
        done = value[: value.rfind(",") + 1]  # the finished part of a sweep
        options = registry.names(key, *folders) if key in groups else _values(key, verb, keys)
        return [f"{sign}{key}={done}{o}" for o in options if o not in done.split(",")]
    found = [n for n in keys if not n.endswith(".name")]
    leaves = [n for n in found if not any(o.startswith(f"{n}.") for o in found)]
    if "." in key:
        return [f"{sign}{n}=" for n in sorted(leaves)]
    single = [n for n in leaves if "." not in n and n not in groups]
    heads = {n.partition(".")[0] for n in found} - set(single)
    chosen = groups if verb.groups is None else verb.groups
    whole = dict.fromkeys([*chosen, *single, *(k.name for k in verb.keys)])
    return [*(f"{sign}{n}=" for n in whole), *(f"{sign}{h}." for h in sorted(heads))]


def _of_run(given: list[str]) -> list[str]:
    """The sampler and guidance of the run that is asked for, as words to stand before others."""
    from genlab.run import directory

    said = dict(w.split("=", 1) for w in given if "=" in w)
    try:
        run = directory.find_run(said.get("run", "latest"), said.get("outputs", "outputs"))
    except GenlabError:
        return []
    its = {k.name: k.default for k in catalog.scan(run.path / "config.yaml")}
    names = {g: its.get(f"{g}.name", "null") for g in ("sampler", "guidance")}
    return [f"{g}={name}" for g, name in names.items() if name != "null"]


def _values(key: str, verb: Verb, keys: Mapping[str, catalog.Key]) -> list[str]:
    """The words a key takes, from its annotation. keys: of what was chosen so far."""
    if key == "sampler.through":
        return [*(n for n in registry.names("process") if n != "none"), "null"]
    options = {k.name: OPTIONS.get(k.name, "") for k in verb.keys}
    of_verb = {**options, **KEYS.get(verb.primary, {})}
    annotation = of_verb.get(key) or _annotation(key, keys)
    words = ["true", "false"] if "bool" in annotation else []
    if "Literal[" in annotation:
        pattern = "[{}]" if annotation.startswith("list[") else "{}"
        words += [pattern.format(w) for w in re.findall(r"'([^']+)'", annotation)]
    for name in re.findall(r"\w+", annotation):
        words += get_args(CHOICES.get(name))
    return words + (["null"] if "None" in annotation else [])


def _annotation(key: str, keys: Mapping[str, catalog.Key]) -> str:
    """That of the constructor of the component a key belongs to."""
    node, _, leaf = key.rpartition(".")
    group = node.partition(".")[0]
    if f"{node}.name" not in keys:
        return ""
    try:
        signature = registry.signature(group, keys[f"{node}.name"].default)
    except ConfigError:
        return ""
    return {**signature.keys, **registry.COMMON.get(group, {})}.get(leaf, "")
