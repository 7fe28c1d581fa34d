"""Mistakes in YAML of one's own are one sentence with file and line."""

from __future__ import annotations

import os

import pytest

from genlab.config import saved
from genlab.config.compose import compose
from genlab.core.errors import ConfigError

BOMB = b"a: &a [x, x]\n" + b"".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n".encode()
    for i in range(12)
)

MISTAKES = [
    (b"model:\n  ema: 0\n  name: ddpm\n  ema: 1\n", "4: the key 'ema' is there twice"),
    (b"model:\n\tema: 0\n", "2: a tab; indent with spaces"),
    (b"model: !!python/object:os.system {}\n", "1: the tag"),
    (b"model:\n  x: !x 1\n", "2: the tag !x"),
    (b"\xef\xbb\xbfmodel: {ema: 0}\n", "1: it begins with a byte order mark"),
    (b"# one\nmodel: {ema: \xff}\n", "2: a byte there is no UTF-8"),
    (BOMB, "1: anchors"),
    (b"model: {ema: 0\n", "2: did not find expected"),
    (b"a: " + b"[" * 5000, "nest"),
    (b"model: {ema: 0}\n? [a, b]\n: 1\n", "2: a key that is a list"),
    (b"- a\n- b\n", "1: it has no keys"),
    (b"# x\n" + b"#" * 300_000, "more than 200,000 bytes"),
]


@pytest.mark.parametrize(("data", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_a_mistake_has_its_file_and_line(tmp_path, data, message):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=message) as e:
        compose(["model=ddpm"], [str(tmp_path)])
    assert f"{folder}/mine.yaml" in str(e.value) and "\n" not in str(e.value)


def test_yaml_as_people_write_it_passes(tmp_path):
    (tmp_path / "model").mkdir()
    text = "# @package _global_\ndefaults: [ddpm]\nmodel:\n  ema: 0 # none\n"
    (tmp_path / "model" / "mine.yaml").write_text(text)
    assert compose(["model=mine"], [str(tmp_path)])["model"]["ema"] == 0


@pytest.mark.parametrize("key", ["optimizer.lr", "+extra.note", "init"])
def test_the_environment_says_where_data_are_and_nothing_else(key, monkeypatch):
    monkeypatch.setenv("SECRET", "0.5")
    with pytest.raises(ConfigError, match=r"oc\.env.*data\.root and outputs alone") as e:
        compose([f"{key}=${{oc.env:SECRET}}"])
    assert "0.5" not in str(e.value)
    config = compose(["outputs=${oc.env:SECRET}", "data.root=${oc.env:SECRET}"])
    assert config["outputs"] == config["data"]["root"] == "0.5"


@pytest.mark.parametrize(
    "text", ["${${extra.o}:SECRET}", "a${oc.env:SECRET}", "${ oc.env :SECRET}"]
)
def test_the_environment_is_not_reached_by_a_name_that_is_put_together(
    tmp_path, text, monkeypatch
):
    monkeypatch.setenv("SECRET", "0.5")
    (tmp_path / "experiment").mkdir()
    head = "# @package _global_\nextra:\n  o: oc.env\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(f"{head}  x: '{text}'\n")
    with pytest.raises(ConfigError, match=r"extra\.x=") as e:
        compose(["experiment=mine"], [str(tmp_path)])
    assert "0.5" not in str(e.value)


def test_what_is_typed_for_a_run_is_read_now(monkeypatch):
    """What was kept as typed made a run that no verb could read."""
    monkeypatch.setenv("PLACE", "there")
    config = compose([])

    def typed(word):
        return saved.apply(config, [word], (), lambda key, was, value: "")

    assert typed("data.root=${oc.env:PLACE}")["data"]["root"] == "there"
    for word in ("optimizer.lr=${oc.env:PLACE}", "data.root=${outputs}", "seed=${schedule.batch}"):
        with pytest.raises(ConfigError, match="write the value"):
            typed(word)


def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model" / "mine.yaml")
    with pytest.raises(ConfigError, match=r"mine\.yaml is no regular file"):
        compose(["model=ddpm"], [str(tmp_path)])


def test_other_resolvers_are_refused_and_other_keys_are_not():
    with pytest.raises(ConfigError, match=r"no resolver 'oc\.decode'"):
        compose(["optimizer.lr=${oc.decode:1}"])
    assert compose(["seed=${schedule.batch}"])["seed"] == compose([])["schedule"]["batch"]
