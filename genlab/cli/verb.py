"""The verbs of the command line: what each takes, and which part of genlab does it.

Only the standard library is imported here: a verb that needs more imports it when it is its turn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from genlab.core.errors import ConfigError

__all__ = ["FLAGS", "VERBS", "Call", "Verb"]


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


# --- verbs ---------------------------------------------------------------------------------------


def _checked(call: Call, primary: str, *more: str) -> list[str]:
    """The overrides, once their names are known to exist."""
    from pathlib import Path

    from genlab.config import overrides

    folders = [Path(d) for d in call.config_dirs]
    problems = [f"--config-dir {f}: there is no such folder" for f in folders if not f.is_dir()]
    problems += overrides.check(
        call.words,
        primary=primary,
        multirun=call.multirun,
        sweeps=call.verb == "train",
        folders=folders,
        more=more,
    )
    if problems:
        raise ConfigError(*problems)
    return list(call.words)


def _train(call: Call) -> int:
    for flag, given in (("--cfg job", call.cfg), ("--dry-run", call.dry_run)):
        if call.multirun and given:
            raise ConfigError(f"{flag} looks at one config: leave out -m and give one value a key")
    call = call._replace(words=_metrics(call.words))
    words = _checked(call, "train", "fresh", "allow", "trust")
    from genlab.training import verb as train

    return train.main(
        words,
        multirun=call.multirun,
        dry_run=call.dry_run,
        cfg_only=call.cfg,
        config_dirs=list(call.config_dirs),
        verbose=call.verbose,
    )


def _sample(call: Call) -> int:
    words = _checked(call, "sample", "run", "outputs", "trust")
    from genlab.sampling import verb as sample

    return sample.main(words)


def _eval(call: Call) -> int:
    words = _checked(call._replace(words=_metrics(call.words)), "eval", "outputs", "trust")
    from genlab.evaluation import verb as evaluation

    return evaluation.main(words)


def _metrics(words: tuple[str, ...]) -> tuple[str, ...]:
    """metric=fid,kid names a list: two metrics of one evaluation, never a sweep."""
    return tuple(
        f"metric=[{w[7:]}]" if w.startswith("metric=") and "," in w and "[" not in w else w
        for w in words
    )


def _resume(call: Call) -> int:
    call = call._replace(words=_metrics(call.words))
    words = _checked(call, "train", "run", "allow", "trust")
    from genlab.training import resume

    return resume.main(words)


def _report(call: Call) -> int:
    given = _options(call, run="latest", outputs="outputs")
    from genlab.report.report import write_report
    from genlab.run.directory import find_run

    print(write_report(find_run(given["run"], given["outputs"]).path))
    return 0


def _compare(call: Call) -> int:
    refs = [w for w in call.words if "=" not in w or os.path.exists(w)]
    options = call._replace(words=tuple(w for w in call.words if w not in refs))
    given = _options(options, outputs="outputs", metric="", sort="", page="")
    from genlab.report import compare

    return compare.main(refs, **given, json=call.json, width=_width())


def _list(call: Call) -> int:
    from genlab.cli.list import listing

    what = [w for w in call.words if "=" not in w]
    if len(what) > 1:
        raise ConfigError(f"list shows one thing at a time, not {' and '.join(what)}")
    given = _options(call._replace(words=tuple(w for w in call.words if "=" in w)), outputs="")
    if given["outputs"] and what != ["runs"]:
        raise ConfigError("outputs= goes with `genlab list runs`")
    print(listing(what[0] if what else "", given["outputs"] or "outputs", call.json))
    return 0


def _show(call: Call) -> int:
    words = _checked(call, "train")
    from genlab.cli import show

    print(show.text(words, list(call.config_dirs), width=_width()))
    return 0


def _doctor(call: Call) -> int:
    given = _options(
        call, outputs="outputs", **{"data.root": os.environ.get("GENLAB_DATA", "data")}
    )
    from genlab.cli import doctor

    for line in doctor.lines(given["data.root"], given["outputs"]):
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


def _options(call: Call, **defaults: str) -> dict[str, str]:
    """The few `key=value` of a verb that composes no config."""
    from genlab.core.registry import suggest

    given = dict(defaults)
    for word in call.words:
        key, equals, value = word.partition("=")
        if not equals or key not in given:
            near = suggest(key, given) or "It takes: " + ", ".join(f"{k}=" for k in given) + "."
            raise ConfigError(f"{call.verb} has no option {word!r}. {near}")
        given[key] = value.strip("'\"")
    return given


class Verb(NamedTuple):
    """What a verb does and which flags it takes besides --help and -v."""

    does: str
    run: Callable[[Call], int]
    flags: tuple[str, ...] = ()


VERBS = {
    "train": Verb(
        "train a model; Ctrl-C saves and stops",
        _train,
        ("-m", "--cfg job", "--dry-run", "--config-dir DIR"),
    ),
    "sample": Verb("draw images from a run", _sample),
    "eval": Verb("measure a run or a folder of images: fid, kid, ...", _eval),
    "resume": Verb("go on with a run, bit for bit", _resume),
    "report": Verb("write report.html of a run", _report),
    "compare": Verb("several runs as a table and a page", _compare, ("--json",)),
    "list": Verb("models, data, networks ... or runs", _list, ("--json",)),
    "show": Verb("every key of a config, and who chose it", _show, ("--config-dir DIR",)),
    "doctor": Verb("what this machine has and what would be used", _doctor),
    "completion": Verb("the Tab completion script for bash or zsh", _completion),
}

FLAGS = {
    "-m": "multirun: every combination of comma-separated values",
    "-v": "show the traceback of an error",
    "--cfg job": "print the composed config and stop",
    "--dry-run": "build everything, time three fake steps, write nothing",
    "--config-dir DIR": "add a folder of your own config groups and members",
    "--json": "for scripts",
    "--help": "this text",
    "--version": "the version",
}
