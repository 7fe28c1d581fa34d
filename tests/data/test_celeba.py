"""CelebA: the official layout in miniature, and the real files where they are."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.core.errors import ConfigError, DataError
from genlab.data.celeba import CelebA
from tests.helpers.image_files import encoded, folder, picture, zipped

SHARED = Path(__file__).parents[3] / "shared" / "data"
ATTRIBUTES = ["Bald", "Male", "Smiling"]
NAMES = [f"{i:06d}.jpg" for i in range(1, 31)]
PICTURES = [picture(i, 178, 218) for i in range(30)]
FILES = {n: encoded(a, "JPEG") for n, a in zip(NAMES, PICTURES, strict=True)}


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def bits(i):
    """The attributes of image i of the miniature."""
    return [i % 2, i // 2 % 2, i // 4 % 2]


def partition(i):
    return 0 if i < 20 else 1 if i < 26 else 2


def lists(part=partition):
    rows = [f"{n} " + " ".join(f"{2 * b - 1:2d}" for b in bits(i)) for i, n in enumerate(NAMES)]
    attributes = "\r\n".join(["30", " ".join(ATTRIBUTES) + " ", *rows, ""])
    parts = "\r\n".join([*(f"{n} {part(i)}" for i, n in enumerate(NAMES)), ""])
    return {
        "list_attr_celeba.txt": attributes.encode(),
        "list_eval_partition.txt": parts.encode(),
    }


def mini(where, part=partition):
    """The official download of 30 generated images."""
    folder(where, lists(part))
    members = {f"img_align_celeba/{n}": d for n, d in FILES.items()}
    zipped(where / "img_align_celeba.zip", members)
    return where


def celeba(root, **keys):
    defaults = {
        "size": 16,
        "crop": "full",
        "attribute": None,
        "flip": True,
        "shift": 0.0,
        "corrupt": "error",
    }
    return CelebA(str(root), **{**defaults, **keys})


def known(pixels, box, size):
    image = Image.open(io.BytesIO(pixels)).crop(box)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def pixels(tensor):
    return tensor.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("place", "root"),
    [("celeba", "."), ("CelebA", "."), (".", "."), ("celeba", "celeba"), ("celeba", "other")],
)
def test_files_are_found(tmp_path, place, root):
    mini(tmp_path / place)
    data = celeba(tmp_path / root)
    assert (data.count, data.spec.shape, data.spec.classes) == (20, (3, 16, 16), None)
    assert data.load("train").y is None


def test_the_drive_and_an_unpacked_folder(tmp_path):
    mini(tmp_path / "a" / "celeba")
    drive = tmp_path / "b" / "CelebA"
    folder(drive / "Img" / "img_align_celeba", FILES)
    for name, part in (("list_attr_celeba.txt", "Anno"), ("list_eval_partition.txt", "Eval")):
        folder(drive / part, {name: lists()[name]})
    one, two = (celeba(tmp_path / r, attribute="Male") for r in "ab")
    for split in ("train", "test"):
        (u, y, _), (v, z, _) = one.load(split), two.load(split)
        assert torch.equal(u, v)
        assert torch.equal(y, z)


def test_partitions_are_kept(tmp_path, capsys):
    data = celeba(mini(tmp_path))
    u, v = data.load("train").x, data.load("test").x
    box = (0, 20, 178, 198)
    assert (pixels(u) == [known(FILES[n], box, 16) for n in NAMES[:20]]).all()
    assert (pixels(v) == [known(FILES[n], box, 16) for n in NAMES[26:]]).all()
    assert "held out" not in capsys.readouterr().err
    assert "told" not in data.notes


def test_without_a_test_part_validation_is_held_out(tmp_path):
    data = celeba(mini(tmp_path, lambda i: int(i >= 20)))
    assert (data.count, len(data.load("test").x)) == (20, 10)


def test_mixed_partitions_stay_apart(tmp_path):
    data = celeba(mini(tmp_path, lambda i: 2 * (i % 3 == 0)))
    u, v = data.load("train").x, data.load("test").x
    box = (0, 20, 178, 198)
    train = [n for i, n in enumerate(NAMES) if i % 3]
    assert (pixels(u) == [known(FILES[n], box, 16) for n in train]).all()
    assert (pixels(v) == [known(FILES[n], box, 16) for n in NAMES[::3]]).all()


@pytest.mark.parametrize("why", ["all are 0", "no list"])
def test_no_usable_split_holds_out_a_tenth_said_once_and_recorded(tmp_path, capsys, why):
    mini(tmp_path, lambda i: 0)
    if why == "no list":
        (tmp_path / "list_eval_partition.txt").unlink()
    data = celeba(tmp_path)
    assert data.count == 27
    data.load("train")
    said = capsys.readouterr().err
    assert said.count("no usable held-out split") == 1
    assert "the last 10 % by name" in said
    assert "no usable held-out split" in data.notes["told"][0]
    again = celeba(tmp_path)
    assert (
        pixels(again.load("test").x)[0] == known(FILES[NAMES[27]], (0, 20, 178, 198), 16)
    ).all()
    assert capsys.readouterr().err == ""
    assert again.notes == data.notes


@pytest.mark.parametrize(
    ("crop", "whole", "half"),
    [
        ("full", (0, 20, 178, 198), (0, 10, 89, 99)),
        (148, (15, 35, 163, 183), (7, 17, 81, 91)),
        (140, (19, 39, 159, 179), (9, 19, 79, 89)),
    ],
)
def test_crops_scale_with_the_width(tmp_path, crop, whole, half):
    small = encoded(picture(5, 89, 109), "JPEG")
    files = {"000001.jpg": FILES["000001.jpg"], "000002.jpg": small}
    folder(tmp_path / "img_align_celeba", files)
    data = celeba(tmp_path, crop=crop)
    u, v = (pixels(data.load(split).x)[0] for split in ("train", "test"))
    assert (u == known(files["000001.jpg"], whole, 16)).all()
    assert (v == known(small, half, 16)).all()


def test_an_image_without_the_square_is_not_padded(tmp_path):
    folder(tmp_path / "img_align_celeba", FILES | {"flat.jpg": encoded(picture(1, 178, 100))})
    with pytest.raises(DataError, match=r"flat\.jpg is corrupt .*no square of 178"):
        celeba(tmp_path).load("train")


def test_attributes_are_labels(tmp_path):
    mini(tmp_path)
    one = celeba(tmp_path, attribute="Male")
    assert one.names == ["not Male", "Male"]
    assert one.spec.classes == 2
    assert one.load("train").y.tolist() == [bits(i)[1] for i in range(20)]
    two = celeba(tmp_path, attribute=["Smiling", "Bald"])
    assert two.names[2] == "Smiling, not Bald"
    assert two.spec.classes == len(two.names) == 4
    assert two.load("test").y.tolist() == [2 * bits(i)[2] + bits(i)[0] for i in range(26, 30)]
    assert two.load("test").y.dtype == torch.int64


def test_bad_attributes(tmp_path):
    mini(tmp_path)
    with pytest.raises(ConfigError, match=r"no attribute 'smiling'\. Did you mean 'Smiling'"):
        celeba(tmp_path, attribute="smiling")
    for bad in (["Male", "Male"], [f"a{i}" for i in range(7)]):
        with pytest.raises(ValueError, match="up to 6 different"):
            celeba(tmp_path, attribute=bad)
    assert celeba(tmp_path, attribute=[]).spec.classes is None


def test_labels_missing_or_damaged(tmp_path):
    path = mini(tmp_path) / "list_attr_celeba.txt"
    good = path.read_bytes()
    row = good.splitlines()[7]
    for bad, says in {
        good.replace(row, row[:12]): "damaged in the row of 000006.jpg",
        good.replace(row, row.replace(b"1", b"x")): "damaged in the row of",
        good.replace(row + b"\r\n", b""): "no row for 000006.jpg",
        b"": "does not begin with a count",
        b"<html>\n</html>\n": "does not begin with a count",
    }.items():
        path.write_bytes(bad)
        with pytest.raises(DataError, match=says):
            celeba(tmp_path, attribute="Male").load("train")
    path.unlink()
    with pytest.raises(DataError, match=r"needs list_attr_celeba\.txt .*data\.attribute=null"):
        celeba(tmp_path, attribute="Male")
    celeba(tmp_path).load("train")


def test_absent_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError) as e:
        celeba(tmp_path / "data")
    for part in ("data.root=", "https://mmlab", "img_align_celeba.zip", "cannot be downloaded"):
        assert part in str(e.value)
    mini(tmp_path)
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 7\n")
    with pytest.raises(DataError, match="partition '7'"):
        celeba(tmp_path)


# --- the real files ------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "celeba_mini").is_dir(), reason="no real files here")
def test_eight_real_originals(tmp_path):
    home = tmp_path / "celeba"
    home.mkdir()
    for file in (SHARED / "celeba_mini").iterdir():
        (home / file.name).symlink_to(file)
    data = celeba(tmp_path, size=64, attribute=["Male", "Smiling"])
    (u, y, _), (v, z, _) = data.load("train"), data.load("test")
    with zipfile.ZipFile(home / "img_align_celeba.zip") as packed:
        files = [packed.read(f"img_align_celeba/{i:06d}.jpg") for i in range(1, 9)]
    wanted = [known(f, (0, 20, 178, 198), 64) for f in files]
    assert (np.concatenate([pixels(u), pixels(v)]) == wanted).all()
    assert torch.cat([y, z]).tolist() == [1, 1, 2, 0, 0, 0, 2, 2]


@pytest.mark.skipif(not (SHARED / "celeba").is_dir(), reason="no real files here")
def test_nine_thousand_real_faces():
    """Against a reading without any of our code."""
    data = celeba(SHARED, size=64, attribute="Smiling")
    (u, y, _), (v, z, _) = data.load("train"), data.load("test")
    assert (len(u), len(v)) == (8100, 900)
    with zipfile.ZipFile(SHARED / "celeba" / "img_align_celeba.zip") as packed:
        for i in (0, 1, 4711, 8099, 8100, 8999):
            wanted = known(packed.read(f"img_align_celeba/{i + 1:06d}.jpg"), (0, 10, 89, 99), 64)
            assert (
                pixels(u[i : i + 1] if i < 8100 else v[i - 8100 : i - 8099])[0] == wanted
            ).all()
    lines = (SHARED / "celeba" / "list_attr_celeba.txt").read_text().splitlines()
    column = lines[1].split().index("Smiling")
    assert torch.cat([y, z]).tolist() == [int(w.split()[1 + column]) > 0 for w in lines[2:]]
    assert not os.path.lexists(SHARED / "celeba" / ".genlab-cache")
