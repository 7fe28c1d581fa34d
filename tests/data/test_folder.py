"""Folders, zip files and arrays of images: what is found, how it is split, what is refused."""

import os
import stat
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.core.errors import ConfigError, DataError, Refused
from genlab.data.folder import Folder
from tests.helpers.image_files import encoded, folder, huge, picture, zipped

PICTURES = {f"{i:02d}.png": picture(i) for i in range(20)}
FILES = {name: encoded(a) for name, a in PICTURES.items()}
BAD = b"<html>not found</html>"


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def images(path, root=".", **keys):
    defaults = {"size": None, "channels": "auto", "labels": "folders", "flip": False,
                "shift": 0.0, "corrupt": "error"}  # fmt: skip
    return Folder(str(root), path=str(path), **{**defaults, **keys})


def both(data):
    """(all images [N, H, W, C], labels) of both splits, training first."""
    (u, y, _), (v, z, _) = data.load("train"), data.load("test")
    assert len(u) == data.count
    assert u.dtype == torch.uint8
    assert u.shape[1:] == v.shape[1:] == data.spec.shape
    whole = torch.cat([u, v]).permute(0, 2, 3, 1).numpy()
    return whole, None if y is None else torch.cat([y, z]).tolist()


STACKED = np.stack(list(PICTURES.values()))


def test_a_folder_in_the_order_of_names_with_the_last_tenth_held_out(tmp_path):
    shuffled = dict(sorted(FILES.items(), key=lambda f: f[0][::-1]))
    data = images(folder(tmp_path / "a", {**shuffled, ".hidden.png": BAD, "notes.txt": b"x"}))
    u, y = both(data)
    assert (u == STACKED).all()
    assert y is None
    assert data.spec.classes is None
    assert data.count == 18
    assert "2 of 20" in data.notes["told"][0]
    assert data.load("train").x.is_contiguous(memory_format=torch.channels_last)


RECORD = b'{"n": 20, "checkpoint": "000000000064"}'
SHEETS = {
    name: encoded(picture(7)) for name in ("grid.png", "trajectory.png", "interpolation.png")
}


@pytest.mark.parametrize("inside", ["", "images/"])
@pytest.mark.parametrize("above", ["", "drawn/"])
def test_pictures_of_samples_are_no_samples(tmp_path, inside, above):
    """Also where the samples lie beside them, as they did before, in a folder above, zipped."""
    made = {f"{inside}{n}": d for n, d in FILES.items()} | SHEETS | {"sample.json": RECORD}
    made = {f"{above}{name}": data for name, data in made.items()}
    for place in (folder(tmp_path / "a", made), zipped(tmp_path / "a.zip", made)):
        data = images(place)
        assert data.spec.classes is None and (both(data)[0] == STACKED).all()


def test_a_picture_called_grid_is_an_image_where_nobody_has_sampled(tmp_path):
    data = images(folder(tmp_path / "a", {**FILES, "grid.png": FILES["00.png"]}))
    assert len(both(data)[0]) == 21


