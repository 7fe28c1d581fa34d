"""The config of a run directory: data that may come from anywhere, or from an older genlab."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genlab.config.compose import (
    NEW_KEYS,
    added_to,
    config_of,
    first_line,
    flatten,
    parse,
    refuse_resolvers,
    refuse_targets,
    validate,
)
from genlab.core import registry
from genlab.core.console import log
from genlab.core.errors import ConfigError
from genlab.core.files import read_bytes
from genlab.core.registry import GROUPS, suggest

__all__ = ["LIMIT", "apply", "read"]

LIMIT = 200_000
"""Largest config file in bytes; nobody writes one, and larger ones come from mistakes."""


def read(path: Path) -> dict[str, Any]:
    """A config file of a run directory, as plain data: no interpolation, no tags, no aliases."""
    try:
        text = read_bytes(path, limit=LIMIT).decode()
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path} cannot be read as a config: {first_line(e)}") from e
    try:
        # events come before anything is built, so an alias bomb stays a short text
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if any(getattr(event, "anchor", None) for event in events):
            raise ConfigError(f"{path} has YAML aliases: not a config genlab wrote")
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as e:
        line = f":{e.problem_mark.line + 1}" if e.problem_mark else ""
        raise ConfigError(f"{path}{line} is no YAML to be read: {e.problem}") from e
    except Exception as e:  # YAML's and OmegaConf's error trees have no common root
        raise ConfigError(f"{path} is not YAML: {first_line(e)}") from e
    refuse_targets(config)
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ConfigError(f"{path} is empty or names no model: not a config genlab wrote")
    config.pop("hydra", None)
    # notes stay as they are; of other values some would be resolved later
    if "${" in repr({key: node for key, node in config.items() if key != "extra"}):
        raise ConfigError(f"{path} has interpolations (${{...}}): not a config genlab wrote")
    for key, default in NEW_KEYS.items():
        if "." in key:
            continue
        if isinstance(default, dict) and isinstance(config.get(key), dict):
            config[key] = {**default, **config[key]}
        config.setdefault(key, default)
    config = _completed({str(k): v for k, v in config.items()})
    # whoever reads a run that another one names looks into these before anything is checked
    nodes = (*GROUPS, "every", "keep")
    whole = "seed" in config and all(isinstance(config.get(key), dict) for key in nodes)
    if problems := [] if whole else validate(config):
        raise ConfigError(*(f"{path}: {problem}" for problem in problems))
    return config


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """A config of an earlier version with the keys that were added since, at their defaults.

    Those of `NEW_KEYS` have the value that leaves a component as it was, so that old runs stay
    what they are; others that of a yaml. A line says which keys were filled in.
    """
    for _, group, node in registry.nodes(config):
        name = node.get("name")
        if name not in registry.components(group):
            continue
        known = {*registry.signature(group, name).keys, *registry.COMMON.get(group, {})}
        if missing := sorted(known - set(node)):
            defaults = {**_defaults(group, name), **added_to(group, name)}
            added = {k: defaults[k] for k in missing if k in defaults}
            words = ", ".join(f"{k}={v}" for k, v in added.items())
            log(f"{group} {name!r} of this run lacks keys: {words} (the defaults)")
            node |= added
    return config


def _defaults(group: str, name: str) -> dict[str, Any]:
    """The keys of the first yaml of a group that names this component."""
    for config in registry.names(group):
        node = OmegaConf.to_container(config_of(group, config), resolve=False)
        assert isinstance(node, dict)
        for candidate in (node, *(v for v in node.values() if isinstance(v, dict))):
            if candidate.get("name") == name:
                return candidate
    return {}


def _resolved(key: str, value: Any) -> Any:
    """A value as it is kept: what it says of the environment is read now, by `data.root` alone."""
    if "${" not in repr(value):
        return value
    refuse_resolvers(value, key)
    try:
        return OmegaConf.to_container(OmegaConf.create({key: value}), resolve=True)[key]
    except OmegaConfBaseException:
        raise ConfigError(
            f"{key}={value}: a key of a run that was made cannot follow another one, and the "
            "environment must have what it is to say; write the value"
        ) from None


def apply(
    config: Mapping[str, Any],
    words: Sequence[str],
    groups: Collection[str],
    refusal: Callable[[str, Any, Any], str],
) -> dict[str, Any]:
    """A saved config with `key=value` words of a command line applied to it.

    groups: in which another component may be chosen, which comes before any key is set. refusal:
    (key, its value, the new one) -> why this key may not be set, "" where it may.
    Raises ConfigError with every problem.
    """
    node = OmegaConf.create(dict(config))
    typed = [(o.get_key_element(), o.value()) for o in map(parse, words)]
    for key, value in typed:
        if key in groups:
            several = key in registry.SEVERAL and isinstance(value, list)
            nodes = [config_of(key, str(name)) for name in (value if several else [value])]
            node[key] = OmegaConf.merge({}, *nodes)
    known = flatten(OmegaConf.to_container(node))
    problems = []
    for key, value in typed:
        group, _, leaf = key.partition(".")
        if key in groups:
            continue
        if key not in known and not key.startswith("optimizer.players"):
            hint = registry.owners(group, leaf) if group in GROUPS else ""
            hint = hint or suggest(key, known) or "`genlab list runs` and its config.yaml show it."
            problems.append(f"no key {key!r} in this run. {hint}")
        elif why := refusal(key, OmegaConf.select(node, key), value):
            problems.append(why)
        else:
            OmegaConf.update(node, key, _resolved(key, value), force_add=True)
    if problems:
        raise ConfigError(*problems)
    out = OmegaConf.to_container(node)
    assert isinstance(out, dict)
    return {str(k): v for k, v in out.items()}
