"""Configs that inherit by Hydra's defaults lists, read as text: held against what Hydra does."""

from __future__ import annotations

import inspect
from collections import defaultdict
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from genlab.cli import list as listing
from genlab.cli import main as cli
from genlab.cli.completion import candidates
from genlab.config import catalog, overrides
from genlab.config.compose import compose, provenance
from genlab.core import registry
from genlab.core.errors import ConfigError
from genlab.core.registry import GROUPS, names

ALL = [(group, name) for group in (*GROUPS, "experiment") for name in names(group)]

MINE = {
    "model/mine": """# @package _global_
# Mine.
defaults:
  - base/path
  - override /process: linear
  - override /network: wide
model:
  name: flow_matching
  predict: velocity
  coupling: ot # of mine
""",
    "network/wide": "defaults: [unet_small]\nnet:\n  width: 64\n",
    "sampler/block": "defaults: # why\n  # how\n  - base/mine # of mine\n\n  - heun\nsteps: 3\n",
    "sampler/base/mine": "# @package sampler\nsteps: 4 # mine\n",
    "sampler/group": "defaults:\n  - base: mine\nname: euler\n",
    "sampler/many": "defaults:\n  - base: [mine, levels]\n  - _self_\nname: euler\n",
    "sampler/before": "defaults:\n- _self_\n- base/mine\nname: euler\n",
    "sampler/here": "defaults:\n  - /sampler/block@_here_\nsteps: 5\n",
    "sampler/global": "defaults: [heun@_global_.sampler, /optimizer/sgd@_global_.x.y]\nsteps: 5\n",
    "sampler/headed": "# @package _global_.sampler\ndefaults: [here]\nsteps: 6\n",
    "sampler/inner": "defaults: [optimizer/mine, optimizer/theirs@other.place]\nname: euler\n",
    "sampler/optimizer/mine": "a: 1\n",
    "sampler/optimizer/theirs": "# @package not.there\na: 1\n",
    "sampler/absolute": "defaults: [/optimizer/sgd]\nname: euler\n",
}


