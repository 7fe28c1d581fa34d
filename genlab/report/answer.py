"""`genlab report --json`: what a report is of, for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genlab.report.run_data import read_run
from genlab.run.results import Result

__all__ = ["answer"]


def answer(run_dir: Path, page: Path) -> dict[str, Any]:
    """Paths, the last value of everything logged, and every evaluation with its protocol."""
    run = read_run(run_dir)
    return {
        "run": run.short_id,
        "path": str(page),
        "run_path": str(run_dir),
        "state": run.state,
        "images": run.last("images"),
        "values": {name: run.last(name) for name in run.names},
        "evaluations": [_evaluation(result) for result in run.evaluations],
        "problems": run.problems,
    }


def _evaluation(result: Result) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for n in result.numbers:
        found = metrics.setdefault(n.metric, {"values": {}, "protocol": dict(n.protocol)})
        found["values"][n.name] = n.value
    return {
        "path": str(result.path / "result.json"),
        "when": result.when,
        "subject": result.description,
        "metrics": metrics,
    }
