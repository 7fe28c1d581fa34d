"""`genlab eval`: what is judged, by what, and what is written about it."""

import json
import math
import re
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small, started
from PIL import Image

from genlab import config as cfg
from genlab import dist
from genlab.cli import main
from genlab.gather import Gathered, Reference, Subject
from genlab.run.directory import Run
from genlab.run.verdicts import results
from genlab.shards import Shards
from genlab.worker import work


def trained(tmp_path_factory, model, data="digits", **keys):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp(model)
    run = started(small(model, outputs=str(root), data=data, **keys))
    work(run.path)
    return run.path


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A finished tiny run; tests add evaluations to it."""
    return trained(tmp_path_factory, "gan")


@pytest.fixture(scope="module")
def glow(tmp_path_factory):
    return trained(tmp_path_factory, "glow", **{"network.net.levels": 1, "network.net.depth": 1})


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory):
    return trained(tmp_path_factory, "vqvae")


NUMBERS = count()


def judged(run, *words, outputs=None):
    """The result of an evaluation of a run, under a name of its own."""
    name = f"t{next(NUMBERS)}"
    outputs = outputs or run.parent.parent
    given = [f"run={run}", f"outputs={outputs}", "hardware.threads=1", f"name={name}", *words]
    assert main(["eval", *given]) == 0
    return next(r for r in results(run) if r.path.name == name)


def value(result, name):
    return next(n.value for n in result.numbers if n.name == name)


def test_a_number_carries_its_protocol(gan):
    result = judged(gan, "metric=fid", "features=raw", "n=40", "n_real=60", "seed=3")
    [fid, bias] = result.numbers
    assert (fid.name, bias.name) == ("fid", "fid_bias")
    assert fid.better == "low" and fid.value > 0
    assert fid.protocol["images"] == 40
    assert fid.protocol["reference"] == "digits 8x8x1 train"
    assert fid.protocol["reference_images"].startswith("60 of ")
    assert (fid.protocol["features"], fid.protocol["features_digest"]) == ("raw", "raw")
    assert "infinity" not in fid.protocol, "it changes no digit of fid"
    subject = result.subject
    assert subject["id"] == Run(gan).id
    assert (subject["weights"], subject["seed"], subject["of"]) == ("ema", 3, "samples")
    assert (subject["sampler"]["name"], subject["evaluations"]) == ("one_step", 1)
    assert subject["checkpoint"] == 64
    assert result.environment["precision"] == "fp32"
    assert "seconds" in result.environment


def test_an_evaluation_is_filed_under_checkpoint_and_contents(gan, capsys):
    words = [f"run={gan}", f"outputs={gan.parent.parent}", "metric=fid", "features=raw"]
    paths = []
    for more in ("n=12", "n=12", "n=13"):
        assert main(["eval", *words, "n_real=20", more]) == 0
        paths.append(capsys.readouterr().out.splitlines()[-2])
    assert paths[0] == paths[1] != paths[2]
    assert Path(paths[0]).parent.name.startswith("000000000064-")


def test_evaluations_are_counted_and_guidance_is_told(tmp_path_factory):
    run = trained(tmp_path_factory, "flow_matching")
    words = ("metric=fid", "features=raw", "n=9", "sampler=euler", "sampler.steps=3")
    subject = judged(run, *words, "guidance.scale=2").subject
    assert subject["evaluations"] == 6
    assert subject["guidance"]["scale"] == 2
    assert subject["sampler"] == {"name": "euler", "steps": 3}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_changes_no_digit(gan, tmp_path, batch):
    words = ("metric=fid", "features=raw", "n=64", "n_real=80", "seed=11")
    whole = value(judged(gan, *words, outputs=tmp_path), "fid")
    assert value(judged(gan, *words, f"batch={batch}", outputs=tmp_path), "fid") == whole


@pytest.mark.parametrize("model", ["flow_matching", "glow"])
def test_the_batch_changes_no_digit_in_bf16_either(tmp_path_factory, tmp_path, model):
    """A sampler of many steps, attention and norms of several channels."""
    run = trained(tmp_path_factory, model, **{"hardware.precision": "bf16"})
    words = ("metric=fid", "features=raw", "n=32", "n_real=40")
    found = {
        value(judged(run, *words, f"batch={batch}", outputs=tmp_path), "fid")
        for batch in (1, 7, 64)
    }
    assert len(found) == 1


class Doubled:
    """Features of which everything is known."""

    digest, resizer, outputs = "doubled", "none", {"pool": 64}

    def __call__(self, u):
        return {"pool": 2 * u.flatten(1).float()}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_parts_and_change_no_digit(tmp_path, monkeypatch, world):
    """Each rank in turn, as if the others were there; then every part is there."""
    images = torch.randint(0, 256, (600, 1, 8, 8), dtype=torch.uint8)

    def gathered():
        subject = Subject(n=600, held_out=0, draw=lambda part: images[part.start : part.stop])
        real = Reference("some", images.flip(0), 600)
        return Gathered(
            subject, real, Doubled(), tmp_path / "s", tmp_path / "c", torch.device("cpu"), batch=64
        )

    done = []
    monkeypatch.setattr(dist, "world", lambda: world)
    for stream in ("fake", "features/real", "features/fake"):
        for rank in range(world):
            monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
            shards = gathered()._shards(stream)
            for k in shards.missing():
                shards.do(k)
                done.append((stream, k))
    parts = {"fake": 10, "features/real": 3, "features/fake": 3}
    assert sorted(done) == sorted((s, k) for s, n in parts.items() for k in range(n))
    monkeypatch.setattr(dist, "rank", lambda: 0)
    monkeypatch.setattr(Shards, "do", lambda self, k: pytest.fail("a part is missing"))
    evidence = gathered()
    assert torch.equal(evidence.fake(), images)
    assert torch.equal(evidence.features("fake"), 2 * images.flatten(1).float())
    assert torch.equal(evidence.features("real"), 2 * images.flip(0).flatten(1).float())


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_processes_of_one_group_find_what_one_finds(gan, tmp_path, devices):
    words = ("metric=fid", "features=raw", "n=100", "n_real=600", "batch=8", "seed=31")
    alone = judged(gan, *words, outputs=tmp_path / "1")
    for folder in gan.glob("eval/.streams-*"):
        shutil.rmtree(folder)
    many = judged(gan, *words, f"hardware.devices={devices}", outputs=tmp_path / "2")
    assert value(many, "fid") == value(alone, "fid")
    assert value(many, "fid_bias") == value(alone, "fid_bias")


def test_what_does_not_fit_into_memory_is_made_in_halves(tmp_path, capsys):
    images = torch.randint(0, 256, (100, 1, 8, 8), dtype=torch.uint8)

    def draw(part):
        if len(part) > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return images[part.start : part.stop]

    subject = Subject(n=100, held_out=0, draw=draw)
    evidence = Gathered(subject, None, None, tmp_path, tmp_path, torch.device("cpu"), batch=64)
    assert torch.equal(evidence.fake(), images)
    said = [line for line in capsys.readouterr().err.splitlines() if "at once" in line]
    assert said == [
        "memory does not hold 64 at once: going on with 32",
        "memory does not hold 32 at once: going on with 16",
    ]


def test_a_second_evaluation_takes_the_streams_of_the_first(gan, monkeypatch):
    words = ("features=raw", "n=30", "n_real=40", "seed=5")
    first = judged(gan, "metric=fid", *words)
    from genlab.build import Built

    def draw(*args, **kwargs):
        raise AssertionError("samples that are there are drawn again")

    monkeypatch.setattr(Built, "draw", draw)
    second = judged(gan, "metric=fid", "metric.fid.infinity=true", *words)
    assert value(second, "fid") == value(first, "fid")
    assert math.isfinite(value(second, "fid_infinity"))


def test_an_interrupted_one_goes_on(gan, monkeypatch):
    words = ("metric=fid", "features=raw", "n=40", "n_real=40", "batch=8", "seed=6")
    from genlab.build import Built

    draw, drawn = Built.draw, []

    def cut(self, y, seed, indices, weights="ema"):
        drawn.append(list(indices))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(self, y, seed, indices, weights)

    monkeypatch.setattr(Built, "draw", cut)
    assert main(["eval", f"run={gan}", f"outputs={gan.parent.parent}", *words]) == 130
    assert judged(gan, *words)
    assert [d[0] for d in drawn] == [0, 8, 16, 16, 24, 32], "two parts were kept"


def test_a_damaged_part_is_made_again(gan):
    words = ("metric=fid", "features=raw", "n=24", "n_real=40", "batch=8", "seed=7")
    before = value(judged(gan, *words), "fid")
    [part] = [p for p in gan.glob("eval/.streams-*/fake-0000008-8.safetensors")][-1:]
    for path in gan.glob("eval/.streams-*/fake-0000008-8.safetensors"):
        path.write_bytes(part.read_bytes()[:50])
    assert value(judged(gan, *words), "fid") == before


# --- what a model can serve ----------------------------------------------------------------------


def test_bits_per_dimension_are_those_of_the_loss(glow):
    """The mean over held-out images equals a direct computation from log_prob."""
    import genlab
    from genlab.gather import choose
    from genlab.noise import SampleNoise

    result = judged(glow, "metric=bpd", "n=50", "seed=2")
    loaded = genlab.load(glow)
    images, labels = loaded.built.data.load("test")
    u, y = choose(images, 50), choose(labels, 50)
    with torch.no_grad(), loaded.built.viewed("ema"):
        x = loaded.built.codec.encode(u, SampleNoise(2, range(50), "cpu"))
        nats = loaded.built.model.log_prob(x, y) + loaded.built.codec.logdet(x)
    expected = (-nats / (64 * math.log(2))).double()
    assert value(result, "bpd") == pytest.approx(float(expected.mean()), rel=1e-6)
    assert value(result, "bpd_error") == pytest.approx(float(expected.std()) / 50**0.5, rel=1e-4)
    assert result.numbers[0].protocol["held_out"] == 50


def test_a_metric_the_model_cannot_serve_is_named_with_those_it_can(gan, capsys):
    assert main(["eval", f"run={gan}", f"outputs={gan.parent.parent}", "metric=bpd,fid"]) == 2
    error = capsys.readouterr().err
    assert "metric=bpd: it needs likelihoods; it can serve cmmd, fid, is, kid, nearest" in error
    assert "psnr" not in error and "codebook" not in error, "it does not reconstruct"
    assert main(["eval", f"run={gan}", f"outputs={gan.parent.parent}", "features=clip"]) == 3
    assert "features.file is null" in capsys.readouterr().err, "these features were asked for"


def test_what_cannot_be_had_is_left_out_unless_it_was_named(vqvae, capsys):
    """Digits of 8 pixels are too small for a window of 11, and LPIPS has no weights here."""
    result = judged(vqvae, "features=raw", "n=40")
    said = capsys.readouterr().out
    assert "without ssim: ssim needs images of at least 11 pixels, not 8 x 8" in said
    assert "without lpips: metric.lpips.backbone is null" in said
    found = {n.metric for n in result.numbers}
    assert {"psnr", "codebook", "fid"} <= found
    assert not found & {"ssim", "lpips"}
    for metric in ("ssim", "lpips"):
        assert main(["eval", f"run={vqvae}", f"metric={metric}", "n=40"]) == 3


def test_reconstructions_are_judged_as_such(vqvae):
    result = judged(vqvae, "metric=fid", "features=raw", "n=40")
    assert result.subject["of"] == "reconstructions"
    assert result.numbers[0].protocol["of"] == "reconstructions"
    assert result.numbers[0].protocol["reference"] == "digits 8x8x1 test"
    assert "sampler" not in result.subject


# --- folders -------------------------------------------------------------------------------------


def save(images, folder):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
    return folder


@pytest.fixture
def digits():
    from sklearn.datasets import load_digits

    return (load_digits().images * 255 / 16).round().astype(np.uint8)


def in_folder(tmp_path, *words):
    assert main(["eval", f"outputs={tmp_path}/out", "hardware.threads=1", *words]) == 0
    [path] = (tmp_path / "out/eval").glob("*/*/result.json")
    return json.loads(path.read_text())


def test_a_folder_is_judged_like_a_run(tmp_path, digits):
    """The same images as a folder and as an array, against a data set: the same number."""
    save(digits[:50], tmp_path / "a")
    words = ("data=digits", "metric=fid", "features=raw", "n_real=60")
    first = in_folder(tmp_path / "1", f"fake={tmp_path / 'a'}", *words)
    np.save(tmp_path / "b.npy", digits[:50])
    second = in_folder(tmp_path / "2", f"fake={tmp_path / 'b.npy'}", *words)
    fid = [r["metrics"]["fid"]["values"]["fid"] for r in (first, second)]
    assert fid[0] == fid[1]
    assert first["metrics"]["fid"]["protocol"] == second["metrics"]["fid"]["protocol"]
    assert first["metrics"]["fid"]["protocol"]["of"] == "images"


def test_two_folders(tmp_path, digits):
    a, b = save(digits[:50], tmp_path / "a"), save(digits[:50], tmp_path / "b")
    found = in_folder(tmp_path, f"fake={a}", f"real={b}", "metric=fid", "features=raw")
    assert found["metrics"]["fid"]["values"]["fid"] < 1e-6, "a set is no distance from itself"
    assert found["metrics"]["fid"]["protocol"]["reference_images"] == "50 of 50"


def refused(capsys, code, *words):
    assert main(["eval", *words]) == code
    return capsys.readouterr().err


def test_mixed_sizes_in_a_folder(tmp_path, digits, capsys):
    a = save(digits[:9], tmp_path / "a")
    Image.fromarray(digits[9]).resize((12, 12)).save(a / "large.png")
    words = (f"fake={a}", "data=digits", "metric=fid", "features=raw", f"outputs={tmp_path}")
    error = refused(capsys, 3, *words)
    assert "mixes sizes" in error and "large.png has 12 x 12" in error and "size=8" in error
    assert main(["eval", *words, "size=8"]) == 0


def test_folders_of_different_sizes(tmp_path, digits, capsys):
    a = save(digits[:9], tmp_path / "a")
    b = save(digits[:9].repeat(2, 1).repeat(2, 2), tmp_path / "b")
    error = refused(capsys, 3, f"fake={a}", f"real={b}", "metric=fid", "features=raw")
    assert "8x8x3" in error and "16x16x3" in error and "size=8" in error


def test_bad_words_of_folders(tmp_path, digits, capsys):
    a = save(digits[:9], tmp_path / "a")
    assert "needs a reference" in refused(capsys, 2, f"fake={a}", "metric=fid")
    assert "is not there" in refused(capsys, 3, "fake=/nowhere", "data=digits", "metric=fid")
    error = refused(capsys, 2, "fake=x", "data=digits", "metric=fid", "of=samples")
    assert "of= is of a run" in error
    error = refused(capsys, 2, "data=digits", "metric=fid")
    assert "data= is the reference of fake= images" in error
    (a / "0003.png").write_bytes(b"no image")
    error = refused(capsys, 3, f"fake={a}", "data=digits", "metric=fid", "features=raw")
    assert "0003.png is corrupt" in error


# --- bad input -----------------------------------------------------------------------------------


def test_wrong_names_and_values(gan, capsys):
    run = (f"run={gan}", f"outputs={gan.parent.parent}")
    assert "Did you mean 'fid'" in refused(capsys, 2, *run, "metric=fidd")
    assert "metric.fid.infinity must be true or false" in refused(
        capsys, 2, *run, "metric=fid", "metric.fid.infinity=3"
    )
    error = refused(capsys, 2, *run, "metric=fid", "n=0", "weights=soft", "name=../x")
    assert "n must be" in error and "weights must be" in error and "plain folder name" in error
    assert "of=reconstructions" in refused(capsys, 2, *run, "metric=fid", "of=reconstructions")
    assert "no checkpoint 7" in refused(capsys, 4, *run, "metric=fid", "checkpoint=7")


def test_fewer_images_than_a_metric_needs(gan, capsys):
    words = ("metric=fid", "features=raw", "n=1", f"run={gan}", f"outputs={gan.parent.parent}")
    error = refused(capsys, 3, *words)
    assert "metric fid needs 2 samples (n) or more, here are 1" in error


def test_constant_images_have_a_distance(tmp_path):
    """A singular covariance: the distance is that of the means and the other trace."""
    grey = np.full((20, 8, 8), 128, np.uint8)
    black = np.zeros((20, 8, 8), np.uint8)
    a, b = save(grey, tmp_path / "a"), save(black, tmp_path / "b")
    found = in_folder(tmp_path, f"fake={a}", f"real={b}", "metric=fid", "features=raw")
    expected = 3 * 64 * (128 / 255) ** 2  # files are read as colours
    assert found["metrics"]["fid"]["values"]["fid"] == pytest.approx(expected, rel=1e-6)


def test_a_run_still_training_is_judged_at_its_checkpoint_and_said(gan, capsys):
    run = Run(gan)
    with run.lock():
        run.status = "running"
        judged(gan, "metric=fid", "features=raw", "n=8", "n_real=9")
    run.status = "done"
    assert "is still training; its checkpoint at image 64 is judged" in capsys.readouterr().err


def test_a_broken_run(gan, tmp_path, capsys):
    broken = tmp_path / gan.parent.name / gan.name
    shutil.copytree(gan, broken)
    for file in broken.glob("checkpoints/0*/model.safetensors"):
        file.write_bytes(b"cut")
    error = refused(capsys, 4, f"run={broken}", "metric=fid", "features=raw")
    assert "damaged" in error
    shutil.rmtree(broken / "checkpoints")
    assert "no checkpoint yet" in refused(capsys, 4, f"run={broken}", "metric=fid")


# --- while training ------------------------------------------------------------------------------


def test_metrics_while_training_decide_the_best(tiny):
    keys = {
        "schedule.images": 64,
        "every.eval": 16,
        "every.log": 16,
        "metric": "fid",
        "features": "raw",
        "eval.n": 24,
        "keep.best": "metric/fid",
    }
    run = started(tiny("gan", **keys))
    assert work(run.path) == 0
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    found = {r["images"]: r["metric/fid"] for r in rows if "metric/fid" in r}
    assert list(found) == [16, 32, 48, 64]
    best = (run.path / "checkpoints/best").read_text().strip()
    assert int(best) == min(found, key=found.get)
    [result] = results(run.path)
    assert result.path.name == "training"
    assert value(result, "fid") == found[64]
    assert not (result.path / ".streams").exists()


def test_the_best_is_never_one_that_is_not_finite(tiny, monkeypatch):
    from genlab.errors import DataError
    from genlab.evidence import Verdict
    from genlab.metric.fid import FID

    values = iter([math.nan, 3.0, DataError("constant"), 5.0])

    def fid(self, evidence):
        found = next(values)
        if isinstance(found, Exception):
            raise found
        return Verdict({"fid": found})

    monkeypatch.setattr(FID, "__call__", fid)
    keys = {"every.eval": 16, "metric": "fid", "features": "raw", "eval.n": 8}
    run = started(tiny("gan", **keys, **{"keep.best": "metric/fid"}))
    assert work(run.path) == 0
    assert int((run.path / "checkpoints/best").read_text()) == 32


def test_high_is_better_where_a_metric_says_so(tiny, monkeypatch):
    from genlab.evidence import Verdict
    from genlab.metric.fid import FID

    values = iter([1.0, 4.0, 2.0, 3.0])
    monkeypatch.setattr(FID, "__call__", lambda self, e: Verdict({"fid": next(values)}))
    init = FID.__init__

    def high(self, **keys):
        init(self, **keys)
        self.better = {"fid": "high"}

    monkeypatch.setattr(FID, "__init__", high)
    keys = {"every.eval": 16, "metric": "fid", "features": "raw", "eval.n": 8}
    run = started(tiny("gan", **keys, **{"keep.best": "metric/fid"}))
    assert work(run.path) == 0
    assert int((run.path / "checkpoints/best").read_text()) == 32


def test_training_refuses_metrics_before_it_begins(tiny, tmp_path, capsys):
    words = ["train", "model=gan", "data=digits", f"outputs={tmp_path}", "features=raw"]
    assert main([*words, "metric=bpd"]) == 2
    assert "metric=bpd: it needs likelihoods" in capsys.readouterr().err
    assert main([*words, "metric=fid", "keep.best=metric/fid_bias"]) == 2
    assert "gives metric/fid" in capsys.readouterr().err
    assert not list(tmp_path.glob("gan-digits/*"))


# --- by hand -------------------------------------------------------------------------------------


def test_bits_per_dimension_of_a_one_layer_flow_by_hand():
    """z = 3 x + 1 with x = (v + U) / 256 - 1/2: the density of v is that of a Gaussian."""
    from genlab.build import Built
    from genlab.codec.dequantize import Dequantize
    from genlab.contract import Spec
    from genlab.hardware.auto import Hardware
    from genlab.model.nll import NLL
    from genlab.noise import SampleNoise

    class Affine(torch.nn.Module):
        def forward(self, x, y):
            flat = x.flatten(1)
            return 3 * flat + 1, torch.full((len(x),), flat.shape[1] * math.log(3))

        def inverse(self, z, y):
            return ((z - 1) / 3).view(-1, 1, 2, 2)

    spec = Spec((1, 2, 2))
    codec = Dequantize(spec, bits=8, half=0.5)
    machine = Hardware(
        device="cpu",
        precision="fp32",
        compile=False,
        deterministic=True,
        channels_last=False,
        threads=1,
        micro_batch="auto",
        devices=1,
    )
    model = NLL(Affine(), codec, spec, ema=0)
    built = Built(machine, None, codec, spec, model, None, None)
    u = torch.tensor([0, 17, 200, 255, 1, 2, 3, 4], dtype=torch.uint8).view(2, 1, 2, 2)
    bits = built.bits(u, None, seed=4, indices=range(7, 9))
    uniform = SampleNoise(4, range(7, 9), "cpu").uniform(1, 2, 2).numpy()
    x = (u.numpy() + uniform * (1 - 2**-16)) / 256 - 0.5
    # x is normal with mean -1/3 and deviation 1/3, and a step of v is 1/256 of x
    density = np.exp(-0.5 * ((x + 1 / 3) * 3) ** 2) / (math.sqrt(2 * math.pi) / 3)
    expected = -np.log2(density / 256).mean(axis=(1, 2, 3))
    assert bits.numpy() == pytest.approx(expected, rel=1e-5)


# --- what must not happen ------------------------------------------------------------------------


def test_more_held_out_images_are_not_mixed_with_fewer(glow):
    """Parts of a small evaluation are those of a large one, so none is counted twice."""
    few = judged(glow, "metric=bpd", "n=64", "seed=8")
    many = judged(glow, "metric=bpd", "n=297", "seed=8")
    fresh = judged(glow, "metric=bpd", "n=297", "seed=8", "batch=50")
    assert few.numbers[0].protocol["held_out"] == 64
    assert value(many, "bpd") == pytest.approx(value(fresh, "bpd"), rel=1e-6)


def test_fewer_bits_are_another_protocol(glow):
    protocol = judged(glow, "metric=bpd", "n=20").numbers[0].protocol
    assert protocol["density"] == "dequantize 8 bits"
    assert re.fullmatch(r"digits 8x8x1 test [0-9a-f]{12}, 20 of 297", protocol["held_out_set"])


def test_a_metric_of_a_foreign_run_leaves_no_folder_and_imports_nothing(tiny, tmp_path):
    from genlab.errors import ConfigError, Refused
    from genlab.results import write_result

    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    with pytest.raises(Refused, match="would leave the folder"):
        write_result(tmp_path / "a/b", {}, {"../../victim": {"values": {"x": 1.0}}}, {})
    assert (victim / "kept").exists()
    config = tiny("gan")
    config["metric"] = {"../../victim": {"name": "nearest", "pairs": 2}}
    assert any("letters, digits" in p for p in cfg.validate(config))
    config["metric"] = {"x": {"name": "json.decoder:JSONDecoder"}}
    run = started(config)
    with pytest.raises((Refused, ConfigError)):
        work(run.path, trust=False)


def test_a_metric_that_cannot_judge_leaves_the_training_alone(tiny, monkeypatch):
    """Also one whose values are not called as it is."""
    from genlab.errors import DataError
    from genlab.metric.prdc import PRDC

    def refuse(self, evidence):
        raise DataError("all samples are equal")

    monkeypatch.setattr(PRDC, "__call__", refuse)
    keys = {"every.eval": 32, "metric": "prdc", "features": "raw", "eval.n": 12}
    run = started(tiny("gan", **keys, **{"keep.best": "metric/prdc_recall"}))
    assert work(run.path) == 0
    assert not (run.path / "checkpoints/best").exists()


def newest_state(run):
    return json.loads(max(run.path.glob("checkpoints/0*/state.json")).read_text())


def test_the_best_begins_anew_when_it_means_something_else(tiny, capsys):
    """A loss of 0.03 must not be the best FID for ever."""
    keys = {"every.eval": 16, "features": "raw", "schedule.images": 32}
    run = started(tiny("flow_matching", **keys))
    assert work(run.path) == 0
    loss = json.loads(
        sorted(run.path.glob("checkpoints/0*"))[-1].joinpath("state.json").read_text()
    )
    assert loss["best_of"] == "heldout/loss"
    words = ["metric=fid", "eval.n=12", "keep.best=metric/fid", "schedule.images=64"]
    assert main(["resume", f"run={run.path}", *words]) == 0
    state = json.loads(
        sorted(run.path.glob("checkpoints/0*"))[-1].joinpath("state.json").read_text()
    )
    assert state["best_of"].startswith('["metric/fid"')
    assert state["best"] > loss["best"]
    assert int((run.path / "checkpoints/best").read_text()) > 32


def test_resume_refuses_a_metric_and_keeps_the_config(gan, capsys):
    before = (gan / "config.yaml").read_text()
    words = ["resume", f"run={gan}", "schedule.images=128"]
    assert main([*words, "metric=bpd"]) == 2
    assert "metric=bpd: it needs likelihoods" in capsys.readouterr().err
    assert (gan / "config.yaml").read_text() == before
    assert Run(gan).status == "done"


def test_words_of_a_run_beside_fake(tmp_path, digits, capsys):
    a = save(digits[:9], tmp_path / "a")
    error = refused(capsys, 2, f"fake={a}", "data=digits", "metric=fid", "run=x", "weights=raw")
    assert "run=x is of a run" in error and "weights=raw is of a run" in error


def test_a_value_that_is_not_finite_is_an_error(gan, monkeypatch, capsys):
    from genlab.evidence import Verdict
    from genlab.metric.fid import FID

    monkeypatch.setattr(FID, "__call__", lambda self, evidence: Verdict({"fid": math.nan}))
    words = (f"run={gan}", f"outputs={gan.parent.parent}", "features=raw", "n=9")
    assert "fid is not finite" in refused(capsys, 3, *words, "metric=fid")


def test_features_without_logits_do_not_stand_for_those_with(tmp_path):
    """Weights may come with a classifier or without: one digest, other outputs."""
    from genlab.extract import shards

    class Both(Doubled):
        outputs = {"pool": 64, "logits": 3}  # noqa: RUF012

        def __call__(self, u):
            return {**super().__call__(u), "logits": u.flatten(1)[:, :3].float()}

    images = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    cpu = torch.device("cpu")
    assert set(shards("x", Doubled(), images, cpu, tmp_path).all()) == {"pool"}
    assert set(shards("x", Both(), images, cpu, tmp_path).all()) == {"pool", "logits"}


def test_a_moment_of_a_training_takes_no_sample_of_another(tiny, monkeypatch):
    """Not even where an old folder cannot be deleted."""
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **keys: None)
    keys = {"every.eval": 32, "metric": "swd", "eval.n": 12}
    run = started(tiny("gan", **keys))
    assert work(run.path) == 0
    first, last = sorted((run.path / "eval/training").glob(".streams-*"))
    one, two = ((f / "fake-0000000-12.safetensors").read_bytes() for f in (first, last))
    assert one != two
