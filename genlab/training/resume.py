"""`genlab resume`: a run goes on, with other keys where that leaves it the run it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from genlab.config.compose import flatten, split_options, validate
from genlab.config.named_runs import named_runs, replace_runs
from genlab.config.saved import apply
from genlab.core import registry
from genlab.core.console import log
from genlab.core.errors import ConfigError
from genlab.core.registry import GROUPS
from genlab.run.directory import Run, find_run
from genlab.run.parents import name_by_path
from genlab.run.trust import trusted, trusted_runs

__all__ = ["main", "reopen", "retyped"]

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

RETYPED = ("every", "keep", "track", "metric", "features", "eval")
"""Of them, those that are no part of what a run computes; data.root too."""

CHOICES = ("track", "metric", "features")
"""Config groups in which a resumed run may choose anew."""

UNSAFE = ("hardware.micro_batch",)
"""Exceptions to them: batch normalization sees the micro-batch."""

FIXED = ("model.name", "model.classes", "network", "codec", "process", "data", "seed", "init")
"""Keys that make it another run: refused on resume."""


def main(words: Sequence[str]) -> int:
    """Goes on with run=<path, id or latest>, with changed keys where that makes sense."""
    options, rest = split_options(words)
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
    allow = options.get("allow", [])
    with run.lock():  # nothing is made of a run that another process trains
        before = run.config
        after = _changed(before, changes, allow)
    if problems := validate(after) + _too_short(run, after):
        raise ConfigError(*problems)
    after = name_by_path(after, run.path.parent.parent, init=False)
    from genlab.training.launch import launch

    def open_run() -> Run:
        _log_rates(before, after)
        return reopen(run, after, changes)

    trust = options.get("trust", False)
    how = {"trust": trusted(run.path, trust, first=True), "trust_runs": trusted_runs(trust)}
    return launch(after, open_run, run=run, **how, allow=allow)


def retyped(run: Run, typed: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run whose own command is typed again, with what that now says otherwise.

    That is what a hash of the config leaves out, and where the runs are that it names; all else is
    the same. Locked while another process trains the run.
    """
    with run.lock():
        before = run.config
    kept = {key: typed[key] for key in RETYPED}
    root = {"root": typed["data"]["root"]} if "root" in typed["data"] else {}
    after = {**before, **kept, "data": {**before["data"], **root}}
    places = {key: ref["run"] for key, ref in named_runs(typed).items()}
    after = replace_runs(after, lambda key, run: places.get(key, run))
    if changed := [k for k in flatten(after) if _value(after, k) != _value(before, k)]:
        log(f"going on with {run.path}, now with other {', '.join(changed)}")
    return after


def reopen(run: Run, config: Mapping[str, Any], words: Sequence[str]) -> Run:
    """Records what a run goes on with and what was typed for it, if that is new."""
    if config != run.config:
        with run.lock():
            run.rewrite_config(config, words)
    return run


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
    """The config of a run with what was typed; ConfigError where that is not the run it was."""

    def refusal(key: str, was: Any, value: Any) -> str:
        safe = _under(key, SAFE)
        if key in GROUPS or (_under(key, FIXED) and not safe):
            return (
                f"{key} was {was}, not {value}: that would be another run; train it with "
                "genlab train, from these weights with init=<run>"
            )
        if (not safe or key in UNSAFE) and "config" not in allow:
            return (
                f"{key} was {was}, not {value}: the run would not be the one it was; "
                "add allow=[config] if you mean it"
            )
        return ""

    return apply(config, words, CHOICES, refusal)


def _log_rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """A longer run may give images that are already drawn another learning rate: said once."""
    end = before["schedule"]["images"]
    old, new = (registry.build("schedule", config["schedule"])(end) for config in (before, after))
    if old != new:
        log(f"the learning rate at image {end:,} is {new:.3g} of optimizer.lr, it was {old:.3g}")


def _under(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == p or key.startswith(p + ".") for p in prefixes)
