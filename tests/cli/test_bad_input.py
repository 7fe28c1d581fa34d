"""Everything a person can get wrong: one plain sentence with the fix, a stable code, no traces."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from genlab.cli.main import main
from genlab.run.checkpoint import Checkpoints
from genlab.run.directory import Run
from genlab.training.run_loop import train_run
from tests.helpers.runs import fingerprint, small, started

GAN = ("model=gan", "network.generator.width=8", "network.discriminator.width=8")
TOY = ("experiment=toy/flow_matching", "schedule.warmup=0")
SHORT = ("schedule.images=64", "schedule.batch=8", "hardware.threads=1", "every.sample=1000")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    """Every command runs in an empty folder, with no data to be found in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENLAB_DATA", raising=False)


def refused(capsys, code: int, *says: str, line: list[str]) -> str:
    """Runs a command that must fail with `code` and sentences that contain all of `says`."""
    capsys.readouterr()
    got = main(line)
    out, err = capsys.readouterr()
    assert got == code, f"{line} ended with {got}: {err}"
    sentences = [x for x in err.splitlines() if x.startswith("genlab: ")]
    assert sentences, err
    for word in says:
        assert word in "\n".join(sentences), f"{word!r} is not in {sentences}"
    assert out == "" and "Traceback" not in err and "internal error" not in err
    assert all(20 < len(x) < 600 for x in sentences)
    return err


