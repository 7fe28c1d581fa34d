"""`genlab.train`, `load`, `evaluate` and `compare`: the verbs as functions."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import genlab
from genlab.cli.python import as_words
from genlab.config.compose import parse
from genlab.core.errors import ConfigError, DataError, DeviceError, DiskError

ROOT = Path(__file__).parents[2]
TINY = {"width": 8, "mults": "[1]", "blocks": 1, "attention": "[]", "embedding": 8}
WORDS = ["network=unet_small", *(f"network.net.{k}={v}" for k, v in TINY.items())]
WORDS += ["codec=dequantize", "hardware=cpu", "hardware.threads=1", "hardware.precision=fp32"]
KEYS = {
    "data": "digits",
    "schedule": {"images": 32, "batch": 16},
    "every": {"sample": 10**9, "eval": 10**9},
    "sampler": {"steps": 2},
    "optimizer": {"lr": 0.02},  # so that two steps move a network that begins at zero
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("python")
    made = genlab.train("model=flow_matching", *WORDS, **KEYS, outputs=outputs)
    assert made.status == "done" and made.path.is_relative_to(outputs)
    return made


@pytest.fixture(scope="module")
def pipeline(run):
    return genlab.load(run)


def test_what_is_public_is_there_and_costs_no_torch():
    code = "import sys, genlab; print({*genlab.__all__} <= {*dir(genlab)}, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout == "True False\n"
    assert all(callable(getattr(genlab, name)) for name in genlab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sample'"):
        _ = genlab.sample


VALUES = ["a'b", "it\\'s", "ends \\", "C:\\data", "true", "12", "3,4", "${oc.env:HOME}", "", 1e-4,
          3, None, True, [1, "a b"], {"std": [0.05, 0.1]}]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_keyword_says_what_its_value_is(value):
    (word,) = as_words({"init": value})
    assert parse(word).value() == value and type(parse(word).value()) is type(value)


def test_a_mapping_stands_for_the_keys_below():
    given = {"optimizer": {"lr": 1e-3, "betas": (0.5, 0.9)}, "model": {"ema": {"std": [0.1]}}}
    assert as_words({"seed": 1, "resume": False, "run": Path("a b"), **given}) == [
        "seed=1",
        "resume=false",
        "run='a b'",
        "optimizer.lr=0.001",
        "optimizer.betas=[0.5,0.9]",
        "model.ema={std: [0.1]}",
    ]


def test_the_same_call_is_the_same_run(run, capsys):
    again = genlab.train("model=flow_matching", *WORDS, **KEYS, outputs=run.path.parent.parent)
    assert again.path == run.path
    assert repr(run) == repr(again) and run.id in repr(run) and "'done'" in repr(run)


def test_a_pipeline_says_what_it_is(run, pipeline):
    assert repr(pipeline) == (
        f"Pipeline(run='{run.id}', model='flow_matching', data='digits', draws=[1, 8, 8], "
        f"classes=10, images_seen=32, path='{run.path}')"
    )


def test_keys_of_one_call_are_those_of_a_run_that_was_loaded_with_them(run, pipeline):
    words = ["sampler=euler", "sampler.steps=3", "guidance.scale=2"]
    wanted = genlab.load(run, overrides=words)
    keys = {"sampler": "euler", "steps": 3, "guidance": 2.0}
    raw = {"seed": 4, "weights": "raw"}
    found = pipeline.sample(3, [1, 2], **keys, **raw)
    assert np.array_equal(found, wanted.sample(3, labels=[1, 2], **raw))
    assert np.array_equal(found, pipeline.sample(3, [1, 2], overrides=words, **raw))
    own = pipeline.sample(3, [1, 2], **raw)
    assert not np.array_equal(found, own), "and hold for this call alone"
    assert np.array_equal(own, genlab.load(run).sample(3, [1, 2], **raw))
    edits, _ = pipeline.edit(found, strength=0.9, labels=1, **keys, **raw)
    assert np.array_equal(edits, wanted.edit(found, strength=0.9, labels=1, **raw)[0])
    other = pipeline.varied(**keys)
    assert other.model is pipeline.model and other.record()["sampler"]["name"] == "euler"
    assert pipeline.record()["sampler"]["steps"] == 2


def test_images_of_pillow_go_in_and_come_out(pipeline):
    u = pipeline.sample(2)
    images = pipeline.sample(2, output="pil")
    assert [(i.mode, i.size) for i in images] == [("L", (8, 8))] * 2
    assert np.array_equal(np.stack(images), u[:, 0])
    mask = np.arange(64).reshape(8, 8) % 2 == 0
    wanted, known = pipeline.edit(u, "inpaint", mask=mask, variants=3)
    edits, seen = pipeline.edit(images, "inpaint", mask=mask, variants=3, output="pil")
    assert np.array_equal(np.stack([np.stack(row) for row in edits]), wanted[:, :, 0])
    assert np.array_equal(np.stack(seen), known[:, 0])
    colour = [Image.new("RGB", (8, 8), "red")]
    assert pipeline.edit(colour, strength=0.5)[0].shape == (1, 1, 1, 8, 8), "made grey"


def test_reconstructions_and_their_codes(vqvae):
    pipeline = genlab.load(vqvae)
    data = pipeline.data.load("test").x[:3].numpy()
    codes, copies = pipeline.reconstruct(data)
    same, images = pipeline.reconstruct([Image.fromarray(u[0]) for u in data], output="pil")
    assert np.array_equal(codes, same) and np.array_equal(copies[:, 0], np.stack(images))


def test_log_prob_in_batches_is_that_of_all_at_once(glow):
    pipeline = genlab.load(glow)
    data = pipeline.data.load("test")
    u, labels = data.x[:12], data.y[:12]
    nats = pipeline.log_prob(u.numpy(), labels, batch=5, seed=3)
    bits = pipeline.bits_per_dim(u, labels, 3, range(12)).numpy()
    np.testing.assert_allclose(nats, -bits * math.log(2) * 64, rtol=1e-5)
    assert nats.dtype == np.float64
    images = [Image.fromarray(i[0].numpy()) for i in u[:2]]
    np.testing.assert_allclose(pipeline.log_prob(images, labels[:2], seed=3), nats[:2], rtol=1e-5)


def test_a_density_that_is_not_there_is_an_error(gan, vqvae, pipeline):
    data = np.zeros((1, 1, 8, 8), np.uint8)
    for run in (gan, vqvae):
        with pytest.raises(ConfigError, match="has no density"):
            genlab.load(run).log_prob(data)
    data_of_floats = data.astype(np.float32)
    with pytest.raises(ConfigError, match="takes uint8 images"):
        pipeline.edit(data_of_floats, strength=0.5)


def test_an_evaluation_is_kept_and_compared(run, capsys):
    found = genlab.evaluate(run, metric=["swd"], n=20, sampler={"steps": 1})["swd"]
    assert found["value"] > 0 and found["protocol"]["images"] == 20
    assert capsys.readouterr().out == "", "it is returned, not printed"
    page = run.path.parent / "page.html"
    (row,) = genlab.compare(run, metric="swd", page=page)
    assert row["runs"] == [run.id] and row["values"]["swd"]["mean"] == found["value"]
    assert row["values"]["swd"]["protocol"]["images"] == "20" and page.is_file()


@pytest.mark.parametrize(
    ("act", "error", "said"),
    [
        (lambda p: p.sample(0), ConfigError, "n must be a whole number >= 1, not 0"),
        (lambda p: p.sample(1, 10), ConfigError, "this run has the labels 0 to 9"),
        (lambda p: p.sample(1, "three"), ConfigError, "labels must be"),
        (lambda p: p.sample(1, steps=0), ConfigError, "sampler.steps must be"),
        (lambda p: p.sample(1, sampler="heu"), ConfigError, "Did you mean 'heun'"),
        (lambda p: p.sample(1, guidance="gan"), ConfigError, "no guidance 'gan'"),
        (lambda p: p.sample(1, overrides=["seed=1"]), ConfigError, "belongs to the run"),
        (lambda p: p.sample(1, overrides=["hardware.threads=2"]), ConfigError, "is loaded"),
        (lambda p: p.sample(1, output="png"), ConfigError, "array or pil"),
        (lambda p: p.edit([1, 2], strength=0.5), ConfigError, "a list of Pillow images"),
        (lambda p: p.edit(np.zeros((1, 1, 9, 9), np.uint8), strength=0.5), ConfigError, "1, 8, 8"),
        (lambda p: p.reconstruct(p.sample(1)), ConfigError, "has no encoder"),
        (lambda p: genlab.load("nobody"), ConfigError, "no run 'nobody'"),
        (lambda p: genlab.train(model="gna"), ConfigError, "Did you mean 'gan'"),
        (lambda p: genlab.train(optimizer={"rate": 1}), ConfigError, "optimizer.rate"),
        (lambda p: genlab.train(data="folder", **{"data.path": "/no"}), DataError, "/no"),
        (lambda p: genlab.evaluate(p.run, metric="fdi"), ConfigError, "no metric 'fdi'"),
        (lambda p: genlab.compare("nobody"), ConfigError, "no runs|nobody"),
        (lambda p: genlab.compare(p.run, page="page.txt"), ConfigError, "an .html file"),
    ],
)
def test_what_goes_wrong_is_an_error_of_genlab(pipeline, act, error, said):
    with pytest.raises(error, match=said):
        act(pipeline)


@pytest.mark.parametrize(
    ("met", "raised"),
    [
        (ModuleNotFoundError("No module named 'torchdiffeq'", name="torchdiffeq"), DeviceError),
        (OSError(28, "No space left on device"), DiskError),
        (ZeroDivisionError("a bug"), ZeroDivisionError),
    ],
    ids=str,
)
def test_errors_of_others_are_told_as_ones_of_genlab(met, raised, monkeypatch):
    from genlab.training import verb

    def fails(*given):
        raise met

    monkeypatch.setattr(verb, "train", fails)
    with pytest.raises(raised):
        genlab.train()


@pytest.mark.slow
def test_the_cells_of_the_page_run_in_their_order(tmp_path, monkeypatch):
    """As a notebook would: each cell after the one before, the last line of a cell is shown."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(cells) >= 8
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell, "docs/python.md", "exec"), names)
    assert names["images"].shape == (16, 1, 8, 8) and names["edits"].shape == (2, 3, 1, 8, 8)
    assert len(names["rows"]) == 2 and (tmp_path / "compare.html").is_file()
    assert torch.is_grad_enabled()
