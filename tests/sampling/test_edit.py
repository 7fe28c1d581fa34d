"""Images filled in, coloured and redrawn: what is known stays, on every path and sampler."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import genlab
from genlab.cli.main import main
from genlab.core.errors import ConfigError
from genlab.core.random import SampleNoise
from genlab.sampling.edit import held_grey
from tests.helpers.runs import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching")


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A folder of loud images, which drawn ones tend to leave the range of."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for i in range(20):
        pixels = rng.choice([0, 40, 255], (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory, colours):
    keys = {"data.path": str(colours), "data.size": 8}
    return trained(tmp_path_factory, "flow_matching", "folder", **keys)


@pytest.fixture
def given(digits):
    return digits[:5, None].copy()


@pytest.fixture
def mask():
    inside = np.zeros((8, 8), bool)
    inside[2:7, 3:6] = True
    return inside


# --- what is known ----------------------------------------------------------------------------

SAMPLERS = [
    ["sampler=euler", "sampler.steps=4"],
    ["sampler=heun", "sampler.steps=3", "guidance.scale=2"],
    ["sampler=heun", "sampler.steps=3", "sampler.grid=karras", "sampler.through=edm"],
    ["sampler=euler", "sampler.steps=5", "sampler.through=vp"],
]


@pytest.mark.parametrize("words", SAMPLERS)
@pytest.mark.parametrize("strength", [None, 0.6])
def test_pixels_outside_the_mask_stay_byte_for_byte(run, given, mask, words, strength):
    pipeline = genlab.load(run, overrides=words)
    task = "inpaint" if strength is None else "edit"
    words = {"mask": mask, "strength": strength, "labels": [1, 2, 3, 4, 5], "variants": 2}
    edits, known = pipeline.edit(given, task, **words)
    assert edits.shape == (5, 2, 1, 8, 8)
    for drawn in (*edits.swapaxes(0, 1), known):
        assert np.array_equal(drawn[..., ~mask], given[..., ~mask])
    assert not np.array_equal(edits[:, 0][..., mask], given[..., mask])
    assert not np.array_equal(edits[:, 0], edits[:, 1])
    again, _ = pipeline.edit(given[3:], task, **words, first=3, batch=2)
    assert np.abs(again.astype(int) - edits[3:]).max() <= 1, "of an image and its number alone"


def test_they_stay_where_the_codec_keeps_fewer_bits(tmp_path_factory, given, mask):
    keys = {"codec": "dequantize", "codec.bits": 3}
    other = genlab.load(trained(tmp_path_factory, "flow_matching", **keys))
    drawn = other.edit(given, "inpaint", mask=mask)[0][:, 0]
    assert np.array_equal(drawn[..., ~mask], given[..., ~mask])


def test_the_known_part_of_the_state_is_on_its_path(run, given, mask):
    """On the linear path Euler keeps it at a y + b z, with z seen from where sampling starts."""
    pipeline = genlab.load(run, overrides=["sampler=euler", "sampler.steps=4"])
    states = []
    pipeline.sampler.watch = lambda x: states.append(x.clone())
    pipeline.edit(given, "inpaint", mask=mask, seed=3)
    y = pipeline.codec.encode(torch.from_numpy(given), None)
    z, outside = SampleNoise(3, range(5), "cpu").normal(1, 8, 8), torch.from_numpy(~mask)
    for t, x in zip((1, 0.75, 0.5, 0.25, 0), states, strict=True):
        wanted = (1 - t) * y + t * z
        x, wanted = x[..., outside], wanted[..., outside]
        torch.testing.assert_close(x, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("words", SAMPLERS)
def test_colours_keep_the_grey(colour_run, colours, words):
    images = [np.asarray(Image.open(colours / f"{i:02d}.png")) for i in range(6)]
    given = np.stack(images).transpose(0, 3, 1, 2)
    pipeline = genlab.load(colour_run, overrides=[w for w in words if "scale" not in w])
    edits, known = pipeline.edit(given, "colourise")
    drawn, grey = edits[:, 0], given.mean(1)
    # the mean of three roundings
    assert np.abs(drawn.mean(1) - grey).max() <= 0.5 + 1e-3
    assert np.abs(known - grey[:, None]).max() <= 0.5 + 1e-3
    assert np.ptp(drawn, axis=1).max() > 20, "it has colours"


def test_grey_is_held_by_the_least_change_that_fits_the_range():
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(4, 3, 6, 6, generator=g, dtype=torch.float64)
    y = torch.rand(4, 1, 6, 6, generator=g, dtype=torch.float64) * 2 - 1
    y[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    x0[1, :, 0, 0] = 0.3  # grey already
    out = held_grey(x0, y, -1, 1)
    torch.testing.assert_close(out.mean(1, keepdim=True), y)
    assert out.abs().max() <= 1 + 1e-12
    moved = x0 + y - x0.mean(1, keepdim=True)  # the projection
    fits = (moved.abs() <= 1).all(1, keepdim=True).expand_as(moved)
    assert fits.any()
    assert not fits.all()
    torch.testing.assert_close(out[fits], moved[fits])
    share = (out - y).norm(dim=1) / (moved - y).norm(dim=1).clamp(min=1e-300)
    closest = (1 - out.abs()).amin(1)  # of a pixel that did not fit, to an end of the range
    assert closest[~fits[:, 0]].abs().max() < 1e-9, "no more colour is taken away than needed"
    assert (share <= 1 + 1e-9).all()


# --- a part of the way ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("through", "a", "b"),
    [
        ("null", 0.6, 0.4),
        ("trig", 0.6 / 0.52**0.5, 0.4 / 0.52**0.5),
        ("edm", 1.0, 0.4 / 0.6),
    ],
)
def test_an_edit_starts_on_the_path_at_its_strength(run, given, through, a, b):
    pipeline = genlab.load(run, overrides=[f"sampler.through={through}"])
    states = []
    pipeline.sampler.watch = lambda x: states.append(x.clone())
    u = np.repeat(given[:1], 2000, axis=0)
    pipeline.edit(u, strength=0.4, batch=2000)
    x = pipeline.codec.encode(torch.from_numpy(u), None)
    z = SampleNoise(0, range(2000), "cpu").normal(1, 8, 8)
    torch.testing.assert_close(states[0], float(a) * x + float(b) * z, rtol=1e-4, atol=1e-4)
    error = (states[0].mean(0) - float(a) * x[0]) / float(b) * 2000**0.5
    assert error.abs().max() < 4.5, "the mean is a x"
    assert states[0].std(0).mean().item() == pytest.approx(float(b), rel=0.02)


def test_a_part_of_a_discrete_path_has_its_own_number_of_steps(given, tmp_path_factory):
    run = trained(tmp_path_factory, "ddpm")
    pipeline = genlab.load(run, overrides=["sampler=ddim", "sampler.steps=1000"])
    pipeline.edit(given, strength=0.3)
    path = pipeline.sampler.process
    steps = 1000 * path.time(torch.tensor([3 / 7], dtype=torch.float64)).item()
    assert pipeline.sampler.evaluations == round(steps) < 1000
    assert pipeline.sampler.sampler.steps == 1000, "as it was"


def test_grids_that_begin_below_the_end_of_the_part_begin_on_the_path(run, given):
    """Karras' grid starts at 80 at most: the image there has the weight that level gives it."""
    pipeline = genlab.load(run, overrides=["sampler=heun_karras", "sampler.steps=2"])
    states = []
    pipeline.sampler.watch = lambda x: states.append(x.clone())
    pipeline.edit(given, strength=0.999)
    x = pipeline.codec.encode(torch.from_numpy(given), None)
    z = SampleNoise(0, range(5), "cpu").normal(1, 8, 8)
    torch.testing.assert_close(states[0], (x + 80 * z) / 81, rtol=1e-4, atol=1e-4)


