"""The verbs of the command line: what each takes, and which part of genlab does it.

VERBS is the only list of their keys, groups and flags: help, Tab and the check of what was typed
read it. A verb imports what it needs when it is its turn; nothing heavy is imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from genlab.config import overrides
from genlab.config.catalog import Key
from genlab.config.keys import ALLOWED
from genlab.core.console import answering
from genlab.core.errors import ConfigError
from genlab.core.registry import suggest

__all__ = ["FLAGS", "VERBS", "Call", "Verb", "checked"]


class Call(NamedTuple):
    """A parsed command line."""

    verb: str = ""
    words: tuple[str, ...] = ()  # overrides and names, in the order typed
    multirun: bool = False
    dry_run: bool = False
    cfg: bool = False
    json: bool = False
    help: bool = False
    version: bool = False
    verbose: bool = False
    config_dirs: tuple[str, ...] = ()


class Verb(NamedTuple):
    """What a verb does and takes."""

    does: str
    run: Callable[[Call], int]
    flags: tuple[str, ...] = ()  # besides --help and -v
    primary: str = ""  # the yaml whose keys it takes: train, sample or eval
    groups: tuple[str, ...] | None = ()  # config groups it chooses from; None: all
    keys: tuple[Key, ...] = ()  # further ones


# --- what was typed ------------------------------------------------------------------------------


def checked(call: Call) -> list[str]:
    """The overrides of a verb that composes a config, once their names are known to exist."""
    verb, folders = VERBS[call.verb], _folders(call)
    words = [_listed(word) for word in call.words]
    problems = overrides.check(
        words,
        primary=verb.primary,
        multirun=call.multirun,
        sweeps="-m" in verb.flags,
        folders=folders,
        more=[key.name for key in verb.keys],
    )
    if problems:
        raise ConfigError(*problems)
    return words


def _folders(call: Call) -> list[Path]:
    """Those of --config-dir; ConfigError for one that is not there."""
    folders = [Path(d) for d in call.config_dirs]
    if missing := [
        f"--config-dir {f}: there is no such folder" for f in folders if not f.is_dir()
    ]:
        raise ConfigError(*missing)
    return folders


def _listed(word: str) -> str:
    """metric=fid,kid names a list: two metrics of one evaluation, never a sweep."""
    several = word.startswith("metric=") and "," in word and "[" not in word
    return f"metric=[{word[7:]}]" if several else word


def _options(call: Call) -> dict[str, str]:
    """The `key=value` of a verb that composes no config, as typed."""
    keys = [key.name for key in VERBS[call.verb].keys]
    given = {}
    for word in call.words:
        key, equals, value = word.partition("=")
        if not equals or key not in keys:
            near = suggest(key, keys) or "It takes: " + ", ".join(f"{k}=" for k in keys) + "."
            raise ConfigError(f"{call.verb} has no option {word!r}. {near}")
        given[key] = value.strip("'\"")
    return given


# --- verbs ---------------------------------------------------------------------------------------


def _train(call: Call) -> int:
    for flag, given in (("--cfg job", call.cfg), ("--dry-run", call.dry_run)):
        if call.multirun and given:
            raise ConfigError(f"{flag} looks at one config: leave out -m and give one value a key")
    words = checked(call)
    from genlab.training import verb

    return verb.main(
        words,
        multirun=call.multirun,
        dry_run=call.dry_run,
        cfg_only=call.cfg,
        config_dirs=list(call.config_dirs),
        verbose=call.verbose,
    )


def _sample(call: Call) -> int:
    words = checked(call)
    from genlab.run.asked import check_asked

    check_asked(words, "sample")  # before torch
    from genlab.sampling import verb

    with answering(call.json) as found:
        return verb.main(words, found)


def _eval(call: Call) -> int:
    words = checked(call)
    from genlab.run.asked import check_asked

    check_asked(words, "eval")  # before torch
    from genlab.evaluation import verb

    with answering(call.json) as found:
        return verb.main(words, found, as_json=call.json)


def _resume(call: Call) -> int:
    words = checked(call)
    from genlab.training import resume

    return resume.main(words)


def _report(call: Call) -> int:
    allow = [word for word in call.words if word.startswith("allow=")]
    given = _options(call._replace(words=tuple(w for w in call.words if w not in allow)))
    from genlab.config.compose import split_options
    from genlab.core.format import clean
    from genlab.report.answer import answer
    from genlab.report.report import write_report
    from genlab.run.directory import find_run

    links = "links" in split_options(allow)[0].get("allow", [])
    run = find_run(given.get("run", "latest"), given.get("outputs", "outputs"))
    with answering(call.json) as found:
        page = write_report(run.path, links)
        print(clean(str(page)))
        if call.json:
            found |= answer(run.path, page)
    return 0


def _compare(call: Call) -> int:
    refs = [w for w in call.words if "=" not in w or os.path.exists(w)]
    given = _options(call._replace(words=tuple(w for w in call.words if w not in refs)))
    from genlab.report import compare

    return compare.main(refs, **given, json=call.json, width=_width())


def _list(call: Call) -> int:
    what = [w for w in call.words if "=" not in w]
    if len(what) > 1:
        raise ConfigError(f"list shows one thing at a time, not {' and '.join(what)}")
    words = [w.partition("=") for w in call.words if "=" in w]
    given = {key: value.strip("'\"") for key, _, value in words}
    if given and what != ["runs"]:
        raise ConfigError(f"{next(iter(given))}= goes with `genlab list runs`")
    from genlab.cli.list import listing

    print(
        listing(
            what[0] if what else "",
            given.pop("outputs", "outputs"),
            call.json,
            given=given,
            folders=_folders(call),
            width=_width(),
        )
    )
    return 0


def _show(call: Call) -> int:
    words = checked(call)
    from genlab.cli import show

    print(show.text(words, list(call.config_dirs), width=_width()))
    return 0


def _doctor(call: Call) -> int:
    given = _options(call)
    from genlab.cli import doctor

    root = given.get("data.root", os.environ.get("GENLAB_DATA", "data"))
    for line in doctor.lines(root, given.get("outputs", "outputs")):
        print(line, flush=True)
    return 0


def _completion(call: Call) -> int:
    from genlab.cli import completion

    print(completion.script(*call.words))
    return 0


def _width() -> int:
    """Columns of the terminal; lines that go to a file or a pipe are not folded."""
    import shutil

    return shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 10_000


RUN = Key("run", "latest", "path, id (`genlab list runs`) or latest")
OUTPUTS = Key("outputs", "outputs", "root of the run directories")
FRESH = Key("fresh", "false", "true: a new run, although one of this very config exists")
TRUST = Key("trust", "false", "true or [paths of runs]: let foreign runs name code of their own")
ALLOW = Key(
    "allow",
    "[]",
    f"[{','.join(ALLOWED)}]: go on although these changed, are lost or lead away",
)
LINKS = Key("allow", "[]", "[links]: follow links of yours to folders in the run")
LONGER = Key("schedule.images", "as it was", "a larger number goes on with a finished run")
METRIC = Key(
    "metric", "losses, evaluations", "values or metrics to show: fid, 'kid,heldout/*', '*'"
)
SORT = Key(
    "sort",
    "as they began",
    "fid or metric/fid, a key, images; the best first, -KEY turns it round",
)
PAGE = Key("page", "<outputs>/compare-<runs>.html", "the .html file to write; null for none")
ROOT = Key("data.root", "$GENLAB_DATA or data", "where data sets lie")

OF_RUNS = (
    Key("model", "any", "of runs: gan, wgan*; so also data, seed and any other key of a config"),
    Key("state", "any", "of runs: done, running, interrupted, failed; several with commas"),
)

OF_RUN = ("sampler", "guidance", "hardware")
"""Groups in which a trained run may be given another choice."""

VERBS = {
    "train": Verb(
        "train a model; Ctrl-C saves and stops",
        _train,
        flags=("-m", "--cfg job", "--dry-run", "--config-dir DIR"),
        primary="train",
        groups=None,
        keys=(FRESH, TRUST, ALLOW),
    ),
    "sample": Verb(
        "draw images from a run",
        _sample,
        flags=("--json",),
        primary="sample",
        groups=OF_RUN,
        keys=(TRUST, LINKS),
    ),
    "eval": Verb(
        "measure a run or a folder of images: fid, kid, ...",
        _eval,
        flags=("--json",),
        primary="eval",
        groups=("metric", "features", "data", *OF_RUN),
        keys=(TRUST, LINKS),
    ),
    "resume": Verb(
        "go on with a run, bit for bit",
        _resume,
        primary="train",
        groups=("track", "metric", "features"),
        keys=(RUN, LONGER, ALLOW, TRUST, OUTPUTS),
    ),
    "report": Verb(
        "write report.html of a run", _report, flags=("--json",), keys=(RUN, OUTPUTS, LINKS)
    ),
    "compare": Verb(
        "several runs as a table and a page",
        _compare,
        flags=("--json",),
        keys=(METRIC, SORT, PAGE, OUTPUTS),
    ),
    "list": Verb(
        "models, data, networks ... or runs",
        _list,
        flags=("--json", "--config-dir DIR"),
        keys=(OUTPUTS, *OF_RUNS),
    ),
    "show": Verb(
        "every key of a config, and who chose it",
        _show,
        flags=("--config-dir DIR",),
        primary="train",
        groups=None,
    ),
    "doctor": Verb("what this machine has and what would be used", _doctor, keys=(ROOT, OUTPUTS)),
    "completion": Verb("the Tab completion script for bash or zsh", _completion),
}

FLAGS = {
    "-m": "multirun: every combination of comma-separated values",
    "-v": "show the traceback of an error",
    "--cfg job": "print the composed config and stop",
    "--dry-run": "build everything, time three fake steps, write nothing",
    "--config-dir DIR": "add a folder of your own config groups and components",
    "--json": "for scripts: one JSON object alone on stdout",
    "--help": "this text",
    "--version": "the version",
}
