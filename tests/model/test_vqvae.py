"""VQ-VAE: its loss, its start, its codebook over ranks, and what can be done with a run of it."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

import genlab
from genlab.assemble.components import build
from genlab.cli.main import main
from genlab.config.compose import compose
from genlab.core.contract import Batch
from genlab.core.errors import ConfigError
from genlab.core.random import DrawNoise
from genlab.run.tensors import load_model
from genlab.sampling.pipeline import Pipeline
from genlab.training.preview import validation_loss
from genlab.training.run_loop import train_run
from tests.helpers.runs import small, started
from tests.helpers.trainers import largest_difference, make, run, tiny_config, two_ranks

BUSY = (
    "network.quantizer.codes=24",
    "network.quantizer.restart=0.9",
    "network.quantizer.decay=0.8",
    "optimizer=sgd",
    "optimizer.lr=0.05",
)
"""A codebook with restarts in every step."""


def state(model):
    return {k: v.clone() for k, v in model.quantizer.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_loss_by_hand():
    built, trainer = make(tiny_config("vqvae", "model.variance=0.3"))
    trainer.one_step()
    model = built.model
    x = built.codec.encode(built.data.load("test").x[:8], None)
    noise = DrawNoise(0, 0, 8, slice(0, 8), torch.Generator(), None)
    loss, log = model.loss(Batch(x, None, noise))
    z = model.encoder(x)
    book = model.quantizer.codebook
    e = book[torch.cdist(z.permute(0, 2, 3, 1), book).argmin(-1)].permute(0, 3, 1, 2)
    out = model.decoder(e)
    wanted = (out - x).square().mean() / 0.3 + 0.25 * (z - e).square().mean()
    torch.testing.assert_close(loss, wanted)
    stored = built.data.load("test").x[:8].double()
    copies = built.codec.decode(out).double()
    errors = (stored - copies).square().flatten(1).mean(1)
    decibels = [10 * math.log10(255**2 / float(e)) for e in errors]
    assert float(log["psnr"]) == pytest.approx(np.mean(decibels), rel=1e-4)
    torch.testing.assert_close(log["quantization_error"], (z - e).square().mean())


def test_the_start_measures_the_variance_of_the_data():
    built, trainer = make(tiny_config("vqvae"))
    trainer.one_step()
    x = built.codec.encode(built.data.load("train").x, None)
    assert float(built.model.variance) == pytest.approx(float(x.var()), rel=0.05)
    fixed, trainer = make(tiny_config("vqvae", "model.variance=2"))
    trainer.one_step()
    assert float(fixed.model.variance) == 2


def test_more_codes_than_the_data_have_vectors_is_refused_with_the_fix():
    built = build(tiny_config("vqvae", "network.quantizer.codes=100"))
    x = torch.rand(8, 1, 8, 8)
    noise = DrawNoise(0, 0, 8, slice(0, 8), torch.Generator(), None)

    def always():
        while True:
            yield Batch(x, None, noise)

    with torch.no_grad(), pytest.raises(ConfigError, match=r"codes=100, but .* only 32 different"):
        built.model.start(always())
    x = torch.zeros(8, 1, 8, 8)
    with pytest.raises(ConfigError, match=r"no variance.*model\.variance=1"):
        built.model.start(always())


def test_the_codebook_moves_in_training_alone():
    built, trainer = make(tiny_config("vqvae", *BUSY))
    trainer.one_step()
    before = state(built.model)
    pipeline = Pipeline(built)
    validation_loss(pipeline, 20, 8, 0)
    pipeline.decode(pipeline.encode(built.data.load("test").x[:9]))
    built.model.quantizer.commit()
    assert same(before, state(built.model))
    trainer.one_step()
    assert not same(before, state(built.model))


def test_codebooks_with_restarts_are_the_same_on_two_ranks_and_on_one(tmp_path):
    config = tiny_config("vqvae", *BUSY)
    alone, trainer = run(config, 4)
    assert trainer.read()["restarts"] > 1
    books = []
    for path in two_ranks(config, 4, tmp_path):
        other = build(config)
        load_model(other.model, path)
        assert largest_difference(alone.model, other.model) < 1e-5
        books.append(state(other.model))
    assert same(*books)


def test_a_learned_codebook_trains_too():
    built, trainer = make(tiny_config("vqvae", "network.quantizer.codebook=loss"))
    trainer.one_step()
    before = built.model.quantizer.codebook.detach().clone()
    trainer.one_step()
    assert "codebook" in dict(built.model.quantizer.named_parameters())
    assert not torch.equal(before, built.model.quantizer.codebook)


def test_bits_are_codes_times_log2_of_their_number():
    built = build(compose(["model=vqvae", "network.quantizer.codes=256"]), meta=True)
    assert built.model.code_bits == 2 * 2 * 8


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["network.encoder.halvings=4"], r"8x8 cannot be .*halvings=3 or data.size=16"),
        (["network.decoder.halvings=1"], "halvings of network.encoder and decoder"),
        (["network.quantizer.code_width=3"], r"code_width .* must be the same, not 64, 3, 64"),
        (["data=toy", "codec=points"], "takes images"),
    ],
)
def test_networks_that_do_not_fit_are_refused(words, fix):
    with pytest.raises(ConfigError, match=fix):
        build(compose(["model=vqvae", *words]), meta=True)


# --- around the model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished tiny run; not to be changed but for its samples."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("vq")
    run = started(
        small("vqvae", "digits", **{"outputs": str(folder), "network.quantizer.codes": 32})
    )
    train_run(run.path)
    return run.path


def test_grids_and_report_show_reconstructions(trained):
    (grid,) = (trained / "samples" / "train").glob("*.png")
    with Image.open(grid) as picture:
        width, height = picture.size
    tile = 56  # an 8 x 8 image, enlarged
    assert (width, height) == (4 * (2 * tile + 3) + 3, 8 * (tile + 3) + 3), "32 pairs, 4 a row"
    page = (trained / "report.html").read_text()
    assert "each with its reconstruction" in page
    assert "the codes of an image carry 20 bits" in page
    assert "from=photos" in page
    assert "Samples" not in page


@pytest.fixture
def photos(tmp_path):
    """Held-out digits as files, one of them larger, one in colour and wide, one corrupt."""
    images = build(compose([])).data.load("test").x[:5, 0].numpy()
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    Image.fromarray(images[0]).resize((64, 64)).save(folder / "more" / "0.bmp")
    Image.new("RGB", (30, 20), (200, 10, 10)).save(folder / "0.bmp")
    (folder / "no.png").write_bytes(b"no image")
    return folder


def test_a_folder_is_encoded_and_decoded(trained, photos, capsys):
    assert main(["sample", f"run={trained}", f"from={photos}", "name=t", "batch=3"]) == 0
    said, err = capsys.readouterr()
    assert "no.png is left out" in err
    assert "1 colour to grey, 1 cropped to the square" in said
    folder = trained / "samples" / "t"
    codes = np.load(folder / "codes.npy", allow_pickle=False)
    names = json.loads((folder / "names.json").read_text())
    assert names == ["0.bmp", *(f"{i}.png" for i in range(5)), "more/0.bmp"]
    assert codes.shape == (7, 2, 2) and np.issubdtype(codes.dtype, np.integer)
    files = {p.relative_to(folder / "images").as_posix() for p in folder.glob("images/**/*.png")}
    assert files == {"0.png", "0.png.png", *(f"{i}.png" for i in range(1, 5)), "more/0.png"}
    originals = np.stack([np.asarray(Image.open(photos / f"{i}.png")) for i in range(5)])[:, None]
    in_python, copies = genlab.load(trained).reconstruct(originals)
    assert np.array_equal(in_python, codes[1:6])
    written = [Image.open(folder / "images" / n) for n in ("0.png.png", "1.png")]
    assert np.abs(np.stack(written).astype(int) - copies[:2, 0]).max() <= 1
    record = json.loads((folder / "sample.json").read_text())
    assert record["bits"] == 4 * 5
    assert record["usage"] == round(len(np.unique(codes)) / 32, 4)
    assert record["corrupt"] == {"no.png": record["corrupt"]["no.png"]}
    words = [f"run={trained}", f"from={photos}", "name=array", "save=npy"]
    assert main(["sample", *words]) == 0
    array = np.load(trained / "samples" / "array" / "reconstructions.npy", allow_pickle=False)
    assert np.abs(array[1:6].astype(int) - copies).max() <= 1
    main(["report", f"run={trained}"])
    assert "originals and reconstructions" in (trained / "report.html").read_text()


def test_n_is_how_many_images_are_taken(trained, photos, capsys):
    assert main(["sample", f"run={trained}", f"from={photos}", "name=few", "n=2"]) == 0
    assert json.loads((trained / "samples/few/names.json").read_text()) == ["0.bmp", "0.png"]
    assert "the first 2 of 8 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ([], r"'vqvae' draws no images of its own.* from=<folder"),
        (["from={photos}", "animate=true"], "neither animate nor interpolate"),
        (["from={photos}", "interpolate=true"], "neither animate nor interpolate"),
        ([f"from={__file__}"], "is no folder"),
        (["from=/nowhere"], "is not there"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(trained, photos, words, fix, capsys):
    words = [w.format(photos=photos) for w in words]
    assert main(["sample", f"run={trained}", "name=none", *words]) in (2, 3)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(fix, said), said
    assert not (trained / "samples" / "none").exists()


def test_a_model_without_encoder_refuses_from(tmp_path, photos, capsys):
    run = started(small("gan", "digits", outputs=str(tmp_path), **{"schedule.images": 8}))
    train_run(run.path)
    assert main(["sample", f"run={run.path}", f"from={photos}"]) == 2
    assert "has no encoder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="has no encoder"):
        genlab.load(run.path).reconstruct(np.zeros((1, 1, 8, 8), np.uint8))


def test_wrong_arrays_are_refused(trained):
    pipeline = genlab.load(trained)
    for wrong in (np.zeros((1, 1, 9, 8), np.uint8), np.zeros((1, 1, 8, 8), np.float32)):
        with pytest.raises(ConfigError, match=r"takes uint8 images \[n, 1, 8, 8\]"):
            pipeline.reconstruct(wrong)
    with pytest.raises(ConfigError, match="draws no images"):
        pipeline.sample(3)