@pytest.fixture
def mine(tmp_path):
    """A folder of configs of one's own."""
    for name, text in MINE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def merged_by_hydra(words: list[str], folder: Path) -> list[tuple[str, str]]:
    """Path and package of every yaml of a composition, in order."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(registry.configs_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list(
            "train", [*words, f"hydra.searchpath=[file://{folder}]"], RunMode.RUN
        )
    return [(f"{d.config_path}.yaml", d.package) for d in found.defaults]


@pytest.mark.parametrize(
    "words",
    [
        "network=unet_ncsnpp sampler=heun_karras optimizer=adam_wgan schedule=linear model=edm",
        "network=wide sampler=langevin guidance=interval hardware=cpu model=mine",
        *(f"sampler={n.partition('/')[2]}" for n in MINE if n.count("/") == 1 and n[0] == "s"),
    ],
)
def test_files_are_those_that_hydra_merges(words, mine):
    found = merged_by_hydra(words.split(), mine)
    for word in words.split():
        files = catalog.files(*word.split("="), mine)
        ours = [(f.name, f.package) for f in files]
        at = found.index(ours[0])
        assert found[at : at + len(ours)] == ours
        group = word.partition("=")[0]
        beside = [f for f, _ in found if f.startswith(f"{group}/") and f not in dict(ours)]
        assert not beside


def test_a_key_says_where_it_comes_from_and_keeps_its_comment():
    keys = catalog.lines("network", "unet_ncsnpp_song")
    depth, start = keys["network.net.blocks"], keys["network.net.init"]
    assert (depth.default, depth.file) == ("4", "network/unet_ddpmpp_song.yaml")
    assert depth.comment == catalog.lines("network", "unet")["network.net.blocks"].comment != ""
    assert (start.default, start.file) == ("song", "network/unet_ddpmpp_song.yaml")


def test_a_config_of_ones_own_inherits(mine, capsys):
    folder = ["--config-dir", str(mine)]
    config = compose(["model=mine"], [str(mine)])
    who = provenance(["model=mine"], [str(mine)])
    assert config["network"]["net"]["width"] == 64 and config["model"]["density"] == "uniform"
    assert who["network"] == "model/mine.yaml" and who["guidance"] == "model/base/path.yaml"
    assert who["network.net.width"] == "network/wide.yaml"
    assert who["network.net.blocks"] == "network/unet_small.yaml"
    assert who["network.net.patch"] == "network/unet.yaml"
    assert cli.main(["show", "model=mine", *folder]) == 0
    rows = {r.split()[0]: r for r in capsys.readouterr().out.splitlines() if r.startswith("  ")}
    assert "model/base/path.yaml" in rows["model.density"]
    assert "of times: uniform" in rows["model.density"]
    assert "model/mine.yaml" in rows["model.coupling"] and "of mine" in rows["model.coupling"]
    assert cli.main(["show", "data=mnist"]) == 0
    assert "the download has 12 MB" in capsys.readouterr().out, "what a config says of itself"
    line = f"genlab train --config-dir {mine} model=mine "
    assert "model.predict=" in candidates(f"{line}model.p")
    assert "model.density=u_shape" in candidates(f"{line}model.density=u")
    assert "network.net.resample=fir" in candidates(f"{line}network.net.resample=f")
    with pytest.raises(ConfigError, match=r"no key 'model.denisty'. Did you mean 'model.density'"):
        compose(["model=mine", "model.denisty=uniform"], [str(mine)])
    (problem,) = overrides.check(["model=mine", "sd=1"], primary="train", folders=[mine])
    assert "Did you mean 'model.sd'?" in problem


def test_what_is_to_be_inherited_is_no_choice(mine, capsys):
    assert [n for n in names("sampler", mine) if n.startswith("base")] == []
    assert "path" in names("model/base")
    assert not [r for r in listing.components("sampler") if r["name"].startswith("base")]
    assert not [c for c in candidates("genlab train model=") if "base" in c]
    assert cli.main(["show", "model=base/path"]) == 2
    assert "no model 'base/path'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defaults: [base/lvels]\nname: euler\n", "sampler/base/lvels.* Did you mean 'levels'"),
        ("defaults: [huen]\nname: euler\n", "sampler/huen, and there is none. .*'heun'"),
        ("defaults: [base/clipped]\nname: euler\n", "sampler 'euler' needs the key steps"),
        ("defaults: [base/levels]\nname: euler\nsteps: 1\n", "'euler' needs the key clip"),
        ("defaults: [other]\nname: euler\n", "inherits itself"),
    ],
)
def test_what_cannot_be_inherited(tmp_path, text, words):
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "mine.yaml").write_text(text)
    (tmp_path / "sampler" / "other.yaml").write_text("defaults: [mine]\n")
    with pytest.raises(ConfigError, match=words):
        compose(["sampler=mine"], [str(tmp_path)])
    assert catalog.lines("sampler", "mine", tmp_path)  # ends


@pytest.mark.parametrize(("group", "name"), ALL)
def test_a_key_of_a_family_exists_once(group, name):
    *above, _ = catalog.files(group, name)
    inherited = {k.name: k.default for f in above for k in catalog.scan(f.path, f.package)}
    own = catalog.files(group, name)[-1]
    again = [
        key.name
        for key in catalog.scan(own.path, own.package)
        if key.default and inherited.get(key.name) == key.default
    ]
    assert not again, f"{own.name} says again what it inherits"


ITS_OWN = {
    "model.weight": "of an error on a path, of the penalty in wgan_gp",
    "model.variance": "of DDPM's steps back, of the data in vqvae",
    "process.sigma_max": "edm and ve have this alone in common, and other values of it",
    "sampler.variance": "predictor_corrector cannot take the learned one",
    "network.net.width": "channels of a level, numbers of a token, of hidden layers",
    "network.net.depth": "blocks, residual layers, steps of flow in a level",
    "network.net.head_width": "channels of a map in U-Nets, numbers of a token in Transformers",
    "network.net.dropout": "in residual blocks, or of attention weights",
    "network.net.patch": "1 of a U-Net reads pixels, 2 of DiT makes tokens",
    "network.net.embedding": "of dit, mlp and unet: unet_mp has none, and no base is theirs alone",
    "network.net.frequencies": "of dit and unet, as their embedding",
    "network.generator.width": "of a last layer that halves, of hidden layers, of every map",
    "network.generator.z_dim": "of dcgan, mlp_gan and resnet_gan, which have no other key alike",
    "network.discriminator.width": "as of the generator",
}
"""Keys that several components define, each for itself: what they mean there, or why that is."""


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "metric"])
def test_a_key_of_siblings_is_defined_once(group):
    """The first yaml of a chain that has a key defines it; all that have it share that yaml."""
    defined = defaultdict(set)
    for name in names(group):
        first = {}
        for file in catalog.files(group, name):
            for key in catalog.scan(file.path, file.package):
                if key.default:  # else it is the head of others
                    first.setdefault(key.name, file.name)
        for key, file in first.items():
            if key.startswith(f"{group}.") and not key.endswith(".name"):
                defined[key].add(file)
    again = {key: files for key, files in defined.items() if len(files) > 1}
    assert not {k: f for k, f in again.items() if k not in ITS_OWN}, "give them a base"
    assert {k for k in ITS_OWN if k.startswith(f"{group}.")} <= set(again), "no exception any more"


def family(group, cls):
    """The class of a component and those it is made of, below the base class of its group."""
    base = import_module(registry.BASES[group].partition(":")[0])
    return [c for c in cls.__mro__ if c.__module__ not in (base.__name__, "builtins")]


def keys(cls):
    """Key -> annotation of those that the constructor of a class names; whether others follow."""
    if "__init__" not in vars(cls):
        return {}, True
    parameters = inspect.signature(cls.__init__).parameters.values()
    named = {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


@pytest.mark.parametrize("group", registry.BASES)
def test_a_key_of_a_family_is_a_parameter_of_one_class(group):
    """A subclass names a key again where it takes other values of it, or no other keys.

    Cosine and VariancePreserving both name `steps`: of two bases, keys go on in the first.
    """
    components = dict.fromkeys(registry.find(group, n) for n in registry.components(group))
    families = [
        [c for c in family(group, cls) if c.__module__[:7] == "genlab."] for cls in components
    ]
    for cls, *above in families:
        mine, more = keys(cls)
        again = {k for c in above for k, a in keys(c)[0].items() if mine.get(k) == a}
        assert not again or not more, f"{cls.__name__} names again: {again}"
    for (one, *above), (other, *besides) in combinations(families, 2):
        shared = [c for c in above if c in besides]
        if one in besides or other in above or not shared:
            continue
        known = {k for c in shared for k in keys(c)[0]}
        both = {k for k, a in keys(one)[0].items() if keys(other)[0].get(k) == a} - known
        if (group, one.__name__, other.__name__) != ("process", "Cosine", "VariancePreserving"):
            assert not both, f"{one.__name__} and {other.__name__} both name {both}"


@pytest.mark.parametrize(("group", "name"), ALL)
def test_a_mapping_that_is_inherited_is_empty(group, name):
    """Hydra would merge the keys of one that replaces it: {halflife: 1} into {decay: 0.9}."""
    for file in catalog.files(group, name)[:-1]:
        for key in catalog.scan(file.path, file.package):
            if key.name.rpartition(".")[2] in ("ema", "players", "metric"):
                assert key.default == "{}" or key.default[:1] not in ("", "{"), file.name
