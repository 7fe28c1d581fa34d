"""Every yaml composes, every constructor agrees with its yaml, every name leads somewhere."""

import copy
import re

import pytest
from omegaconf import OmegaConf

from genlab.config.compose import compose, config_of, digest, provenance
from genlab.config.saved import read
from genlab.core import registry
from genlab.core.errors import ConfigError, Refused
from genlab.core.registry import GROUPS, SEVERAL, components, configs_dir, names
from tests.helpers.configs import composed

CASES = [(group, name) for group in GROUPS for name in names(group)]
EXPERIMENTS = names("experiment")


def nodes(group, name):
    """The nodes of a config: one, or one a role for networks and metrics."""
    node = OmegaConf.to_container(config_of(group, name))
    return node if group in SEVERAL else {group: node}


def test_folders_of_configs_are_the_groups():
    groups = {p.name for p in configs_dir().iterdir() if p.is_dir()}
    assert groups - {"experiment"} == set(GROUPS)


@pytest.mark.parametrize(("group", "name"), CASES)
def test_yaml_holds_exactly_the_keys_of_the_constructor(group, name):
    for key, node in nodes(group, name).items():
        if node.get("name") is None:
            continue
        wanted = registry.signature(group, node["name"])
        common = set(registry.COMMON.get(group, {}))
        assert set(node) - {"name"} - common == set(wanted.keys), key
        assert common <= set(node), f"{group} {name} lacks the keys that every component has"
        assert not [k for k, a in wanted.keys.items() if not a], "a key without annotation"


@pytest.mark.parametrize("group", GROUPS)
def test_every_registered_name_has_a_yaml_and_the_other_way_round(group):
    named = {n["name"] for r, name in CASES if r == group for n in nodes(group, name).values()}
    assert named - {None} == set(components(group))


@pytest.mark.parametrize(
    ("group", "name"), [c for c in CASES if c[0] in ("schedule", "optimizer")]
)
def test_configs_compose_in_place(group, name):
    config = composed(f"{group}={name}")
    assert config[group]["name"] == nodes(group, name)[group]["name"]
    assert provenance([f"{group}={name}"])[group] == "command line"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_says_whose_data_it_is(experiment):
    config = composed(f"experiment={experiment}")
    who = provenance([f"experiment={experiment}"])
    data, _, recipe = experiment.partition("/")
    assert config["data"]["name"] == data
    model = config["model"]["name"]
    assert who["model"] == f"experiment/{experiment}.yaml" or model == "flow_matching"
    if paper := re.fullmatch(
        r"([a-z]+)(\d{4})(_[a-z]+)?", recipe
    ):  # song2021_ve: Song et al. 2021
        source = config["promise"]["source"]
        assert source.lower().startswith(paper[1])
        assert paper[2] in source
    elif experiment not in ("folder/small", "folder/small_gan"):  # glow_small32: glow
        assert model == max((m for m in names("model") if recipe.startswith(m)), key=len)


def test_the_command_line_wins_over_experiment_and_model():
    words = ["experiment=fashion_mnist/gan", "optimizer.lr=0.5", "schedule=cosine", "seed=7"]
    config, who = compose(words), provenance(words)
    assert config["optimizer"]["lr"] == 0.5
    assert config["schedule"]["name"] == "cosine"
    assert who["optimizer.lr"] == who["schedule"] == who["seed"] == "command line"
    assert who["network"] == "model/base/adversarial.yaml"
    assert who["data"] == "experiment/fashion_mnist/gan.yaml"


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as e:
        compose(["optimizer.lr=-1", "schedule.images=many", "every.seconds=0", "seed=1.5"])
    text = str(e.value)
    for key in ("optimizer.lr", "schedule.images", "every.seconds", "seed"):
        assert key in text


def test_players_are_open_and_checked_later():
    config = compose(["model=gan", "optimizer.players.d.lr=1e-4"])
    assert config["optimizer"]["players"] == {"d": {"lr": 1e-4}}


@pytest.mark.parametrize(
    "word",
    ["+model._target_=os.system", "model.extra={_target_:x}", "++data.a=[{_target_:os.system}]"],
)
def test_targets_are_refused(word):
    with pytest.raises(Refused):
        compose([word])


def test_a_new_key_is_refused_but_notes_are_kept():
    with pytest.raises(ConfigError, match=r"extra\."):
        compose(["+optimiser.lr=1"])
    config = compose(["+extra.note=tried"])
    assert config["extra"] == {"note": "tried"}


def test_digest_is_about_what_is_computed():
    base = compose([])
    same = compose(["outputs=/elsewhere", "data.root=/other", "every.log=10", "keep.last=5"])
    other = compose(["seed=1"])
    assert digest(base) == digest(same) != digest(other)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("[1, 2]", "no model"),
        ("a: &x [1]\nb: *x\n", "alias"),
        ("a: {b: [\n", "YAML"),
        ("model: {name: '${oc.env:HOME}'}\n", "interpolations"),
        ("model: {name: ddpm}\nseed: ${schedule.batch}\n", "interpolations"),
    ],
)
def test_a_config_of_a_run_directory_is_only_data(tmp_path, text, word):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        read(path)


def test_a_run_of_an_earlier_version_gets_the_keys_that_are_new(tmp_path):
    config = composed("model=gan")
    for old, new in ((config["hardware"], "threads"), (config["model"], "r1")):
        del old[new]
    del config["network"]["generator"]["width"]
    config["network"]["generator"]["z_dim"] = 7
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    wanted = compose(["model=gan", "network.generator.z_dim=7"])
    assert read(path) == wanted


def test_a_run_of_an_earlier_version_gets_inherited_keys(tmp_path):
    config = composed("model=edm")
    wanted = copy.deepcopy(config)
    keys = {"model": ["sd", "label_dropout"], "sampler": ["rho", "clip"], "optimizer": ["eps"]}
    for group, names_ in keys.items():
        for key in names_:
            del config[group][key]
    del config["network"]["net"]["resample"]
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    assert read(path) == wanted


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds(experiment):
    from genlab.assemble.components import build
    from genlab.core.errors import DataError, DeviceError

    shared = registry.PACKAGE.parent.parent / "shared/data"
    words = [f"experiment={experiment}", "hardware=cpu"]
    config = compose([*words, *([f"data.root={shared}"] if shared.is_dir() else [])])
    try:
        built = build(config, meta=True)
    except (DataError, DeviceError) as e:  # files or an extra that are not here
        pytest.skip(str(e))
    except ConfigError as e:
        assert e.problems[0].startswith("data.path is not set"), e  # a folder of the person's own
        pytest.skip(str(e))
    assert built.schedule.images == config["schedule"]["images"]
    assert all(p.is_meta for p in built.model.parameters())
