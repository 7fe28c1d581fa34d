"""`genlab train`: from what was typed to a run, a new one or the one it began before."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from genlab.config.compose import compose, digest, provenance, split_options, title
from genlab.config.trial import in_small, sentence
from genlab.core.console import log
from genlab.core.errors import PeerLost
from genlab.core.format import clean
from genlab.core.registry import import_from_here, paths
from genlab.run.asked import check_features
from genlab.run.directory import Run, folders
from genlab.run.parents import name_by_path
from genlab.run.trust import own_code, trusted_runs
from genlab.training.resume import reopen, retyped

__all__ = ["main", "train"]


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
    import_from_here()
    options, overrides = split_options(words)
    if multirun:
        from genlab.training import sweep

        return sweep.main(words, config_dirs, verbose=verbose)
    config = compose(overrides, config_dirs)
    if cfg_only:
        print(OmegaConf.to_yaml(OmegaConf.create(config)), end="")
        return 0
    _say_small(overrides, config_dirs)
    _place(config)
    if dry_run:
        from genlab.training.dry_run import measure

        return measure(config)
    return _train(config, options, overrides, config_dirs)


def _say_small(words: Sequence[str], config_dirs: Sequence[str]) -> None:
    """One line on what a run shorter than its recipe has in proportion."""
    if small := in_small(words, config_dirs):
        log(sentence(small))


def train(words: Sequence[str], config_dirs: Sequence[str] = ()) -> Run:
    """`genlab train` in Python: as `main`, but gives the run that is done.

    Raises a GenlabError, PeerLost where one of several ranks has failed.
    """
    import_from_here()
    options, overrides = split_options(words)
    config = compose(overrides, config_dirs)
    _say_small(overrides, config_dirs)
    _place(config)
    if code := _train(config, options, overrides, config_dirs):
        raise PeerLost(f"the ranks of this run ended with exit code {code}; see what they said")
    run = _newest_run_of(config)
    assert run is not None
    return run


def _place(config: dict[str, Any]) -> None:
    """Names runs and files of a config so that they are the same from anywhere.

    Raises DeviceError where the weights of what is to measure it are not there.
    """
    if config["metric"]:
        check_features(config["features"])
    config |= name_by_path(config, config["outputs"])
    for node, key in paths(config):
        if node[key] and (path := Path(node[key]).expanduser()).exists():
            node[key] = str(path.resolve())


def _train(
    config: dict[str, Any],
    options: Mapping[str, Any],
    overrides: Sequence[str],
    config_dirs: Sequence[str],
) -> int:
    """Trains the run of a config, a new one or the newest that it has; returns the exit code."""
    run = None if options.get("fresh") else _newest_run_of(config)
    folders = [f"--config-dir={Path(folder).resolve()}" for folder in config_dirs]
    if run is not None and run.status.startswith("done"):
        again = shlex.join(["genlab", "train", *overrides, *folders, "fresh=true"])
        print(f"this run is done: {clean(str(run.path))}\n{clean(again)} trains another")
        return 0
    from genlab.training.launch import launch

    # the person composed this config just now, so its out-of-tree names are their own; those of
    # runs that it names may be somebody else's
    how = {
        "trust_runs": trusted_runs(options.get("trust", False)),
        "allow": options.get("allow", []),
    }
    if run is None:
        who = provenance(overrides, config_dirs)
        name = title(overrides, config_dirs)
        typed = [*overrides, *folders]
        create = partial(Run.create, config, digest(config), typed, who, name)
        return launch(config, create, **how)
    after = retyped(run, config)
    how["trust"] = own_code(after) <= own_code(config)  # the run is somebody's who wrote the same
    return launch(after, partial(reopen, run, after, overrides), run=run, **how)


def _newest_run_of(config: Mapping[str, Any]) -> Run | None:
    """The newest run of this very config, if there is one."""
    own = digest(config)
    names = {own, digest(config, places=True)}
    places = [p for n in names for f in folders(config) for p in f.glob(f"*-{n}/config.yaml")]
    found = [Run(path.parent) for path in places]
    # a resumed run may have got other keys than its name stands for; a longer one is still it
    same = [run for run in found if digest(_of_length(run.config, config)) == own]
    return max(same, key=lambda run: run.path.name, default=None)


def _of_length(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A config with as many images as another one."""
    images = other["schedule"]["images"]
    return {**config, "schedule": {**config["schedule"], "images": images}}