def test_less_noise_than_a_path_has_is_refused(run, given):
    pipeline = genlab.load(run, overrides=["sampler.through=ve"])
    with pytest.raises(ConfigError, match="less noise than this path"):
        pipeline.edit(given, strength=0.005)


def test_a_strength_near_zero_returns_the_image_and_a_large_one_does_not(run, given):
    pipeline = genlab.load(run)
    found = [
        np.abs(pipeline.edit(given, strength=s)[0][:, 0].astype(int) - given).max()
        for s in (1e-3, 0.05, 1.0)
    ]
    assert found[0] <= 1
    assert found[0] < found[1] < found[2]


def test_strength_one_is_sampling(run, given):
    pipeline = genlab.load(run, overrides=["sampler=euler", "sampler.steps=3"])
    drawn = pipeline.edit(given, strength=1.0, labels=[0, 1, 2, 3, 4])[0][:, 0]
    plain = pipeline.sample(5)  # of the same noise and labels: on the linear path nothing is left
    assert np.abs(drawn.astype(int) - plain).max() <= 1


def test_the_sampler_is_as_it_was(run, given, mask):
    pipeline = genlab.load(run)
    bound = pipeline.sampler
    before = bound.guidance, bound.through
    pipeline.edit(given, mask=mask, strength=0.5)
    assert (bound.guidance, bound.through) == before