TRAIN: list[tuple[list[str], int, list[str]]] = [
    # names
    (["model=gna"], 2, ["no model 'gna'", "'gan'"]),
    (["data=minst"], 2, ["'mnist'", "genlab list data"]),
    (["network=unett"], 2, ["'unet'"]),
    (["optimizer=admaw"], 2, ["'adamw'"]),
    (["optimizer='admw'"], 2, ["no optimizer 'admw'", "'adamw'"]),
    (["schedule=cos"], 2, ["'cosine'"]),
    (["hardware=gpu"], 2, ["no hardware 'gpu'"]),
    (["experiment=digits/gann"], 2, ["digits/gan"]),
    (["+experiment=digits/gann"], 2, ["no experiment 'digits/gann'"]),
    (["model="], 2, ["model"]),
    (["model=../model/gan"], 2, ["no model"]),
    (["model=/etc/passwd"], 2, ["no model"]),
    # keys
    (["lr=1e-3"], 2, ["'optimizer.lr'"]),
    (["modle=gan"], 2, ["no key 'modle'", "'model'"]),
    (["optimizer.lrr=1"], 2, ["optimizer.lr"]),
    (["shedule.images=1"], 2, ["schedule.images"]),
    (["model.emma=1"], 2, ["model.ema"]),
    (["model.ema=-1"], 2, ["model.ema must be a half-life in images >= 0", "not -1"]),
    (["model.ema={decay: 1}"], 2, ["model.ema must be {decay: ...} with a number", "below 1"]),
    (["model.ema={std: [0.5]}"], 2, ["model.ema must be {std: [...]}", "at most 0.288"]),
    (["model.ema={half_life: 5}"], 2, ["{halflife: 500_000, ramp: 0.05}"]),
    (["+model.emma=1"], 2, ["drop the +"]),
    (["+nonsense=1"], 2, ["no key 'nonsense'"]),
    (["++model.emma=1"], 2, ["drop the +"]),
    (["optimizer.players.q.lr=1", "model=gan"], 2, ["players of 'gan' are d, g"]),
    (["optimizer.players.d.lrr=1", "model=gan"], 2, ["optimizer.players.d.lrr"]),
    (["~seed"], 2, ["seed"]),
    (["~optimizer"], 2, ["optimizer"]),
    (["run=latest"], 2, ["run"]),
    (["gan"], 2, ["'model=gan'"]),
    (["seed"], 2, ["seed=1"]),
    (["optimizer.lr=[1"], 2, ["cannot read 'optimizer"]),
    # types and ranges
    (["optimizer.lr=nan"], 2, ["optimizer.lr must be", "nan"]),
    (["optimizer.lr=inf"], 2, ["optimizer.lr must be", "inf"]),
    (["optimizer.lr=-1"], 2, ["optimizer.lr must be", "-1"]),
    (["optimizer.lr=abc"], 2, ["optimizer.lr must be", "'abc'"]),
    (["optimizer.lr=null"], 2, ["optimizer.lr must be", "None"]),
    (["optimizer.lr='1e-4'"], 2, ["optimizer.lr must be", "'1e-4'"]),
    (["optimizer.lr=[1]"], 2, ["optimizer.lr must be"]),
    (["optimizer.lr.x=1"], 2, ["optimizer.lr"]),
    (["optimizer=3"], 2, ["no optimizer '3'"]),
    (["optimizer.betas=[0.9,1.5]"], 2, ["optimizer.betas must be"]),
    (["schedule.images=1.5"], 2, ["schedule.images must be a whole number"]),
    (["schedule.images=0"], 2, ["schedule.images must be", ">= 1"]),
    (["schedule.batch=0"], 2, ["schedule.batch must be"]),
    (["schedule.batch=true"], 2, ["schedule.batch must be"]),
    (["seed=-1"], 2, ["seed must be"]),
    (["seed=1e999"], 2, ["seed must be"]),
    (["outputs=3"], 2, ["outputs must be text"]),
    (["outputs=null"], 2, ["outputs must be text"]),
    (["every.log=never"], 2, ["every.log must be", "auto"]),
    (["every.seconds=0"], 2, ["every.seconds must be"]),
    (["keep.last=0"], 2, ["keep.last must be"]),
    (["hardware.precision=fp8"], 2, ["fp32", "bf16"]),
    (["hardware.compile=yes please"], 2, ["hardware.compile must be true or false"]),
    (["seed=${nothing}"], 2, ["nothing"]),
    (["seed=${seed}"], 2, ["resolve"]),
    (["fresh=3"], 2, ["fresh must be true or false"]),
    (["allow=[everything]"], 2, ["allow must be", "config"]),
    # combinations
    (["model=gan", "network=unet"], 2, ["network.generator", "choose another"]),
    (["model=gan", "sampler=heun"], 2, ["sampler=one_step"]),
    (["model=gan", "guidance=cfg"], 2, ["guidance=none"]),
    (["process=none"], 2, ["needs a process"]),
    (["sampler=one_step"], 2, ["sampler=heun", "ancestral, ddim"]),
    (["process=vp", "sampler.steps=1001"], 2, ["sampler.steps=1001", "use at most 1000"]),
    (["model=ddpm", "process=vp", "process.steps=20"], 2, ["process: over steps=20"]),
    (["model=score_sde", "process=ve", "process.sigma_min=60"], 2, ["process: sigma_min=60"]),
    (["model=ddpm", "process=cosine", "sampler.steps=1000"], 2, ["sigma=214", "use at most 997"]),
    (["process=ve", "sampler.span=[0.01,60]"], 2, ["sigma=60", "0.01 to 50", "sampler.span"]),
    (["sampler.through=ve", "sampler.grid=[60,1]"], 2, ["sigma=60", "0.01 to 50"]),
    (["sampler.span=[3,1]"], 2, ["sampler.span", "least and the largest"]),
    (["sampler.grid=linear"], 2, ["sampler.grid must be", "uniform", "geometric"]),
    ([*TOY, "sampler=ancestral"], 2, ["sampler.clip=false"]),
    (["codec=points"], 2, ["codec=pixels"]),
    (["data=toy", "model.classes=none"], 2, ["codec=points"]),
    (["model.classes=3"], 2, ["10 classes", "use auto"]),
    (["model.classes=-3"], 2, ["10 classes", "use auto"]),
    ([*TOY, "data.kind=swiss_roll", "model.classes=4"], 2, ["no labels"]),
    (["data.size=13", "model=gan"], 2, ["dcgan takes square images"]),
    (["data.size=100000"], 2, ["data"]),
    (["model=glow", "network.net.levels=4"], 2, ["8x8", "levels=3"]),
    (["model=glow", "data.size=7"], 2, ["7x7", "data.size"]),
    (["model=glow", "network=unet"], 2, ["invertible", "network=glow"]),
    (["model=glow", "codec=pixels"], 2, ["density", "codec=dequantize"]),
    (["model=glow", "codec.bits=9"], 2, ["bits=9", "1 to 8"]),
    (["model=glow", "data=toy"], 2, ["codec=points"]),
    (["hardware.micro_batch=7"], 2, ["does not divide"]),
    (["init=nosuch"], 2, ["no run 'nosuch'"]),
    (["schedule.images=2000", "schedule.batch=1501"], 2, ["1500 training data", "batch=1500"]),
    # data
    (["data=mnist", "data.root=nowhere"], 3, ["nowhere", "data.root"]),
    (["data=mnist", "data.root=afile"], 3, ["data.root"]),
    (["data=cifar10", "data.root=nowhere"], 3, ["nowhere", "data.download=true"]),
    (["data=celeba", "data.root=nowhere"], 3, ["nowhere", "by hand"]),
    (["data=celeba", "data.crop=150"], 2, ["full or 148 or 140"]),
    (["data=folder"], 2, ["data.path"]),
    (["data=folder", "data.path=nowhere"], 3, ["nowhere", ".zip"]),
    (["data=folder", "data.path=blocked"], 3, ["no images"]),
    (["data=folder", "data.path=afile"], 3, ["no folder"]),
    # devices
    (["hardware.device=cuda"], 5, ["hardware.device=cpu"]),
    (["hardware.device=cpu", "hardware.precision=fp16"], 5, ["bf16 or fp32"]),
    (["hardware.device=cpu", "hardware.attention=triton"], 5, ["needs a GPU"]),
    (["hardware.device=cpu", "hardware.attention=flex"], 5, ["cannot train on a CPU"]),
    (["hardware.devices=2"], 5, ["sees no GPU", "hardware.device=cpu"]),
    # what does not go together
    (["network=glow", "data.size=16"], 2, ["Glow is invertible", "network=unet"]),
    (["model=gan", "process=ve"], 2, ["'gan' follows no path", "leave it out"]),
    (["model=wgan_gp", "network=dcgan", "data.size=16"], 2, ["without batch", "dcgan_wgan"]),
    # places
    (["outputs=afile"], 7, ["outputs="]),
    (["outputs=afile/deeper"], 7, ["outputs="]),
    (["outputs=blocked"], 7, ["outputs="]),
    # safety
    (["+model._target_=os.system"], 11, ["name="]),
    (["model._target_=os.system"], 11, ["name="]),
    (["optimizer.betas=[{_target_: os.system}]"], 11, ["_target_"]),
    (["+extra.x={a: [{_target_: builtins.eval}]}"], 11, ["_target_"]),
    (["optimizer.players.d={_target_: os.system}"], 11, ["_target_"]),
    (["model.name=os:system"], 2, ["os"]),
    (["model.name=no_such_module:Net"], 2, ["no module 'no_such_module'"]),
]


