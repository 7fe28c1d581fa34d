"""`genlab train`: from what was typed to a run, a new one or the one it began before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from genlab.config import compose as cfg
from genlab.core.errors import CheckpointError
from genlab.run.directory import Run, find_run
from genlab.training.resume import reopen, retyped

__all__ = ["main"]


def main(
    words: Sequence[str],
    *,
    multirun: bool = False,
    dry_run: bool = False,
    cfg_only: bool = False,
    config_dirs: Sequence[str] = (),
    verbose: bool = False,
) -> int:
    """Composes, checks everything, makes the run directory, trains; returns the exit code.

    The same command again goes on with the run it started: interrupted ones are resumed, a done
    one is left alone; fresh=true makes another. Precedence: own newest checkpoint, then
    init=<run>, then scratch.
    """
    options, overrides = cfg.options(words)
    if multirun:
        from genlab.training import sweep

        return sweep.main(words, config_dirs, verbose=verbose)
    config = cfg.compose(overrides, config_dirs)
    if cfg_only:
        print(OmegaConf.to_yaml(OmegaConf.create(config)), end="")
        return 0
    if config["init"]:
        config["init"] = _trained("init", config["init"], config["outputs"])
    if weaker := config["guidance"].get("run"):
        config["guidance"]["run"] = _trained("guidance.run", weaker, config["outputs"])
    if (path := config["data"].get("path")) and Path(path).expanduser().exists():
        config["data"]["path"] = str(Path(path).expanduser().resolve())  # the same from anywhere
    if dry_run:
        from genlab.training.dry_run import measure

        return measure(config)
    run = None if options.get("fresh") else _same(config)
    if run is not None and run.status == "done":
        print(f"this run is done: {run.path}\nfresh=true trains another")
        return 0
    from genlab.training.launch import launch

    # the person composed this config just now, so its out-of-tree names are their own
    allow = options.get("allow", [])
    if run is None:
        who = cfg.provenance(overrides, config_dirs)
        create = partial(Run.create, config, cfg.digest(config), overrides, who)
        return launch(config, create, trust=True, allow=allow)
    after = retyped(run, config)
    return launch(after, partial(reopen, run, after, overrides), trust=True, allow=allow)


def _trained(key: str, ref: str, outputs: str) -> str:
    """A run that has weights, as a path; `latest` must not mean the run that starts now."""
    run = find_run(str(ref), outputs)
    if not any((run.path / "checkpoints").glob("[0-9]*/manifest.json")):
        raise CheckpointError(f"{key}={ref}: {run.path} has no checkpoint yet")
    return str(run.path.resolve())


def _same(config: Mapping[str, Any]) -> Run | None:
    """The newest run of this very config, if there is one."""
    digest = cfg.digest(config)
    parent = Path(config["outputs"]) / f"{config['model']['name']}-{config['data']['name']}"
    found = [Run(p.parent) for p in sorted(parent.glob(f"*-{digest}/config.yaml"))]
    # a resumed run may have got other keys than its name stands for; a longer one is still it
    same = [run for run in found if cfg.digest(_as_long(run.config, config)) == digest]
    return same[-1] if same else None


def _as_long(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    images = other["schedule"]["images"]
    return {**config, "schedule": {**config["schedule"], "images": images}}
