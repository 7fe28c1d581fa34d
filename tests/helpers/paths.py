"""Components as their yaml has them, but for the keys given."""

from __future__ import annotations

from omegaconf import OmegaConf

from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.contract import Spec

PATHS = [n for n in registry.names("process") if n != "none"]
SPEC = Spec((1, 8, 8))


def made(group: str, name: str, keys: dict, **given):
    """The component of a group; keys that its yaml lacks are an error of the test."""
    node = OmegaConf.to_container(config_of(group, name))
    assert set(keys) <= set(node)
    return registry.build(group, {**node, **keys}, **given)


def path(name: str, spec: Spec = SPEC, **keys):
    """A process as its yaml has it but for the keys given, continuous; or DDPM's discrete one."""
    if name == "ddpm":
        return made("process", "vp", keys, spec=spec)
    if "steps" in registry.signature("process", name).keys:
        keys = {"steps": None, **keys}
    return made("process", name, keys, spec=spec)
