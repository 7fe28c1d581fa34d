"""The run that is drawn from: which one `latest` is, and whether it is done."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from genlab.core import registry
from genlab.core.console import log
from genlab.core.contract import Generates
from genlab.core.errors import GenlabError
from genlab.run.directory import Run, find_run, runs

__all__ = ["find_trained", "say_state"]


def find_trained(ref: str, outputs: str | Path = "outputs", *, draws: bool = False) -> Run:
    """The run of a path, an id or a part of the name; `latest` is the one that was written to last
    of those with a checkpoint, which is said.

    draws: of those whose model draws samples. Where there is none of these, the latest of all.
    Raises as `find_run` does.
    """
    if ref != "latest":
        return find_run(ref, outputs)
    newest_first = sorted(runs(outputs), key=lambda r: (r.written, r.path.name), reverse=True)
    left_out = ""
    for run in newest_first:
        if not (reason := _lacks(run, draws)):
            log(f"latest is {run.title}{left_out}")
            return run
        left_out = left_out or f"; {run.title} is newer and {reason}"
    return find_run(ref, outputs)


def _lacks(run: Run, draws: bool) -> str:
    """Why nothing is drawn from a run, in words; "" where it can be."""
    if not any((run.path / "checkpoints").glob("[0-9]*/manifest.json")):
        return "has no checkpoint yet"
    # code of somebody's own is not imported to ask
    with suppress(GenlabError, KeyError, TypeError):
        model = registry.find("model", run.config["model"]["name"], trust=False)
        if draws and not issubclass(model, Generates):
            return "draws no images of its own"
    return ""


def say_state(run: Run, images: int) -> None:
    """One line about a run that is not done. images: at the checkpoint that is taken of it."""
    status = run.status
    if not status.startswith("done"):
        state = "still training" if status == "running" else status
        log(f"{run.title} is {state}; taking its checkpoint at image {images:,}")
