"""`genlab resume`: a run goes on, with other keys where that leaves it the run it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from genlab.config import compose as cfg
from genlab.core import registry
from genlab.core.errors import ConfigError
from genlab.core.registry import GROUPS, suggest
from genlab.run.directory import Run, find_run
from genlab.training.launch import launch

if TYPE_CHECKING:
    from genlab.core.contract import Schedule

__all__ = ["main", "update_run"]

SAFE = (
    "every",
    "keep",
    "schedule.images",
    "data.root",
    "hardware",
    "sampler",
    "guidance",
    "track",
    "metric",
    "features",
    "eval",
)
"""Keys a resumed run may change freely: where, how long, how often, on what."""

CHOICES = ("track", "metric", "features")
"""Config groups in which a resumed run may choose anew."""

UNSAFE = ("hardware.micro_batch",)
"""Exceptions to them: batch normalization sees the micro-batch."""

FIXED = ("model.name", "model.classes", "network", "codec", "process", "data", "seed", "init")
"""Keys that make it another run: refused on resume."""


def main(words: Sequence[str]) -> int:
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
    if problems := cfg.validate(after) + _too_short(run, after):
        raise ConfigError(*problems)
    from genlab.assemble.components import build
    from genlab.evaluation.in_training import Evaluator
    from genlab.sampling.pipeline import Pipeline
    from genlab.training.setup import make_tracker

    trust, allow = bool(options.get("trust")), options.get("allow", [])
    components = build(after, trust=trust, meta=True)
    make_tracker(after, trust)
    pipeline = Pipeline(components)
    Evaluator(pipeline, trust=trust)
    _say_rates(before, after, components.schedule)
    if after != before:
        with run.lock():
            run.rewrite_config(after, changes)
    return launch(run.path, after["hardware"]["devices"], trust, allow)


def update_run(run: Run, config: Mapping[str, Any], words: Sequence[str]) -> None:
    """Gives a run that is trained again by its own command the cadences and places now typed."""
    before, node = run.config, OmegaConf.create(run.config)
    for key in SAFE:
        # what a hash of the config holds cannot differ; the rest is taken from the new command
        if key in ("every", "keep", "data.root", "track", "metric", "features", "eval"):
            value = OmegaConf.select(OmegaConf.create(dict(config)), key)
            OmegaConf.update(node, key, value, merge=False)
    after = OmegaConf.to_container(node)
    assert isinstance(after, dict)
    if after != before:
        changed = [k for k in cfg.flatten(after) if _value(after, k) != _value(before, k)]
        print(f"going on with {run.path}, now with other {', '.join(changed)}", file=sys.stderr)
        with run.lock():
            run.rewrite_config(after, words)


def _value(config: Mapping[str, Any], key: str) -> Any:
    return OmegaConf.select(OmegaConf.create(dict(config)), key)


def _too_short(run: Run, config: Mapping[str, Any]) -> list[str]:
    done = max((int(p.name) for p in run.path.glob("checkpoints/[0-9]*[0-9]")), default=0)
    wanted = (config.get("schedule") or {}).get("images")
    if not isinstance(wanted, int) or wanted >= done:
        return []
    return [f"schedule.images={wanted}: this run has drawn {done:,} already; ask for more"]


def _changed(
    config: Mapping[str, Any], words: Sequence[str], allow: Sequence[str]
) -> dict[str, Any]:
    node = OmegaConf.create(dict(config))
    overrides = [OverridesParser.create().parse_override(word) for word in words]
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if key in CHOICES:  # before the keys of these members
            names = value if isinstance(value, list) else [value]
            node[key] = OmegaConf.merge({}, *(cfg.member(key, str(name)) for name in names))
    known = cfg.flatten(OmegaConf.to_container(node))
    problems = []
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if key in CHOICES:
            continue
        if key not in known and not key.startswith("optimizer.players"):
            hint = suggest(key, known) or "`genlab list runs` and its config.yaml show it."
            problems.append(f"no key {key!r} in this run. {hint}")
            continue
        if key in GROUPS or (_under(key, FIXED) and not _under(key, SAFE)):
            was = OmegaConf.select(node, key)
            problems.append(
                f"{key} was {was}, not {value}: that would be another run; train it with "
                "genlab train, from these weights with init=<run>"
            )
        elif (not _under(key, SAFE) or key in UNSAFE) and "config" not in allow:
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
