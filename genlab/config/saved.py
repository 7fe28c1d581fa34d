"""The config of a run directory: data that may come from anywhere, or from an older genlab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from genlab.config.compose import NEW_KEYS, added_to, config_of, first_line, refuse_targets
from genlab.core import registry
from genlab.core.console import log
from genlab.core.errors import ConfigError

__all__ = ["LIMIT", "read"]

LIMIT = 200_000
"""Largest config file in bytes; nobody writes one, and larger ones come from mistakes."""


def read(path: Path) -> dict[str, Any]:
    """A config file of a run directory, as plain data: no interpolation, no tags, no aliases."""
    try:
        if path.stat().st_size > LIMIT:
            raise ConfigError(f"{path} is {path.stat().st_size} bytes: not a config genlab wrote")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read as a config: {first_line(e)}") from e
    try:
        # events come before anything is built, so an alias bomb stays a short text
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if any(getattr(event, "anchor", None) for event in events):
            raise ConfigError(f"{path} has YAML aliases: not a config genlab wrote")
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except ConfigError:
        raise
    except Exception as e:  # YAML's and OmegaConf's error trees have no common root
        raise ConfigError(f"{path} is not YAML: {first_line(e)}") from e
    refuse_targets(config)
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ConfigError(f"{path} is empty or names no model: not a config genlab wrote")
    config.pop("hydra", None)
    for key, default in NEW_KEYS.items():
        if "." not in key:
            config.setdefault(key, default)
    return _completed({str(k): v for k, v in config.items()})


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