@pytest.mark.parametrize(("words", "code", "says"), TRAIN, ids=[" ".join(w) for w, _, _ in TRAIN])
def test_train(capsys, tmp_path, monkeypatch, words, code, says):
    if "cuda" in words[0]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "afile").write_text("not a folder")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "flow_matching-digits").write_text("not a folder either")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    refused(capsys, code, *says, line=["train", *SHORT, *words])
    assert sorted(p.name for p in tmp_path.rglob("*")) == before  # nothing was made


def test_several_problems_are_said_at_once(capsys, tmp_path):
    words = ["optimizer.lr=-1", "schedule.images=0", "keep.last=x", "network.net.width=0"]
    err = refused(capsys, 2, *(w.partition("=")[0] for w in words), line=["train", *words])
    assert err.count("genlab: ") == 4
    err = refused(
        capsys, 2, "gna", "minst", "sede", line=["train", "model=gna", "data=minst", "sede=1"]
    )
    assert err.count("genlab: ") == 3
    words = ["hardware.micro_batch=7", "schedule.batch=1501", "network.net.width=7"]
    err = refused(capsys, 2, "micro_batch", "1501", "network.net", line=["train", *words])
    assert list(tmp_path.iterdir()) == []


COMMANDS: list[tuple[list[str], int, list[str]]] = [
    (["trian"], 2, ["no verb 'trian'", "'train'"]),
    (["model=gan"], 2, ["genlab train model=gan"]),
    (["train", "--dryrun"], 2, ["'--dryrun'", "'--dry-run'"]),
    (["train", "--json"], 2, ["train has no flag '--json'", "list"]),
    (["train", "--cfg", "all"], 2, ["--cfg takes the word job", "--cfg job"]),
    (["train", "--config-dir", "nowhere"], 2, ["nowhere", "no such folder"]),
    (["train", "seed=0,1"], 2, ["add -m"]),
    (["train", "seed=range(1,4)"], 2, ["add -m"]),
    (["train", "-m", "model=gan,gna"], 2, ["no model 'gna'"]),
    (["train", "-m", "model=choice(gan,gna)"], 2, ["no model 'gna'"]),
    (["train", "-m", "seed=1,2", "--dry-run"], 2, ["--dry-run", "leave out -m"]),
    (["train", "-m", "seed=1,2", "--cfg", "job"], 2, ["--cfg job", "leave out -m"]),
    (["train", "-m", "hydra/launcher=nosuch", "seed=0,1"], 2, ["launcher"]),
    (["train", "-m", "+hydra.launcher._target_=os.system", "seed=0,1"], 11, ["launcher"]),
    (["train", "-m", "hydra.sweep.dir=x", "seed=0,1"], 2, ["hydra.sweep.dir", "outputs="]),
    (["train", "-m", "optimizer.lr=1,-1"], 2, ["optimizer.lr must be"]),
    (["sample"], 2, ["no run 'latest'"]),
    (["sample", "run=nosuch"], 2, ["no run 'nosuch'", "genlab list runs"]),
    (["sample", "run=" + "x" * 300], 2, ["no run"]),
    (["sample", "n=0"], 2, ["n must be a whole number >= 1"]),
    (["sample", "n=-3", "batch=0", "seed=-1"], 2, ["n must", "batch must", "seed must"]),
    (["sample", "weights=best"], 2, ["ema or raw"]),
    (["sample", "weights=0.5"], 2, ["weights must be", "at most 0.288", "not 0.5"]),
    (["sample", "save=jpg"], 2, ["png or npy or none"]),
    (["sample", "labels=cat"], 2, ["labels must be"]),
    (["sample", "labels=0,1"], 2, ["'labels=[0,1]'"]),
    (["sample", "nn=3"], 2, ["'n'"]),
    (["resume", "run=nosuch"], 2, ["no run 'nosuch'"]),
    (["resume", "run=a.pt"], 11, ["never unpickles"]),
    (["sample", "run=a.pt"], 11, ["never unpickles"]),
    (["report", "run=a.pt"], 11, ["never unpickles"]),
    (["report", "run=nosuch"], 2, ["no run"]),
    (["report", "rum=latest"], 2, ["'run'"]),
    (["compare", "metrics=fid"], 2, ["'metric'"]),
    (["compare", "no_such_run", "outputs=/no/such"], 2, ["no run 'no_such_run'"]),
    (["completion", "fish"], 2, ["bash", "zsh"]),
    (["list", "modles"], 2, ["'model'"]),
    (["list", "models", "outputs=x"], 2, ["genlab list runs"]),
    (["show", "model=gna"], 2, ["'gan'"]),
]