# --- on the command line ------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, given, mask):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(given[:3, 0]):
        Image.fromarray(image).save(folder / f"{i}.png")
    Image.new("L", (20, 30), 90).save(folder / "wide.png")
    (folder / "broken.png").write_bytes(b"no image")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "large.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "black.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    return folder


def sample(run, *words):
    assert main(["sample", f"run={run}", "name=e", *words]) == 0
    folder = run / "samples" / "e"
    return folder, json.loads((folder / "sample.json").read_text())


def test_a_folder_is_filled_in(run, photos, mask, capsys):
    words = [f"from={photos}", f"mask={photos.parent}/mask.png", "variants=2", "batch=3"]
    folder, record = sample(run, "task=inpaint", *words, "labels=[5,6]", "seed=4")
    said, err = capsys.readouterr()
    assert "broken.png is left out" in err
    assert "1 cropped to the square, 1 resized to 8" in said
    names = {f"{n}-{k}.png" for n in ("0", "1", "2", "wide") for k in (0, 1)}
    assert {p.name for p in (folder / "images").iterdir()} == names
    for i in range(3):
        original = np.asarray(Image.open(photos / f"{i}.png"))
        first, second = (np.asarray(Image.open(folder / f"images/{i}-{k}.png")) for k in (0, 1))
        assert np.array_equal(first[~mask], original[~mask])
        assert np.array_equal(second[~mask], original[~mask])
        assert not np.array_equal(first, second)
    columns, rows, tile = 4, 4, 56
    size = Image.open(folder / "grid.png").size
    assert size == (columns * (tile + 3) + 3, rows * (tile + 3) + 3)
    assert (record["task"], record["n"], record["variants"], record["seed"]) == (
        "inpaint",
        4,
        2,
        4,
    )
    assert record["evaluations"] == 2 * record["sampler"]["steps"] - 1
    assert record["labels"] == [5, 6]
    assert list(record["corrupt"]) == ["broken.png"]


def test_one_image_is_redrawn_as_an_array(run, photos):
    words = [f"from={photos}/1.png", "strength=0.5", "variants=3", "save=npy"]
    folder, record = sample(run, "task=edit", *words)
    edits = np.load(folder / "edits.npy", allow_pickle=False)
    assert edits.shape == (1, 3, 1, 8, 8)
    assert record["strength"] == 0.5
    u = np.asarray(Image.open(photos / "1.png"))[None, None]
    again, _ = genlab.load(run).edit(u, strength=0.5, variants=3)
    assert np.array_equal(edits, again), "Python draws what the command does"


def test_n_is_how_many_images_are_taken(run, photos, capsys):
    _, record = sample(run, "task=edit", f"from={photos}", "strength=0.5", "n=2")
    assert record["n"] == 2
    assert f"the first 2 of 5 images of {photos}; n= takes more" in capsys.readouterr().err


