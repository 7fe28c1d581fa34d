"""Run directories written by hand, to be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genlab.report.run_data import read_run
from genlab.report.table import Table, tabulate

BASE = {
    "seed": 0,
    "model": {"name": "gan", "ema": 1000},
    "network": {"generator": {"name": "dcgan_generator", "width": 64}},
    "data": {"name": "digits", "root": "data"},
    "optimizer": {"name": "adam", "lr": 0.001, "betas": [0.5, 0.9]},
    "outputs": "outputs",
    "every": {"log": "auto"},
}
PROTOCOL = {"images": 2000, "reference": "digits train 8x8x1", "features": "small"}


class Maker:
    """make(optimizer__lr=0.1, losses=[2, 1]) -> the folder of a run, each a second younger.

    Keys are dotted keys of the config with __ for the dot; typed: those of the command line.
    """

    def __init__(self, outputs: Path) -> None:
        self.outputs, self.made = outputs, 0

    def __call__(self, losses: Any = (2.0, 1.0), typed: Any = (), **keys: Any) -> Path:
        config = json.loads(json.dumps(BASE))
        for key, value in keys.items():
            *parents, leaf = key.split("__")
            node = config
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        parent = self.outputs / f"{config['model']['name']}-{config['data']['name']}"
        folder = parent / f"20260102-{30_000 + self.made:06d}-{0xA00000 + self.made:06x}"
        self.made += 1
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(json.dumps(config))
        who = dict.fromkeys(typed, "command line")
        (folder / "provenance.json").write_text(json.dumps(who))
        rows = [{"images": 100 * (i + 1), "loss/net": v} for i, v in enumerate(losses)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (folder / "STATUS").write_text("done\n")
        return folder


def evaluate(
    run: Path,
    values: dict[str, float | None],
    better: dict[str, str] | None = None,
    *,
    tag: str = "a",
    protocol: dict[str, Any] | None = None,
    when: str = "2026-01-01",
    **subject: Any,
) -> None:
    """Leaves an evaluation in a run: a metric fid with these values."""
    metric = {
        "values": values,
        "better": {"fid": "low"} if better is None else better,
        "protocol": PROTOCOL if protocol is None else protocol,
    }
    subject = {"run": "x", "seed": 0, "batch": 64, "checkpoint": 200, "weights": "ema"} | subject
    node = {"format": 1, "when": when, "subject": subject, "environment": {}}
    path = run / "eval" / f"000000000200-{tag}" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(node | {"metrics": {"fid": metric}}))


def table(*folders: Path, **options: Any) -> Table:
    return tabulate([read_run(f) for f in folders], **options)


def cells(found: Table, name: str):
    """label -> summary in the only column of a name."""
    (column,) = [c for c in found.columns if c.name == name]
    return {row.label: row.cells[column] for row in found.rows if column in row.cells}


def best_rows(found: Table, name: str) -> list[str]:
    """The rows that are the best of some column of a name."""
    return [row.label for row in found.rows if any(c.name == name for c in row.best)]
