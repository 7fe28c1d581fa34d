"""`genlab train -m`: every combination of comma-separated values, each job its own process.

Hydra expands the sweep and launches it, here one job after the other or through an installed
launcher (hydra/launcher=joblib). A job is `genlab train` with its own overrides, so one that
fails, runs out of memory or is killed takes nothing else with it, and the same sweep typed again
skips what is done and resumes what is not.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from genlab.config.compose import compose, refuse_typed, split_options
from genlab.config.overrides import expand
from genlab.core import registry, subprocesses
from genlab.core.console import log
from genlab.core.errors import ConfigError, Refused

__all__ = ["main"]

LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm")


def main(words: Sequence[str], config_dirs: Sequence[str] = (), *, verbose: bool = False) -> int:
    """Checks every job, runs them all, prints a table; the code of the first that failed."""
    options, overrides = split_options(words)
    refuse_typed(overrides)
    _check_launcher(overrides)
    jobs = expand(overrides)
    problems = []
    for job in jobs:
        try:
            compose([w for w in job if not w.startswith("hydra")], config_dirs)
        except ConfigError as e:
            problems += [p for p in e.problems if p not in problems]
    if problems:
        raise ConfigError(*problems)
    given = [w for w in words if w.partition("=")[0] in options]
    codes = _launch(overrides, given, config_dirs, verbose)
    _table(jobs, codes)
    return next((c for c in codes if c), 0)


def _check_launcher(overrides: Sequence[str]) -> None:
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        if "_target_" in word and key.startswith("hydra"):
            raise Refused(f"{key}: a sweep may name an installed launcher, not code")
        if key == "hydra/launcher" and value not in LAUNCHERS:
            raise ConfigError(registry.unknown("launcher", value, LAUNCHERS).partition(" (`")[0])
        if key == "hydra/launcher" and value == "joblib" and not _has_joblib():
            from genlab.core.errors import DeviceError

            raise DeviceError("hydra/launcher=joblib needs an extra: pip install 'genlab[sweep]'")


def _has_joblib() -> bool:
    import importlib.util

    return importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is not None


def _launch(
    overrides: Sequence[str], given: Sequence[str], config_dirs: Sequence[str], verbose: bool
) -> list[int]:
    """Hands the sweep to Hydra; the exit code of every job, in order."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    folders = [str(Path(d).resolve()) for d in config_dirs]
    search = [f"hydra.searchpath=[{','.join(f'file://{d}' for d in folders)}]"]
    flags = [f for d in folders for f in ("--config-dir", d)] + ["-v"] * verbose
    # several live displays cannot share a terminal: parallel jobs write plain lines
    plain = any(w.startswith("hydra/launcher") for w in overrides)

    def task(config: DictConfig) -> int:
        from hydra.core.hydra_config import HydraConfig

        return run_job([*HydraConfig.get().overrides.task, *given, *flags], plain)

    GlobalHydra.instance().clear()
    search_path = create_config_search_path(str(registry.configs_dir()))
    hydra = Hydra.create_main_hydra2("genlab", search_path)
    asked = [*overrides, *(search if folders else [])]
    result: Any = hydra.multirun("train", task, asked, with_log_configuration=False)
    return [int(r.return_value) for batch in result for r in batch]


def run_job(words: Sequence[str], plain: bool = False) -> int:
    """One job in a process of its own; returns its exit code.

    After a stop signal the job saves and stops, and no further one is started.
    """
    global _stopped
    if _stopped:
        return 128 + _stopped
    log(f"== {shlex.join(['genlab', 'train', *words])}")
    environment = {**os.environ, **({"TERM": "dumb"} if plain else {})}
    command = [sys.executable, "-m", "genlab", "train", *words]
    code, _stopped = subprocesses.run([command], [environment])
    return code


_stopped = 0  # the signal that ended the sweep


def _table(jobs: Sequence[Sequence[str]], codes: Sequence[int]) -> None:
    print(f"\n{'exit':>4}  job")
    for job, code in zip(jobs, codes, strict=False):
        print(f"{code:>4}  {' '.join(w for w in job if not w.startswith('hydra'))}")
    if bad := sum(1 for c in codes if c):
        print(f"{bad} of {len(codes)} jobs did not end; the same command goes on with those")
