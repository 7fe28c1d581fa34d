"""Every yaml composes to what it composed to before: runs and sweeps are found by that."""

import json

import pytest
from omegaconf import OmegaConf

from genlab.config import compose, saved
from genlab.config.compose import NEW_KEYS, digest
from genlab.core import registry
from tests.helpers.configs import DIGESTS, WORDS, composed, printed

KEPT = json.loads(DIGESTS.read_text())


def test_every_yaml_is_kept():
    assert {words.split()[-1] for words in KEPT} == set(WORDS), "run scripts/make_digests.py"


@pytest.mark.parametrize("words", KEPT)
def test_it_composes_to_the_same_config(words):
    assert printed(words) == KEPT[words]


ADDED = {"model.gan.r1": 0, "network.dcgan_generator.width": 64, "init": None}


@pytest.fixture
def new_keys(monkeypatch):
    """Keys that act as new ones."""
    for key, value in ADDED.items():
        monkeypatch.setitem(compose.NEW_KEYS, key, value)


def without(config):
    """The config as it was before these keys."""
    del config["model"]["r1"], config["network"]["generator"]["width"], config["init"]
    return config


def test_a_new_key_at_its_default_leaves_the_digest_as_it_was(new_keys):
    before = digest(without(composed("model=gan")))
    config = composed("model=gan")
    assert digest(config) == before and "r1" in config["model"]
    for place, value in (("model", {"r1": 0.1}), ("network", {"generator": {"width": 32}})):
        changed = composed("model=gan")
        changed[place] = {**changed[place], **value}
        assert digest(changed) != before
    assert digest(composed("model=gan") | {"init": "latest"}) != before
    other = composed("model=gan")
    other["model"]["ema"] = 0
    assert digest(other) != before, "the key of another component of this value"


def test_a_saved_config_gets_a_new_key_as_it_was_added(new_keys, tmp_path, monkeypatch):
    """Not as a yaml has it now, which may be another recommendation."""
    monkeypatch.setitem(compose.NEW_KEYS, "model.gan.r1", 7)
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(without(composed("model=gan")))))
    config = saved.read(path)
    assert config["model"]["r1"] == 7 and config["network"]["generator"]["width"] == 64
    assert config["init"] is None and digest(config) == digest(without(composed("model=gan")))


def test_new_keys_exist():
    for key in NEW_KEYS:
        group, _, rest = key.partition(".")
        name, _, leaf = rest.partition(".")
        own = registry.signature(group, name).keys if rest else composed("")
        assert (leaf or group) in {**own, **registry.COMMON.get(group, {})}, key
