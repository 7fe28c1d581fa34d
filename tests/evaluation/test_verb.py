"""`genlab eval`: what is evaluated, by what, and what is written about it."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.cli.main import main
from genlab.run.directory import Run
from tests.helpers.evaluations import evaluated, in_folder, refused, save, value
from tests.helpers.runs import trained


def test_a_number_carries_its_protocol(gan):
    result = evaluated(gan, "metric=fid", "features=raw", "n=40", "n_real=60", "seed=3")
    [fid, bias] = result.numbers
    assert (fid.name, bias.name) == ("fid", "fid_bias")
    assert fid.better == "low" and fid.value > 0
    assert fid.protocol["images"] == 40
    assert fid.protocol["reference"] == "digits 8x8x1 train"
    assert fid.protocol["reference_images"].startswith("60 of ")
    assert (fid.protocol["features"], fid.protocol["features_digest"]) == ("raw", "raw")
    assert "infinity" not in fid.protocol, "it changes no digit of fid"
    description = result.description
    assert description["id"] == Run(gan).id
    assert description.items() >= {"weights": "ema", "seed": 3, "of": "samples"}.items()
    assert (description["sampler"]["name"], description["evaluations"]) == ("one_step", 1)
    assert description["checkpoint"] == 64
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


@pytest.mark.parametrize(
    "words", ["eval metric=fid features=raw n=12 n_real=20", "sample n=2 save=none", "report"]
)
def test_a_script_gets_one_object_and_people_the_other_stream(gan, capsys, words):
    verb, *rest = words.split()
    assert main([verb, f"run={gan}", f"outputs={gan.parent.parent}", *rest, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["run"] == Run(gan).id and Path(found["path"]).exists()
    assert found["path"] in err, "as without --json"
    if verb == "eval":
        fid = found["metrics"]["fid"]
        assert fid["values"]["fid"] > 0 and fid["protocol"]["images"] == 12
        assert json.loads(Path(found["path"]).read_text())["metrics"] == found["metrics"]
    elif verb == "sample":
        assert found["record"]["seed"] == 0 and "sample.json" in found["files"]
    else:
        assert found["values"].keys() >= {"loss/d", "loss/g"} and found["state"] == "done"
        assert all(e["metrics"]["fid"]["protocol"] for e in found["evaluations"])
    assert main([verb, f"outputs={gan / 'nowhere'}", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_evaluations_are_counted_and_guidance_is_told(tmp_path_factory):
    run = trained(tmp_path_factory, "flow_matching")
    words = ("metric=fid", "features=raw", "n=9", "sampler=euler", "sampler.steps=3")
    description = evaluated(run, *words, "guidance.scale=2").description
    assert description["evaluations"] == 6
    assert description["guidance"]["scale"] == 2
    assert description["sampler"].items() >= {"name": "euler", "steps": 3}.items()


def test_bits_per_dimension_are_those_of_the_loss(glow):
    """The mean over held-out images equals a direct computation from log_prob."""
    import genlab
    from genlab.core.random import SampleNoise
    from genlab.evaluation.reference import subset

    result = evaluated(glow, "metric=bpd", "n=50", "seed=2")
    pipeline = genlab.load(glow)
    images, labels, _ = pipeline.data.load("test")
    u, y = subset(images, 50), subset(labels, 50)
    with torch.no_grad(), pipeline.using("ema"):
        x = pipeline.codec.encode(u, SampleNoise(2, range(50), "cpu"))
        nats = pipeline.model.log_prob(x, y, None) + pipeline.codec.logdet(x)
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
    result = evaluated(vqvae, "features=raw", "n=40")
    said = capsys.readouterr().out
    assert "without ssim: ssim needs images of at least 11 pixels, not 8 x 8" in said
    assert "without lpips: metric.lpips.backbone is null" in said
    found = {n.metric for n in result.numbers}
    assert {"psnr", "codebook", "fid"} <= found
    assert not found & {"ssim", "lpips"}
    for metric in ("ssim", "lpips"):
        assert main(["eval", f"run={vqvae}", f"metric={metric}", "n=40"]) == 3


def test_reconstructions_are_evaluated_as_such(vqvae):
    result = evaluated(vqvae, "metric=fid", "features=raw", "n=40")
    assert result.description["of"] == "reconstructions"
    assert result.numbers[0].protocol["of"] == "reconstructions"
    assert result.numbers[0].protocol["reference"] == "digits 8x8x1 test"
    assert "sampler" not in result.description


def test_a_folder_is_evaluated_like_a_run(tmp_path, digits):
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


def test_given_images_are_samples_of_every_metric(tmp_path, digits):
    """Also of those that compare pixels, and with the training images where a set is named."""
    np.save(tmp_path / "a.npy", digits[:20])
    words = (f"fake={tmp_path / 'a.npy'}", "data=digits", "metric=swd,nearest", "n_real=20")
    found = in_folder(tmp_path, *words)["metrics"]
    assert found["swd"]["values"]["swd"] > 0
    assert found["nearest"]["values"]["nearest"] == 0, "they are training images"


@pytest.mark.parametrize("saved", ["png", "npy"])
def test_the_folder_that_sample_has_made_is_evaluated_as_it_is_printed(
    gan, tmp_path, saved, capsys
):
    """Its pictures for people are no samples, whether or not images are resampled."""
    words = ["n=9", f"save={saved}", "interpolate=true", f"name=made-{saved}"]
    assert main(["sample", f"run={gan}", *words]) == 0
    folder = capsys.readouterr().out.split()[-1]
    assert Path(folder, "grid.png").is_file() and Path(folder, "interpolation.png").is_file()
    words = [f"fake={folder}", "data=digits", "metric=fid", "features=raw", "n_real=20"]
    for place in (tmp_path / "a", tmp_path / "b"):
        assert in_folder(place, *words)["metrics"]["fid"]["protocol"]["images"] == 9
        words.append("size=8")


def test_two_folders(tmp_path, digits):
    a, b = save(digits[:50], tmp_path / "a"), save(digits[:50], tmp_path / "b")
    found = in_folder(tmp_path, f"fake={a}", f"real={b}", "metric=fid", "features=raw")
    assert found["metrics"]["fid"]["values"]["fid"] < 1e-6, "a set is no distance from itself"
    assert found["metrics"]["fid"]["protocol"]["reference_images"] == "50 of 50"


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


def test_wrong_names_and_values(gan, capsys):
    run = (f"run={gan}", f"outputs={gan.parent.parent}")
    assert "Did you mean 'fid'" in refused(capsys, 2, *run, "metric=fidd")
    assert "metric.fid.infinity must be true or false" in refused(
        capsys, 2, *run, "metric=fid", "metric.fid.infinity=3"
    )
    error = refused(capsys, 2, *run, "metric=fid", "n=0", "weights=soft")
    assert "n must be" in error and "weights must be" in error
    assert "plain folder name" in refused(capsys, 2, *run, "metric=fid", "name=../x")
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


def test_a_run_still_training_is_evaluated_at_its_checkpoint(gan, capsys):
    run = Run(gan)
    with run.lock():
        run.status = "running"
        evaluated(gan, "metric=fid", "features=raw", "n=8", "n_real=9")
    run.status = "done"
    assert "is still training; taking its checkpoint at image 64" in capsys.readouterr().err


def test_a_broken_run(gan, tmp_path, capsys):
    broken = tmp_path / gan.parent.name / gan.name
    shutil.copytree(gan, broken)
    for file in broken.glob("checkpoints/0*/model.safetensors"):
        file.write_bytes(b"cut")
    error = refused(capsys, 4, f"run={broken}", "metric=fid", "features=raw")
    assert "damaged" in error
    shutil.rmtree(broken / "checkpoints")
    assert "no checkpoint yet" in refused(capsys, 4, f"run={broken}", "metric=fid")


def test_bits_per_dimension_of_a_one_layer_flow_by_hand():
    """z = 3 x + 1 with x = (v + U) / 256 - 1/2: the density of v is that of a Gaussian."""
    from genlab.assemble.components import Components
    from genlab.codec.dequantize import Dequantize
    from genlab.core.contract import Bijection, Spec
    from genlab.core.random import SampleNoise
    from genlab.hardware.hardware import Hardware
    from genlab.model.flow import NLL
    from genlab.sampling.pipeline import Pipeline

    class Affine(Bijection):
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
        attention="auto",
        channels_last=False,
        threads=1,
        micro_batch="auto",
        devices=1,
        on_spike="warn",
    )
    model = NLL(Affine(), codec, spec, ema=0)
    components = Components({}, machine, None, codec, spec, model, None, None)
    u = torch.tensor([0, 17, 200, 255, 1, 2, 3, 4], dtype=torch.uint8).view(2, 1, 2, 2)
    bits = Pipeline(components).bits_per_dim(u, None, seed=4, indices=range(7, 9))
    uniform = SampleNoise(4, range(7, 9), "cpu").uniform(1, 2, 2).numpy()
    x = (u.numpy() + uniform * (1 - 2**-16)) / 256 - 0.5
    # x is normal with mean -1/3 and deviation 1/3, and a step of v is 1/256 of x
    density = np.exp(-0.5 * ((x + 1 / 3) * 3) ** 2) / (math.sqrt(2 * math.pi) / 3)
    expected = -np.log2(density / 256).mean(axis=(1, 2, 3))
    assert bits.numpy() == pytest.approx(expected, rel=1e-5)


def test_fewer_bits_are_another_protocol(glow):
    protocol = evaluated(glow, "metric=bpd", "n=20").numbers[0].protocol
    assert protocol["density"] == "dequantize 8 bits"
    assert re.fullmatch(r"digits 8x8x1 test [0-9a-f]{12}, 20 of 297", protocol["held_out_set"])


def test_words_of_a_run_beside_fake(tmp_path, digits, capsys):
    a = save(digits[:9], tmp_path / "a")
    error = refused(capsys, 2, f"fake={a}", "data=digits", "metric=fid", "run=x", "weights=raw")
    assert "run=x is of a run" in error and "weights=raw is of a run" in error


def test_a_value_that_is_not_finite_is_an_error(gan, monkeypatch, capsys):
    from genlab.core.metric import MetricResult
    from genlab.metric.fid import FID

    monkeypatch.setattr(FID, "__call__", lambda self, inputs: MetricResult({"fid": math.nan}))
    words = (f"run={gan}", f"outputs={gan.parent.parent}", "features=raw", "n=9")
    assert "fid is not finite" in refused(capsys, 3, *words, "metric=fid")