def test_a_zip_file_holds_the_same(tmp_path):
    noise = {"__MACOSX/._00.png": BAD, "photos/.DS_Store": BAD, "photos/read.me": b"x"}
    path = zipped(tmp_path / "a.zip", {f"photos/{n}": d for n, d in FILES.items()} | noise)
    with zipfile.ZipFile(path, "a") as packed:
        link = zipfile.ZipInfo("photos/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
        packed.mkdir("photos/empty.png")
    data = images("a.zip", root=tmp_path)
    assert (both(data)[0] == STACKED).all()
    assert data.names is None


def test_sub_folders_are_classes_each_with_its_own_held_out_tenth(tmp_path):
    names = {f"all/{'cats' if i % 2 else 'dogs'}/{i % 3}/{n}": d
             for i, (n, d) in enumerate(FILES.items())}  # fmt: skip
    where = folder(tmp_path / "a", names)
    data = images(where)
    assert data.names == ["cats", "dogs"]
    assert data.spec.classes == 2
    _, y = both(data)
    assert sorted(y[:18]) == [0] * 9 + [1] * 9
    assert y[18:] == [0, 1]
    u = data.load("train").x
    first = sorted(names)[0]
    assert (u[0].permute(1, 2, 0).numpy() == PICTURES[first[-6:]]).all()
    assert images(where, labels="none").spec.classes is None
    folder(where, {"bare.png": FILES["00.png"]})
    assert images(where).names is None, "one image lies in no class"


def test_images_outside_the_classes_take_the_labels_away_and_that_is_said(tmp_path):
    files = {f"{c}/{name}": data for c in "ab" for name, data in FILES.items()}
    assert not images(folder(tmp_path / "whole", files)).cautions
    assert not images(folder(tmp_path / "flat", FILES)).cautions
    stray = {"x.png": FILES["00.png"], "y.png": FILES["01.png"]}
    data = images(folder(tmp_path / "mixed", files | stray))
    assert data.names is None
    (said,) = data.cautions
    assert "2 of 42" in said and "x.png" in said and "data.labels=none" in said
    assert not images(tmp_path / "mixed", labels="none").cautions


def test_size_crops_the_centre_and_channels_convert(tmp_path):
    data = images(folder(tmp_path / "a", FILES), size=8, channels=1)
    u, _ = both(data)
    assert data.spec.shape == (1, 8, 8)
    for pixels, known in zip(u, PICTURES.values(), strict=True):
        grey = Image.fromarray(known).convert("L").crop((1, 0, 11, 10))
        resized = np.asarray(grey.resize((8, 8), Image.Resampling.BICUBIC))
        assert (pixels[..., 0] == resized).all()
    assert data.notes["converted"] == {"colour to grey": 20}


def test_conversions_are_counted_and_said(tmp_path, capsys):
    odd = {
        "20.png": encoded(picture(20)[..., 0]),
        "21.png": encoded(Image.fromarray(picture(21)).quantize(16)),
        "22.jpg": encoded(Image.fromarray(picture(22)).convert("CMYK"), "JPEG"),
    }
    data = images(folder(tmp_path / "a", FILES | odd))
    both(data)
    wanted = {"grey to RGB": 1, "palette to RGB": 1, "CMYK to RGB": 1}
    assert data.notes["converted"] == wanted
    said = capsys.readouterr().err
    assert "; 1 CMYK to RGB; 1 grey to RGB; 1 palette to RGB" in said
    both(images(tmp_path / "a"))
    assert capsys.readouterr().err == ""


# --- arrays --------------------------------------------------------------------------------------

ARRAYS = {
    "nhwc": STACKED,
    "nchw": STACKED.transpose(0, 3, 1, 2),
    "nhw": STACKED[..., 0],
    "nhw1": STACKED[..., :1],
}


@pytest.mark.parametrize("how", ARRAYS)
def test_arrays_are_mapped_as_they_are(tmp_path, how):
    np.save(tmp_path / "a.npy", ARRAYS[how])
    data = images(tmp_path / "a.npy")
    u, _ = both(data)
    assert (u == (STACKED if "c" in how else STACKED[..., :1])).all()
    assert data.count == 18
    assert not (tmp_path / ".genlab-cache").exists()
    resized, _ = both(images(tmp_path / "a.npy", size=8))
    assert resized.shape[1:3] == (8, 8)


OTHERS = {
    "float32 [20, 10, 12]": np.zeros((20, 10, 12), np.float32),
    "uint8 [20, 10]": np.zeros((20, 10), np.uint8),
    "uint8 [20, 10, 12, 5]": np.zeros((20, 10, 12, 5), np.uint8),
    "uint8 [0, 8, 8]": np.zeros((0, 8, 8), np.uint8),
    "cannot": np.array([{"a": 1}], object),
}


@pytest.mark.parametrize("says", OTHERS)
def test_other_arrays_are_refused_with_what_was_found(tmp_path, says):
    np.save(tmp_path / "a.npy", OTHERS[says], allow_pickle=True)
    with pytest.raises(DataError) as e:
        images(tmp_path / "a.npy")
    assert says in str(e.value) or "no array that can be read" in str(e.value)


def test_cut_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", STACKED)
    whole = (tmp_path / "a.npy").read_bytes()
    for data in (whole[:-100], whole[:40], b"", b"text"):
        (tmp_path / "a.npy").write_bytes(data)
        with pytest.raises(DataError, match=r"a\.npy is no array"):
            images(tmp_path / "a.npy")


# --- bad input -----------------------------------------------------------------------------------


def test_places_without_images(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.path is not set"):
        Folder(".", path=None, size=None, channels="auto", labels="none", flip=False,
               shift=0.0, corrupt="error")  # fmt: skip
    (tmp_path / "empty").mkdir()
    folder(tmp_path / "texts", {"a.txt": b"a", "b/c.txt": b"b", "d.md": b"d"})
    folder(tmp_path / "one", {"a.png": FILES["00.png"]})
    zipped(tmp_path / "texts.zip", {"a.txt": b"a"})
    for name, says in {
        "nowhere": "is not there",
        "empty": "holds no images: found nothing",
        "texts": "holds no images: found 2 .txt, 1 .md",
        "one": "has 1 image",
        "texts.zip": "found 1 .txt",
        "texts/a.txt": "is no folder and no .zip",
    }.items():
        with pytest.raises(DataError, match=says):
            images(name, root=tmp_path)


def test_mixed_sizes_name_both_files_and_the_key(tmp_path):
    where = folder(tmp_path / "a", FILES | {"21.png": encoded(picture(1, 13, 10))})
    with pytest.raises(DataError, match=r"12 x 10 .*00\.png.* 13 x 10 .*21\.png.*data\.size"):
        images(where).load("train")
    assert not list(where.glob(".genlab-cache/*.part"))
    assert images(where, size=8).load("train").x.shape == (19, 3, 8, 8)


def test_corrupt_images_are_an_error_or_skipped_up_to_a_percent(tmp_path, capsys):
    many = {f"{i:03d}.png": FILES[f"{i % 20:02d}.png"] for i in range(200)}
    where = folder(tmp_path / "a", many | {"013.png": BAD})
    with pytest.raises(DataError, match=r"013\.png is corrupt.*data\.corrupt=skip"):
        images(where).load("train")
    data = images(where, corrupt="skip")
    u, _ = both(data)
    assert len(u) == 199
    assert data.count == 179
    assert list(data.notes["skipped"]) == ["013.png"]
    assert "1 corrupt ones skipped (013.png)" in capsys.readouterr().err
    assert (u[13] == PICTURES["14.png"]).all(), "the others keep their order"
    again = images(where, corrupt="skip")
    assert again.count == 179
    folder(where, {f"{i:03d}.png": BAD for i in (20, 30)})
    with pytest.raises(DataError, match="more than 1 %"):
        images(where, corrupt="skip").load("train")


def test_bombs_are_refused_even_where_corrupt_images_are_skipped(tmp_path):
    where = folder(tmp_path / "a", FILES | {"bomb.png": huge(20_000, 20_000)})
    for corrupt in ("error", "skip"):
        with pytest.raises(Refused, match="bomb"):
            images(where, size=8, corrupt=corrupt).load("train")


def test_damaged_zip_files(tmp_path):
    path = zipped(tmp_path / "a.zip", FILES)
    whole = path.read_bytes()
    for data in (whole[:-40], whole[: len(whole) // 2], b"", b"PK\x03\x04" + bytes(50)):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.zip is cut short or no zip"):
            images(path)
    broken = bytearray(whole)
    broken[60] ^= 0xFF  # inside the first member
    path.write_bytes(broken)
    with pytest.raises(DataError, match=r"00\.png is corrupt"):
        images(path, size=8).load("train")


def test_hostile_zip_files(tmp_path):
    for name in ("../evil.png", "/evil.png", "a/../../evil.png"):
        path = zipped(tmp_path / "a.zip", {**FILES, name: FILES["00.png"]})
        with pytest.raises(Refused, match="leaves the folder"):
            images(path)
    path = zipped(tmp_path / "a.zip", FILES)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    encrypted = bytes(data[: at + 8]) + b"\x01" + bytes(data[at + 9 :])
    path.write_bytes(encrypted)
    with pytest.raises(DataError, match="encrypted"):
        images(path)
    swollen = bytes(data[: at + 24]) + (2**29).to_bytes(4, "little") + bytes(data[at + 28 :])
    path.write_bytes(swollen)
    with pytest.raises(Refused, match="unpacks to more than"):
        images(path)


@pytest.mark.parametrize("name", ["with space.png", "naïve.png", "日本.png", "🙂.png", "a\nb.png"])
def test_odd_names(tmp_path, name):
    data = images(folder(tmp_path / "a", FILES | {name: encoded(picture(30))}))
    u, _ = both(data)
    assert (u[sorted(FILES | {name: b""}).index(name)] == picture(30)).all()


def test_names_that_are_no_text(tmp_path):
    where = folder(tmp_path / "a", FILES)
    try:
        (where / os.fsdecode(b"zz\xff.png")).write_bytes(encoded(picture(30)))
    except OSError:
        pytest.skip("this file system takes text alone")
    assert (both(images(where))[0][-1] == picture(30)).all()


def test_links_in_circles_end(tmp_path):
    where = folder(tmp_path / "a", {f"b/{n}": d for n, d in FILES.items()})
    (where / "b" / "up").symlink_to(where)
    assert len(both(images(where))[0]) == 20
