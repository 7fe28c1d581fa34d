"""The verbs in Python: `genlab.train`, `genlab.evaluate`, `genlab.compare`.

They take what the command line takes: words as they are typed there, and the same as keywords.
A keyword is a key or a config group; a mapping stands for the keys below it:

    genlab.train("experiment=digits/gan", seed=1, optimizer={"lr": 1e-3}, every={"sample": 5000})

is `genlab train experiment=digits/gan seed=1 optimizer.lr=0.001 every.sample=5000`. Everything
that goes wrong is a GenlabError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genlab.cli.verb import Call, checked
from genlab.core.errors import (
    ConfigError,
    DeviceError,
    DiskError,
    GenlabError,
    OutOfMemory,
    explain,
)
from genlab.run.directory import Run

__all__ = ["as_words", "compare", "evaluate", "train"]

WHOLE = ("init", "extra")
"""Keys whose value is a mapping, rather than a group of keys."""
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
ERRORS = {kind.code: kind for kind in (DeviceError, DiskError, OutOfMemory)}
"""Exit code -> the error of genlab that stands for errors of other packages."""
WORDS = ("true", "false", "null", "none", "inf", "nan")


def train(*words: str, config_dirs: Sequence[str | Path] = (), **keys: Any) -> Run:
    """Trains as `genlab train` does, in this process; gives the run.

    A run has a path, id, title, status and config, and `genlab.load(run)` draws from it. The same
    call again goes on with the run it began, and leaves a done one alone; fresh=True makes
    another. Ctrl-C, or the stop button of a notebook, saves and raises Stopped. config_dirs:
    folders of one's own configs. hardware={"devices": 2} starts processes of their own.
    """
    with _explained("train"):
        from genlab.training import verb

        folders = [str(folder) for folder in config_dirs]
        given = checked(Call("train", (*words, *as_words(keys)), config_dirs=tuple(folders)))
        return verb.train(given, folders)


def evaluate(
    run: str | Path | Run | None = None, *words: str, **keys: Any
) -> dict[str, dict[str, Any]]:
    """Measures as `genlab eval` does: value -> {"value", "better", "metric", "protocol"}.

    run: as of `genlab.load`, None for `fake=`. metric: names, all that can be had without. n,
    features, checkpoint, sampler, ...: keys of the command line.

        genlab.evaluate(run, metric=["fid", "kid"], n=10_000, sampler={"steps": 10})
    """
    with _explained("eval"):
        from genlab.evaluation import verb

        named = {} if run is None else {"run": run.path if isinstance(run, Run) else run}
        return verb.evaluate(checked(Call("eval", (*words, *as_words(named | keys)))))


def compare(
    *runs: str | Path | Run,
    outputs: str | Path = "outputs",
    metric: Sequence[str] | str = (),
    sort: str = "",
    page: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Runs side by side, as `genlab compare` has them: a row for each setting and its seeds.

    runs: paths, folders of runs, ids, or parts of titles with * ? []; all without. metric: values
    to show, sort: by which, page: an .html file to write, too. A row has "label"; "runs" (their
    ids), "seeds" and "images"; "config", the keys in which rows differ; "evaluated", how its
    evaluation was made; and "values": name -> {"mean", "low", "high", "n", "not_finite", "best",
    "better", "metric", "protocol"}.
    """
    with _explained("compare"):
        from genlab.report.compare import as_json, find_runs
        from genlab.report.overview import write_overview
        from genlab.report.run_data import read_run
        from genlab.report.table import tabulate

        if page is not None and not str(page).endswith((".html", ".htm")):
            raise ConfigError(f"page={page}: give the name of an .html file")
        refs = [str(run.path if isinstance(run, Run) else run) for run in runs]
        patterns = [metric] if isinstance(metric, str) and metric else list(metric)
        found = [read_run(path) for path in find_runs(refs, str(outputs))]
        table = tabulate(found, patterns, sort)
        if page is not None:
            write_overview(table, Path(page))
        return _rows(json.loads(as_json(table)), [table.title(c) for c in table.columns])


def _rows(table: Mapping[str, Any], titles: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table that was written as JSON, each with all that belongs to it."""
    groups = {group["label"]: group for group in table["groups"]}
    found = []
    for row in table["rows"]:
        group = groups[row["group"]]
        cells = zip(titles, table["columns"], row["values"], strict=True)
        found.append(
            {
                "label": row["label"],
                "runs": [run["id"] for run in group["runs"]],
                "seeds": [run["seed"] for run in group["runs"]],
                "images": [run["images"] for run in group["runs"]],
                "config": group["config"],
                "evaluated": row["subject"],
                "values": {
                    title: value | {key: column[key] for key in ("better", "metric", "protocol")}
                    for title, column, value in cells
                    if value is not None
                },
            }
        )
    return found


# --- from keywords to words ----------------------------------------------------------------------


def as_words(keys: Mapping[str, Any]) -> list[str]:
    """`key=value` words of a command line; a mapping of a mapping stays a value."""
    words = []
    for key, value in keys.items():
        if isinstance(value, Mapping) and key not in WHOLE:
            words += [f"{key}.{inner}={_text(v)}" for inner, v in value.items()]
        else:
            words.append(f"{key}={_text(value)}")
    return words


def _text(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return "[" + ",".join(map(_text, value)) + "]"
    text = str(value)
    if not isinstance(value, (str, Path)) or (PLAIN.fullmatch(text) and text.lower() not in WORDS):
        return text
    # backslashes before a quote are read, others are not
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


@contextmanager
def _explained(verb: str) -> Iterator[None]:
    """What a person can cause is raised as an error of genlab, a bug of ours as it is."""
    try:
        yield
    except GenlabError:
        raise
    except Exception as e:
        code, lines = explain(e, verb)
        if code not in ERRORS:
            raise
        raise ERRORS[code]("\n".join(lines)) from e
