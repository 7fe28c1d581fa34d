"""`genlab train` and `genlab resume`: from a config to a run directory, then to the worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from genlab import config as cfg
from genlab import registry
from genlab.errors import ConfigError
from genlab.registry import ROOMS, suggest
from genlab.run.directory import Run, find_run

if TYPE_CHECKING:
    from genlab.contract import Schedule

__all__ = ["main", "resume"]

SAFE = ("every", "keep", "schedule.images", "data.root", "hardware", "sampler", "guidance")
"""Keys a resumed run may change freely: where, how long, how often, on what."""

FIXED = ("model.name", "model.classes", "network", "codec", "process", "data", "seed", "init")
"""Keys that make it another run: refused on resume."""


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
        from genlab import sweep

        return sweep.main(words, config_dirs, verbose=verbose)
    config, who = cfg.compose(overrides, config_dirs)
    if cfg_only:
        print(OmegaConf.to_yaml(OmegaConf.create(config)), end="")
        return 0
    from genlab import dist
    from genlab.build import build

    build(config, meta=True)  # every problem now, before a directory is made
    if dry_run:
        from genlab.dry import dry_run as dry

        return dry(config)
    folder = ""
    if dist.rank() == 0:
        run = None if options.get("fresh") else _same(config)
        if run is not None and run.status == "done":
            print(f"this run is done: {run.path}\nfresh=true trains another")
        else:
            if run is None and config["init"]:
                find_run(config["init"], config["outputs"])  # a wrong name makes no directory
            made = run or Run.create(config, cfg.digest(config), overrides, who)
            folder = str(made.path)
    folder = _shared(folder, config)
    if not folder:
        return 0
    # the person composed this config just now, so its out-of-tree names are their own
    return _launch(Path(folder), config["hardware"]["devices"], True, options.get("allow", []))


def resume(words: Sequence[str]) -> int:
    """Goes on with run=<path, id or latest>, with changed keys where that makes sense."""
    options, rest = cfg.options(words)
    ref, outputs, changes = "latest", "outputs", []
    for word in rest:
        key, _, value = word.partition("=")
        if key == "run":
            ref = value
        elif key == "outputs":
            outputs = value
        else:
            changes.append(word)
    run = find_run(ref, outputs)
    before = run.config
    after = _changed(before, changes, options.get("allow", []))
    if problems := cfg.validate(after):
        raise ConfigError(*problems)
    from genlab.build import build

    trust, allow = bool(options.get("trust")), options.get("allow", [])
    built = build(after, trust=trust, meta=True)
    _say_rates(before, after, built.schedule)
    if after != before:
        with run.lock():
            run.rewrite_config(after)
    return _launch(run.path, after["hardware"]["devices"], trust, allow)


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


def _changed(
    config: Mapping[str, Any], words: Sequence[str], allow: Sequence[str]
) -> dict[str, Any]:
    node = OmegaConf.create(dict(config))
    known = cfg.flatten(config)
    problems = []
    for word in words:
        override = OverridesParser.create().parse_override(word)
        key, value = override.get_key_element(), override.value()
        if key not in known and not key.startswith("optimizer.players"):
            hint = suggest(key, known)
            problems.append(f"no key {key!r} in this run. {hint} (a room cannot be exchanged)")
            continue
        if key in ROOMS or (_under(key, FIXED) and not _under(key, SAFE)):
            was = OmegaConf.select(node, key)
            problems.append(
                f"{key} was {was}, not {value}: that would be another run; train it with "
                "genlab train, from these weights with init=<run>"
            )
        elif not _under(key, SAFE) and "config" not in allow:
            was = OmegaConf.select(node, key)
            problems.append(
                f"{key} was {was}, not {value}: the run would not be the one it was; "
                "add allow=[config] if you mean it"
            )
        else:
            OmegaConf.update(node, key, value, force_add=True)
    if problems:
        raise ConfigError(*problems)
    out = OmegaConf.to_container(node)
    assert isinstance(out, dict)
    return {str(k): v for k, v in out.items()}


def _say_rates(before: Mapping[str, Any], after: Mapping[str, Any], schedule: Schedule) -> None:
    """A longer run may give images that are already drawn another learning rate: said once."""
    old, end = registry.build("schedule", before["schedule"]), before["schedule"]["images"]
    if before["schedule"] != after["schedule"] and old(end) != schedule(end):
        print(
            f"the learning rate at image {end:,} is {schedule(end):.3g} of optimizer.lr, "
            f"it was {old(end):.3g}",
            file=sys.stderr,
        )


def _under(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == p or key.startswith(p + ".") for p in prefixes)


def _shared(folder: str, config: Mapping[str, Any]) -> str:
    """Rank 0's run directory, on every rank that torchrun started."""
    from genlab import dist

    if dist.world() == 1:
        return folder
    import torch

    from genlab.hardware.auto import choose

    kind, _ = choose(config["hardware"]["device"])
    index = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device(kind, index) if kind == "cuda" else torch.device(kind)
    dist.start(device)
    path = torch.zeros(4096, dtype=torch.uint8, device=device)
    raw = folder.encode()
    path[: len(raw)] = torch.tensor(list(raw), dtype=torch.uint8)
    torch.distributed.broadcast(path, src=0)
    return bytes(path.cpu().tolist()).rstrip(b"\0").decode()


def _launch(folder: Path, ranks: int, trust: bool, allow: Sequence[str]) -> int:
    """Trains a run directory here, or on several ranks of this machine."""
    from genlab import dist

    if ranks == 1 or dist.world() > 1:
        from genlab.worker import work

        return work(folder, trust=trust, allow=tuple(allow))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", "-m", "genlab", "__work", str(folder), *allow]
    return subprocess.run([*command, *(["trust"] if trust else [])]).returncode