@pytest.mark.parametrize(
    ("line", "code", "says"), COMMANDS, ids=[" ".join(w)[:60] for w, _, _ in COMMANDS]
)
def test_other_verbs(capsys, tmp_path, line, code, says):
    (tmp_path / "a.pt").write_bytes(b"\x80\x04c")
    err = refused(capsys, code, *says, line=line)
    assert all(sentence.startswith("genlab: ") for sentence in err.splitlines())
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


# --- a run that is there -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of a tiny GAN; not to be changed."""
    torch.set_num_threads(1)
    run = started(small("gan", "digits", outputs=str(tmp_path_factory.mktemp("trained"))))
    train_run(run.path)
    return run.path


SAMPLE: list[tuple[list[str], int, list[str]]] = [
    (["labels=10"], 2, ["labels 0 to 9"]),
    (["labels=-1"], 2, ["labels 0 to 9"]),
    (["labels=[0,10]"], 2, ["labels 0 to 9"]),
    (["labels=[]"], 2, ["labels=[] is empty"]),
    (["name=../x"], 2, ["plain folder name"]),
    (["name=/tmp/x"], 2, ["plain folder name"]),
    (["name=.."], 2, ["plain folder name"]),
    (["name=train"], 2, ["plain folder name"]),
    (["name=''"], 2, ["plain folder name"]),
    (["animate=true"], 2, ["needs a model with a path"]),
    (["sampler.steps=3"], 2, ["sampler.steps"]),
    (["sampler=heun"], 2, ["sampler=one_step"]),
    (["sampler=huen"], 2, ["'heun'"]),
    (["sampler=[heun"], 2, ["sampler"]),
    (["model.ema=0"], 2, ["belongs to the run"]),
    (["weights=0.07"], 2, ["keeps power-function averages", "model.ema={std: [0.05,0.1]}"]),
    (["hardware.threads=many"], 2, ["hardware.threads must be"]),
    (["checkpoint=7"], 4, ["no checkpoint 7"]),
    (["checkpoint=worst"], 2, ["checkpoint"]),
]


