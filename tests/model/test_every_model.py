"""The universal test: every model, at tiny size, keeps the contract.

A new model is tested here by having a yaml; nothing in this file names one.
"""

import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from genlab.assemble.components import build
from genlab.core.contract import Generates, Reconstructs
from genlab.core.registry import names
from genlab.run.tensors import load_model, load_optimizers, model_tensors, optimizer_tensors
from genlab.sampling.pipeline import Pipeline
from tests.helpers.runs import small
from tests.helpers.trainers import curve, largest_difference, make, run, tiny_config, two_ranks

MODELS = names("model")
GOLDEN = Path(__file__).parents[1] / "golden"


def config_of(model, **keys):
    """On digits in batches of 8, with the smallest networks, without dropout."""
    keys = {"optimizer.lr": 1e-3, "schedule.images": 1000} | keys
    config = small(model, "digits", **keys)
    for network in config["network"].values():
        network.update({k: 0.0 for k in network if k == "dropout"})
    return config


SGD = {"optimizer": "sgd", "optimizer.lr": 0.05}


@lru_cache
def straight(model):
    """(built, trainer) after four steps."""
    return run(config_of(model), 4)


@lru_cache
def whole(model):
    """The model after two steps of gradient descent on whole batches."""
    return run(config_of(model, **SGD), 2)[0].model


def uses_batch_statistics(model):
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@pytest.mark.parametrize("model", MODELS)
def test_three_steps_change_every_player_and_nobody_else(model, monkeypatch):
    built, trainer = make(tiny_config(model))
    players = built.model.players()
    start = {n: [p.detach().clone() for p in ps] for n, ps in players.items()}

    for name, player in trainer.players.items():
        others = [p for n, ps in players.items() if n != name for p in ps]

        def step(*given, others=others, real=player.step):
            before = [p.detach().clone() for p in others]
            out = real(*given)
            assert all(torch.equal(p, b) for p, b in zip(others, before, strict=True))
            return out

        monkeypatch.setattr(player, "step", step)
    for _ in range(3):
        trainer.one_step()
    values = trainer.read()  # raises if a step was not finite
    for name, params in players.items():
        changed = [not torch.equal(p, s) for p, s in zip(params, start[name], strict=True)]
        assert all(changed), f"{changed.count(False)} parameters of player {name} never moved"
        assert f"grad_norm/{name}" in values
    trained = {id(p) for ps in players.values() for p in ps}
    assert trained == {id(p) for p in built.model.parameters() if p.requires_grad}
    assert trainer.clock.images == 3 * 8 * max(1, trainer.stream.draws)


@pytest.mark.parametrize("model", MODELS)
def test_accumulation_is_the_whole_batch(model):
    if uses_batch_statistics(whole(model)):
        pytest.skip("batch statistics depend on the micro-batch")
    parts, _ = run(config_of(model, **SGD, **{"hardware.micro_batch": 4}), 2)
    assert largest_difference(whole(model), parts.model) < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_two_ranks_are_one(model, tmp_path):
    if uses_batch_statistics(whole(model)):
        pytest.skip("batch statistics depend on the share of a rank")
    config = config_of(model, **SGD)
    for path in two_ranks(config, 2, tmp_path):
        other = build(config)
        load_model(other.model, path)
        assert largest_difference(whole(model), other.model) < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_resume_is_bit_for_bit(model, tmp_path):
    config = config_of(model)
    half, trainer = run(config, 2)
    save_file(model_tensors(half.model), tmp_path / "m")
    save_file(optimizer_tensors(half.model, trainer.optimizers), tmp_path / "o")
    clock = {"step": trainer.clock.step, "images": trainer.clock.images}
    again, second = make(config)
    with torch.no_grad():
        for tensor in again.model.state_dict().values():
            tensor.fill_(1)  # every weight must come from the file
    load_model(again.model, tmp_path / "m")
    load_optimizers(again.model, second.optimizers, tmp_path / "o")
    second.restore(clock, {})
    for _ in range(2):
        second.one_step()
    built, trainer = straight(model)
    assert largest_difference(built.model, again.model) == 0
    a = optimizer_tensors(built.model, trainer.optimizers)
    b = optimizer_tensors(again.model, second.optimizers)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("model", MODELS)
def test_samples_are_images_that_do_not_depend_on_the_chunk(model):
    built = build(config_of(model))
    if not isinstance(built.model, Generates):
        pytest.skip("draws no samples")
    n, k = 6, built.spec.classes
    y = None if k is None else [i % k for i in range(n)]
    pipeline = Pipeline(built)
    whole = pipeline.draw(y, 3, range(n), "raw")
    assert whole.dtype == torch.uint8
    assert whole.shape == (n, *built.data.spec.shape)
    assert torch.equal(whole, pipeline.draw(y, 3, range(n), "raw")), "equal batches, equal bits"
    parts = [pipeline.draw(y and y[i : i + 2], 3, range(i, i + 2), "raw") for i in range(0, n, 2)]
    off = (whole.int() - torch.cat(parts).int()).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() <= 1e-3
    assert not torch.equal(whole[0], whole[1]), "every sample has noise of its own"


@pytest.mark.parametrize("model", MODELS)
def test_training_does_not_change_what_is_not_trained(model):
    """Sampling and reconstructing in the middle of a run leave the run as it was."""
    disturbed, trainer = make(config_of(model))
    for i in range(4):
        trainer.one_step()
        if i == 1 and isinstance(disturbed.model, Generates):
            k = disturbed.spec.classes
            Pipeline(disturbed).draw(k and [0, 1], 0, range(2))
        if i == 1 and isinstance(disturbed.model, Reconstructs):
            pipeline = Pipeline(disturbed)
            pipeline.decode(pipeline.encode(disturbed.data.load("test").x[:3]))
    assert largest_difference(straight(model)[0].model, disturbed.model) == 0


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_one_compiled_step(model, backend):
    """eager: as torch.compile reads it; aot_eager: with the backward pass that it traces."""
    built, trainer = make(config_of(model, **{"hardware.channels_last": False}))
    for network in built.model.children():
        if not built.model.double_backward and hasattr(network, "compile"):
            network.compile(backend=backend)
    trainer.one_step()
    trainer.read()


@pytest.mark.parametrize("model", MODELS)
def test_reconstruction_has_the_shape_of_data(model):
    built = build(config_of(model))
    if not isinstance(built.model, Reconstructs):
        pytest.skip("does not reconstruct")
    x = torch.zeros(2, *built.spec.shape)
    assert built.model.decode(built.model.encode(x)).shape == x.shape
    images = built.data.load("test").x[:5]
    pipeline = Pipeline(built)
    codes = pipeline.encode(images)
    copies = pipeline.decode(codes)
    assert (copies.shape, copies.dtype) == (images.shape, torch.uint8)
    assert len(codes) == 5
    if not codes.is_floating_point():
        parts = [pipeline.encode(part) for part in images.split(2)]
        assert (codes != torch.cat(parts)).float().mean() <= 1e-2, "codes of an image are its own"


@pytest.mark.parametrize("model", MODELS)
def test_golden_losses(model):
    """A refactor leaves the losses where they are (scripts/make_golden.py writes the files)."""
    golden = json.loads((GOLDEN / f"{model}.json").read_text())
    now = curve(model)
    assert now.keys() == golden.keys()
    # players that answer each other drift apart between processors after some 40 updates
    share = min(1, 30 / sum(len(v) for name, v in golden.items() if name.startswith("loss/")))
    for name, values in golden.items():
        n = round(share * len(values))
        assert now[name][:n] == pytest.approx(values[:n], rel=1e-3), name