def test_images_are_edited_at_the_size_that_guidance_draws(run, photos):
    words = [f"from={photos}", "strength=0.5", "guidance=upsample", "save=npy"]
    folder, record = sample(run, "task=edit", *words)
    assert np.load(folder / "edits.npy").shape == (4, 4, 1, 16, 16)
    assert "3 enlarged" in record["converted"]


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["task=inpaint", "mask={mask}"], "needs from="),
        (["task=inpaint", "from={photos}"], "needs mask="),
        (["task=inpaint", "from={photos}", "mask={here}/no.png"], "is not there"),
        (["task=inpaint", "from={photos}", "mask={photos}"], "holds 5 images"),
        (["task=inpaint", "from={photos}", "mask={photos}/broken.png"], "is corrupt"),
        (["task=inpaint", "from={photos}", "mask={here}/large.png"], "16x16 pixels.* 8x8"),
        (["task=inpaint", "from={photos}", "mask={here}/black.png"], "black everywhere"),
        (["task=inpaint", "from={photos}", "mask={here}/white.png"], "white everywhere"),
        (["task=inpaint", "from={photos}", "mask={here}/no.png"], "white where it should draw"),
        (["task=edit", "from={photos}", "strength=.5", "labels=[]"], "is empty"),
        (["labels=[1.5]"], "labels must be a whole number or a list like .* whole number or null"),
        (["sampler.eta=1"], "eta is a key of sampler=ddim"),
        (["sampler.through=none"], "no process 'none'"),
        (["task=inpaint", "from={photos}", "mask={mask}", "strength=0.5"], "all the way"),
        (["task=inpaint", "from={here}/nowhere", "mask={mask}"], "is not there"),
        (["task=inpaint", "from={photos}/broken.png", "mask={mask}"], "no image can be decoded"),
        (["task=colourise", "from={photos}"], "this one's are grey"),
        (["task=edit", "from={photos}"], "add strength="),
        (["task=edit", "from={photos}", "strength=0"], r"in \(0, 1\]"),
        (["task=edit", "from={photos}", "strength=1.5"], "strength must be"),
        (["task=edit", "from={photos}", "strength=-1"], "strength must be"),
        (["task=edit", "from={photos}", "strength=.5", "sampler.span=[.1,2]"], "span=null"),
        (["task=edit", "from={photos}", "strength=.5", "animate=true"], "edits images"),
        (["task=paint", "from={photos}"], "task must be inpaint or colourise or edit"),
        (["task=edit", "from={photos}", "strength=.5", "variants=0"], "variants must be"),
        (["task=edit", "from={photos}", "strength=.5", "labels=12"], "labels 0 to 9"),
        (["mask={mask}"], "name the task"),
        (["strength=0.5"], "name the task"),
        (["from={photos}"], "has no encoder"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(run, photos, words, fix, capsys):
    places = {"photos": photos, "here": photos.parent, "mask": photos.parent / "mask.png"}
    words = [w.format(**places) for w in words]
    assert main(["sample", f"run={run}", "name=none", *words]) in (2, 3)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(fix, said), said
    assert not (run / "samples" / "none").exists()


def test_runs_that_cannot_are_refused(gan, tmp_path_factory, given, mask):
    with pytest.raises(ConfigError, match="needs a model with a path"):
        genlab.load(gan).edit(given, "inpaint", mask=mask)
    toy = genlab.load(trained(tmp_path_factory, "flow_matching", "toy"))
    with pytest.raises(ConfigError, match="draws points"):
        toy.edit(given, strength=0.5)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ({"task": "paint"}, "task must be inpaint or colourise or edit"),
        ({"strength": 1.5}, r"strength must be a number in \(0, 1\]"),
        ({"strength": 0.5, "variants": 0}, "variants must be"),
        ({"strength": 0.5, "labels": 10}, "labels 0 to 9"),
        ({"task": "inpaint"}, "needs mask="),
    ],
)
def test_wrong_words_are_refused_in_python_too(run, given, words, fix):
    with pytest.raises(ConfigError, match=fix):
        genlab.load(run).edit(given, **words)


def test_wrong_arrays_are_refused(run, given):
    for wrong in (given[..., :7], given.astype(np.float32), given[:0]):
        with pytest.raises(ConfigError, match=r"takes uint8 images \[n, 1, 8, 8\]"):
            genlab.load(run).edit(wrong, strength=0.5)


def test_a_run_without_label_dropout_is_given_labels(tmp_path_factory, photos, capsys):
    run = trained(tmp_path_factory, "flow_matching", **{"model.label_dropout": 0.0})
    words = [f"run={run}", "task=edit", f"from={photos}", "strength=0.5", "save=none"]
    assert main(["sample", *words]) == 2
    assert "labels= is needed" in capsys.readouterr().err
    assert main(["sample", *words, "labels=3"]) == 0