@pytest.mark.parametrize(
    ("words", "code", "says"), SAMPLE, ids=[" ".join(w) for w, _, _ in SAMPLE]
)
def test_sample_of_a_run(capsys, trained, words, code, says):
    before = sorted(trained.rglob("*"))
    refused(capsys, code, *says, line=["sample", f"run={trained}", "n=2", *words])
    assert sorted(trained.rglob("*")) == before


def test_sample_where_a_file_is_in_the_way(capsys, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(copy / "samples")
    (copy / "samples").write_text("")
    refused(capsys, 7, "cannot write samples", line=["sample", f"run={copy}", "n=1"])


def test_sample_of_a_run_without_a_checkpoint(capsys, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / trained.name)
    shutil.rmtree(copy / "checkpoints")
    fix = f"genlab resume run={copy}"
    refused(capsys, 4, "has no checkpoint yet", fix, line=["sample", f"run={copy}", "n=1"])


def test_sampling_a_read_only_run_leaves_damage_where_it_is(
    capsys, trained, tmp_path, monkeypatch
):
    copy = shutil.copytree(trained, tmp_path / "copy")
    for file in copy.glob("checkpoints/*/state.json"):
        file.write_text("{}")

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.rename", read_only)
    refused(capsys, 4, "is damaged", "fresh=true", line=["sample", f"run={copy}", "n=1"])


# --- a run directory from somewhere else ---------------------------------------------------------


@pytest.fixture
def foreign(tmp_path, trained) -> Path:
    """A run directory that somebody sent."""
    return shutil.copytree(trained, tmp_path / "foreign")


VERBS = ["sample", "resume"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "text",
    ["", "\0\1\2", "x: " * 10**6, "- 1\n", "words", "a: &a [1]\nb: [*a, *a]\n", "seed: 1\n"],
    ids=["empty", "binary", "huge", "list", "words", "aliases", "too little"],
)
def test_a_broken_config(capsys, foreign, verb, text):
    (foreign / "config.yaml").write_text(text)
    refused(capsys, 2, line=[verb, f"run={foreign}"])


@pytest.mark.parametrize("verb", VERBS)
def test_a_config_that_lost_keys(capsys, foreign, verb):
    config = yaml.safe_load((foreign / "config.yaml").read_text())
    for key in ("schedule", "seed"):
        del config[key]
    del config["optimizer"]["lr"]
    config["modle"] = config.pop("codec")
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    says = ["schedule is missing", "seed must be", "codec is missing", "'model'"]
    err = refused(capsys, 2, *says, line=[verb, f"run={foreign}"])
    assert "lacks keys: lr=0.001" in err, "a default that is filled in is said"


@pytest.mark.parametrize("node", [None, 3, []])
@pytest.mark.parametrize(
    "line",
    [
        ["sample", "run={run}"],
        ["resume", "run={run}", "schedule.images=128"],
        ["train", *SHORT, "guidance=autoguidance", "guidance.run={run}"],
        ["train", *SHORT, "init={{run: {run}, role: net}}"],
    ],
    ids=["sample", "resume", "guidance", "init"],
)
def test_a_config_without_a_node_that_all_look_into(capsys, foreign, line, node):
    whole = yaml.safe_load((foreign / "config.yaml").read_text())
    for key in ("sampler", "schedule", "data"):
        (foreign / "config.yaml").write_text(yaml.safe_dump({**whole, key: node}))
        says = [f"{foreign}/config.yaml: {key} is missing"]
        refused(capsys, 2, *says, line=[word.format(run=foreign) for word in line])


@pytest.mark.parametrize("verb", VERBS)
def test_a_target_in_a_runs_config(capsys, foreign, verb, tmp_path):
    config = yaml.safe_load((foreign / "config.yaml").read_text())
    evil = {"_target_": "os.system", "command": f"touch {tmp_path}/executed"}
    config["optimizer"]["betas"] = [0.5, evil]
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    refused(capsys, 11, "optimizer.betas.1._target_", line=[verb, f"run={foreign}"])
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def evil_package(tmp_path, monkeypatch) -> Iterator[Path]:
    """A package on the path whose import leaves a mark."""
    mark = tmp_path / "imported"
    package = tmp_path / "evil"
    package.mkdir()
    source = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    network = "\n\nclass Net:\n    def __init__(self, spec, *, width: int) -> None: ...\n"
    (package / "__init__.py").write_text(source)
    (package / "net.py").write_text(source + network)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield mark
    for name in [n for n in sys.modules if n.partition(".")[0] == "evil"]:
        del sys.modules[name]


@pytest.mark.parametrize("verb", VERBS)
def test_foreign_code_must_be_trusted(capsys, foreign, verb, evil_package):
    config = yaml.safe_load((foreign / "config.yaml").read_text())
    config["network"]["generator"] = {"name": "evil.net:Net", "width": 8}
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    refused(capsys, 11, "evil.net:Net", "trust=true", line=[verb, f"run={foreign}"])
    refused(capsys, 11, "trust=true", line=[verb, f"run={foreign}", "trust=false"])
    assert not evil_package.exists()
    main([verb, f"run={foreign}", "trust=true"])
    assert evil_package.exists()


# --- while it trains -----------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_and_keeps_what_is_good(capsys, tmp_path):
    line = ["train", *GAN, *SHORT, "every.log=8", "every.checkpoint=8", "hardware.precision=fp32"]
    assert main([*line, "schedule=constant", "optimizer.lr=1e-4", "schedule.images=16"]) == 0
    (path,) = (tmp_path / "outputs").glob("*/*")
    good = fingerprint(path / "checkpoints" / f"{16:012d}")
    more = ["schedule.images=64", "allow=[config]", "optimizer.lr=1e20"]
    err = refused(
        capsys, 6, "player '", "at step", "learning rate 1e+20", "lower optimizer.lr",
        line=["resume", f"run={path}", *more],
    )  # fmt: skip
    assert Run(path).status.startswith("failed: the loss or gradient of player")
    folder, _ = Checkpoints(path / "checkpoints").newest()
    for tensor in _tensors(folder):
        assert torch.isfinite(tensor).all()
    assert fingerprint(path / "checkpoints" / f"{16:012d}") == good
    assert err.count("genlab: ") == 1
    again = refused(capsys, 6, "is not finite", line=["resume", f"run={path}"])
    assert "resuming at image" in again


def _tensors(folder: Path) -> Iterator[torch.Tensor]:
    from safetensors.torch import load_file

    for name in ("model", "optimizer"):
        yield from load_file(folder / f"{name}.safetensors").values()


def test_a_full_disk_during_a_checkpoint(capsys, tmp_path, monkeypatch):
    from genlab.run import failpoint

    line = ["train", *GAN, *SHORT, "every.checkpoint=16"]
    monkeypatch.setattr(failpoint, "_name", "save.mid_file")
    monkeypatch.setattr(failpoint, "_kind", "enospc")
    monkeypatch.setattr(failpoint, "_left", 3)
    refused(capsys, 7, "cannot write a checkpoint", "disk is full", "free some space", line=line)
    (path,) = (tmp_path / "outputs").glob("*/*")
    assert Run(path).status.startswith("failed: cannot write a checkpoint")
    folder, _ = Checkpoints(path / "checkpoints").newest()
    assert int(folder.name) == 32
    assert main(line) == 0  # once there is space again
    assert "resuming at image 32" in capsys.readouterr().err


def test_memory_that_runs_out(capsys, tmp_path, monkeypatch):
    from genlab.training.trainer import Trainer

    def one_step(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "one_step", one_step)
    line = ["train", *GAN, *SHORT]
    refused(capsys, 8, "hardware.micro_batch=4", "schedule.batch", line=line)


def test_a_traceback_is_there_for_those_who_ask(capsys):
    assert main(["train", "optimizer.lr=-1", "-v"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.rstrip().splitlines()[-1].startswith("genlab: ")
