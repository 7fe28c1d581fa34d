"""The config folders read as text, held against Hydra and OmegaConf; `genlab show`."""

from __future__ import annotations

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from genlab.cli import main as cli
from genlab.cli import verb
from genlab.config import catalog
from genlab.config.keys import KEYS
from genlab.core import registry
from tests.helpers.configs import composed


def run(capsys, *argv):
    """(exit code, stdout, stderr) of a command line, in this process."""
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    "path",
    sorted(registry.configs_dir().rglob("*.yaml")),
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_scan_reads_the_keys_that_yaml_has(path):
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}
    for hidden in ("defaults", "hydra"):
        node.pop(hidden, None)
    found = catalog.scan(path, "a.b")
    names = {k.name for k in found if not k.name.startswith("a.b.hydra")}
    assert names == set(flatten(node, "a.b."))


def flatten(node, prefix=""):
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")


def leaves(node):
    every = list(flatten(node))
    return [k for k in every if not any(o.startswith(f"{k}.") for o in every)]


@pytest.mark.parametrize("primary", KEYS)
def test_every_key_of_a_verb_says_what_it_takes(primary):
    node = OmegaConf.to_container(OmegaConf.load(registry.configs_dir() / f"{primary}.yaml"))
    own = set(leaves({k: v for k, v in node.items() if k not in ("defaults", "hydra")}))
    assert own - {"promise"} == set(KEYS[primary])


def test_scan_of_hard_lines(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        '# @package network\n# what it is\nnet:   # the net\n  url: "a#b" # kept\n'
        "  text: |\n    inner: no key\n  # above\n  n: 3\n  flow: {a: 1, b: [1, 2]}\n"
        "last: 'it: is # text'\n"
    )
    assert catalog.scan(path, "network", "x") == [
        ("network.net", "", "the net", "x"),
        ("network.net.url", '"a#b"', "kept", "x"),
        ("network.net.text", "|", "", "x"),
        ("network.net.n", "3", "above", "x"),
        ("network.net.flow", "{a: 1, b: [1, 2]}", "", "x"),
        ("network.net.flow.a", "1", "", "x"),
        ("network.net.flow.b", "[1, 2]", "", "x"),
        ("network.last", "'it: is # text'", "", "x"),
    ]
    assert catalog.summary(path) == "what it is"


PICKS = [
    {},
    *({"model": m} for m in registry.names("model")),
    *({"experiment": e} for e in registry.names("experiment")),
    {"model": "gan", "schedule": "cosine", "hardware": "cpu"},
]


@pytest.mark.parametrize("picks", PICKS, ids=str)
def test_what_is_chosen_is_what_hydra_composes(picks):
    words = [f"{group}={name}" for group, name in picks.items()]
    with initialize_config_dir(str(registry.configs_dir()), version_base="1.3"):
        node = hydra_compose("train", words, return_hydra_config=True)
    choices = {g: n for g, n in node.hydra.runtime.choices.items() if n and "hydra" not in g}
    chosen = catalog.chosen("train", picks)
    assert {group: choice.name for group, choice in chosen.items()} == choices
    for group, choice in chosen.items():
        assert (choice.who == "command line") == (group in picks)
        if choice.who != "command line":
            text = (registry.configs_dir() / choice.who).read_text()
            assert f"{group}: {choice.name}\n" in text
    config = composed(" ".join(words))
    nothing = {"metric"}  # measured while training, unless some are named
    assert set(leaves(config)) - nothing <= set(catalog.keys("train", picks))


# --- show ---------------------------------------------------------------------------------------


def test_show_has_every_key_with_value_and_chooser(capsys):
    words = ["model=gan", "optimizer.lr=3e-4"]
    code, out, _ = run(capsys, "show", *words)
    assert code == 0
    rows = {row.split()[0]: row for row in out.splitlines() if row.startswith("  ")}
    config = composed(" ".join(words))
    for key in leaves(config):
        if key == "metric":
            continue  # none: no key
        if key.count(".") == 1 and key.endswith(".name"):
            continue  # stands in the title of its group
        assert key in rows, key
    assert rows["optimizer.lr"].split()[1] == "0.0003" and "command line" in rows["optimizer.lr"]
    assert "float >= 0" in rows["optimizer.lr"]
    assert "model=gan  (command line)" in out
    assert "network=dcgan  (model/base/adversarial.yaml)" in out
    assert "hardware=auto  (train.yaml)" in out


def test_show_folds_comments_into_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(verb, "_width", lambda: 120)
    narrow = run(capsys, "show")[1]
    monkeypatch.setattr(verb, "_width", lambda: 10_000)
    wide = run(capsys, "show")[1]
    assert len(narrow.splitlines()) > len(wide.splitlines())
    assert max(map(len, narrow.splitlines())) < max(map(len, wide.splitlines()))
    assert sorted(narrow.split()) == sorted(wide.split())


def test_show_names_the_words_of_a_closed_set(capsys):
    code, said, _ = run(capsys, "show", "model=edm")
    assert code == 0
    assert "eps | x0 | v | velocity | score | F" in said
    assert "Predict" not in said and "Density" not in said
