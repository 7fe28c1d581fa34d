"""Data sets out of the tree whose data are paired with noise, or are tokens, reach a model."""

import os
import signal

import pytest
import torch
from omegaconf import OmegaConf

from genlab.assemble.components import build
from genlab.config.compose import config_of, validate
from genlab.core.errors import ConfigError, Stopped
from genlab.model.flow_matching import FlowMatching
from genlab.training.dry_run import measure
from genlab.training.run_loop import train_run
from genlab.training.setup import make_trainer
from genlab.training.trainer import Trainer
from tests.helpers.runs import journal, started

PARTS = '''
import torch
import torch.nn.functional as F

from genlab.core.contract import Codec, Dataset, Model, Spec, Split


class Pairs(Dataset):
    """40 points, each with noise that is a function of it."""

    def __init__(self, *, flip: bool, shift: float) -> None:
        self.spec, self.count, self.flip, self.shift = Spec((2,)), 40, flip, shift

    def load(self, split):
        x = torch.arange(80.0).view(40, 2).sub(40) / 20
        return Split(x, z=2 * x.flip(1) + 1)


class Text(Dataset):
    """Counting modulo 7, from each of the seven on."""

    count = 7
    spec = Spec((12,), vocabulary=7)

    def load(self, split):
        return Split((torch.arange(7)[:, None] + torch.arange(12)) % 7)


class Tokens(Codec):
    def __init__(self, spec) -> None:
        self.spec = spec

    def encode(self, u, noise):
        return u

    def decode(self, x):
        return x


class NextToken(Model):
    def __init__(self, net, spec) -> None:
        super().__init__()
        self.net, self.spec, self.seen = net, spec, []

    def loss(self, batch):
        self.seen.append(batch.x)
        logits = self.net(batch.x)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), batch.x[:, 1:].flatten())
'''


@pytest.fixture(autouse=True)
def parts(tmp_path, monkeypatch):
    (tmp_path / "stored_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def seen(monkeypatch):
    """Every (data, noise) that flow matching leads to each other while it trains."""
    pair, out = FlowMatching.pair, []

    def spy(model, batch):
        found = pair(model, batch)
        if model.training:
            out.append(tuple(part.clone() for part in found))
        return found

    monkeypatch.setattr(FlowMatching, "pair", spy)
    return out


def paired(tiny, flip=False, shift=0.0, **keys):
    config = tiny("flow_matching", "toy", **{"schedule.images": 96, "schedule.batch": 16, **keys})
    name = "stored_parts:Pairs"
    config["data"] = {"name": name, "root": "data", "flip": flip, "shift": shift}
    config["guidance"]["scale"] = 1.0
    return config


def trained(config, seen):
    """(data [n, 2], their noise [n, 2]) in the order of the stream, and the run."""
    seen.clear()
    run = started(config)
    train_run(run.path)
    return *(torch.cat(part) for part in zip(*seen, strict=True)), run


def test_a_model_trains_on_the_noise_its_data_are_paired_with(tiny, seen, monkeypatch):
    x, z, whole = trained(paired(tiny), seen)
    assert len(x) == 96
    assert torch.equal(z, 2 * x.flip(1) + 1), "each datum with its own noise"
    assert len({tuple(row) for row in x[:40].tolist()}) == 40, "an epoch has every pair once"
    in_parts = trained(paired(tiny, **{"hardware.micro_batch": 4}), seen)
    assert torch.equal(in_parts[0], x)
    assert torch.equal(in_parts[1], z)

    step = Trainer.one_step

    def stopped_at_32(trainer):
        step(trainer)
        if trainer.clock.images == 32:
            os.kill(os.getpid(), signal.SIGTERM)

    seen.clear()
    run = started(paired(tiny))
    monkeypatch.setattr(Trainer, "one_step", stopped_at_32)
    with pytest.raises(Stopped):
        train_run(run.path)
    train_run(run.path)
    assert torch.equal(torch.cat([x for x, _ in seen]), x)
    assert torch.equal(torch.cat([z for _, z in seen]), z)
    assert journal(run) == journal(whole)


@pytest.mark.parametrize(("key", "value", "off"), [("flip", True, "false"), ("shift", 0.1, "0")])
def test_paired_data_are_neither_mirrored_nor_moved(tiny, key, value, off):
    with pytest.raises(ConfigError, match=rf"paired with; use data\.{key}={off}$"):
        train_run(started(paired(tiny, **{key: value})).path)


def test_tokens_reach_a_model_as_int64(tiny):
    config = tiny("flow_matching", "toy", **{"schedule.images": 14, "schedule.batch": 7})
    config["data"] = {"name": "stored_parts:Text", "root": "data"}
    config["codec"] = {"name": "stored_parts:Tokens"}
    config["model"] = {"name": "stored_parts:NextToken", "classes": "none"}
    config["process"] = config["guidance"] = {"name": None}
    config["sampler"] = {"name": "one_step", "temperature": 1.0}
    net = OmegaConf.to_container(config_of("network", "gpt"))["net"]
    config["network"] = {"net": {**net, "width": 16, "depth": 1, "head_width": 8}}
    config["hardware"]["channels_last"] = True
    assert validate(config) == []
    built = build(config)
    assert built.spec.vocabulary == 7
    text = built.data.load("train")
    trainer = make_trainer(built, text)
    trainer.one_step()
    (tokens,) = built.model.seen
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens[tokens[:, 0].argsort()], text.x), "each row once, none mirrored"
    train_run(started(config).path)
    assert measure(config) == 0, "noise in their place is of tokens too"
