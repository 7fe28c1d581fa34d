"""The data group: idx files found and refused, resizing, configs, the real sets."""

import gzip
import hashlib
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.errors import DataError
from genlab.data.digits import Digits
from genlab.data.idx import inflate
from genlab.data.mnist import MNIST, FashionMNIST
from genlab.data.resize import resize
from tests.helpers.idx_files import FILES, idx, mini, mnist, write

ROOTS = [os.environ.get("GENLAB_DATA"), Path(__file__).parents[3] / "shared" / "data"]


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(FashionMNIST, "installed", ())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("folder", "root"),
    [
        ("MNIST/raw", "."),
        ("MNIST", "."),
        ("mnist/raw", "."),
        ("mnist", "."),
        ("MNIST/raw", "elsewhere"),  # found through the parent
        ("MNIST/raw", "MNIST"),
        ("MNIST/raw", "MNIST/raw"),
    ],
)
def test_files_are_found_and_read(tmp_path, folder, root, zipped):
    contents, arrays = mini()
    write(tmp_path / folder, contents, zipped)
    data = mnist(tmp_path / root)
    assert data.spec.shape == (1, 7, 7)
    assert data.spec.classes == 10
    assert data.count == 30
    for split, prefix in (("train", "train"), ("test", "t10k")):
        u, y, _ = data.load(split)
        assert u.dtype == torch.uint8
        assert y.dtype == torch.int64
        assert np.array_equal(u.numpy()[:, 0], arrays[f"{prefix}-images-idx3-ubyte"])
        assert np.array_equal(y.numpy(), arrays[f"{prefix}-labels-idx1-ubyte"])


def test_relative_root_and_split_name(tmp_path, monkeypatch):
    write(tmp_path / "data" / "MNIST" / "raw", mini()[0])
    monkeypatch.chdir(tmp_path)
    data = mnist("data")
    assert data.path == tmp_path / "data" / "MNIST" / "raw"
    with pytest.raises(KeyError, match="valid"):
        data.load("valid")


def test_gz_by_name_but_already_unpacked(tmp_path):
    contents, arrays = mini()
    write(tmp_path / "MNIST", {f"{f}.gz": data for f, data in contents.items()}, zipped=False)
    u = mnist(tmp_path).load("test").x
    assert np.array_equal(u.numpy()[:, 0], arrays["t10k-images-idx3-ubyte"])


def test_construction_reads_no_pixels_and_loading_checks_them(tmp_path):
    contents, _ = mini(train=4000)
    write(tmp_path / "MNIST", contents)
    path = tmp_path / "MNIST" / f"{FILES[0]}.gz"
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 0x55
    path.write_bytes(packed)
    data = mnist(tmp_path)
    assert data.count == 4000
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        data.load("train")


def test_another_set_in_the_same_files_is_passed_over(tmp_path, monkeypatch, no_package):
    ours, theirs = mini(1)[0], mini(2)[0]
    for cls, contents in ((MNIST, ours), (FashionMNIST, theirs)):
        digests = {f: (hashlib.sha256(d).hexdigest(), len(d)) for f, d in contents.items()}
        monkeypatch.setattr(cls, "pinned", digests)
    write(tmp_path, theirs)
    assert mnist(tmp_path, FashionMNIST).path == tmp_path
    with pytest.raises(DataError, match=f"{tmp_path} holds fashion_mnist"):
        mnist(tmp_path)
    write(tmp_path / "raw", ours, zipped=False)
    assert mnist(tmp_path).path == tmp_path / "raw"


def test_absent_says_what_goes_where(tmp_path, no_package):
    with pytest.raises(DataError) as e:
        mnist(tmp_path, FashionMNIST)
    message = str(e.value)
    for part in (*FILES, str(tmp_path / "FashionMNIST" / "raw"), "data.download=true"):
        assert part in message
    assert "dataset-fashion-mnist" in message
    assert "\n" not in message
    contents, _ = mini()
    del contents["t10k-labels-idx1-ubyte"]
    write(tmp_path / "FashionMNIST" / "raw", contents)
    with pytest.raises(DataError, match="raw lacks t10k-labels-idx1-ubyte "):
        mnist(tmp_path, FashionMNIST)


# --- bad files -----------------------------------------------------------------------------------


def header(*sizes, dims=3):
    return bytes([0, 0, 8, dims]) + struct.pack(f">{len(sizes)}I", *sizes)


def with_trailer(packed, length):
    return packed[:-4] + struct.pack("<I", length % 2**32)


HUGE = 16 + 4000 * 1000 * 1000
BAD = {
    "empty": (b"", "is empty"),
    "three bytes of gzip": (gzip.compress(b"")[:3], "header is incomplete"),
    "short gzip": (gzip.compress(mini()[0][FILES[0]])[:15], "damaged"),
    "cut gzip": (gzip.compress(mini()[0][FILES[0]])[:-100], "damaged or cut short"),
    "cut plain": (mini()[0][FILES[0]][:-1], "damaged or cut short"),
    "longer plain": (mini()[0][FILES[0]] + b"\0", "damaged or cut short"),
    "cut header": (header(30, 7), "header is incomplete"),
    "cut header in gzip": (gzip.compress(header(30, 7)), "header is incomplete"),
    "web page": (b"<!DOCTYPE html><html>not found</html>", "no idx file of images"),
    "zipped web page": (gzip.compress(b"<!DOCTYPE html>" * 9), "no idx file of images"),
    "labels for images": (mini()[0][FILES[1]], "no idx file of images"),
    "no images": (header(0, 28, 28), "holds nothing"),
    "absurd": (header(2**32 - 1, 2**32 - 1, 2**32 - 1), "more than 4 GiB"),
    "large claim, plain": (header(4000, 1000, 1000) + bytes(99), "damaged or cut short"),
    "large claim, gzip": (
        with_trailer(gzip.compress(header(4000, 1000, 1000) + bytes(9999)), HUGE),
        "damaged or cut short .its header promises 4000000016 bytes",
    ),
    "other count": (mini(train=29)[0][FILES[0]], "29 images but .* 30 labels"),
    "other shape": (mini(side=6)[0][FILES[0]], r"mixes images of 6 x 6 \(train\) and 7 x 7"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_named_and_costs_no_memory(tmp_path, case):
    data, message = BAD[case]
    folder = tmp_path / "MNIST" / "raw"
    write(folder, mini()[0])
    (folder / f"{FILES[0]}.gz").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as e:
            mnist(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert str(folder) in str(e.value)


def test_folder_pipe_dead_link_and_forbidden_file(tmp_path, monkeypatch):
    folder = tmp_path / "MNIST" / "raw"
    write(folder, mini()[0])
    path = folder / f"{FILES[0]}.gz"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"{path} is a folder"):
        mnist(tmp_path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(DataError, match=f"{path} is a device or pipe"):
        mnist(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        mnist(tmp_path)
    path.unlink()
    write(folder, mini()[0])
    original = Path.open

    def forbidden(self, *a, **k):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return original(self, *a, **k)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(DataError, match=rf"{path} cannot be read \(Permission denied\)"):
        mnist(tmp_path)


def test_label_without_a_name(tmp_path):
    contents, arrays = mini()
    arrays[FILES[1]][3] = 10
    contents[FILES[1]] = idx(arrays[FILES[1]])
    write(tmp_path / "MNIST", contents)
    with pytest.raises(DataError, match="label 10, but mnist has 10"):
        mnist(tmp_path).load("train")


def test_inflate_stops_at_the_limit():
    packed = gzip.compress(bytes(50_000_000))
    assert inflate(gzip.compress(b"abc"), 3) == b"abc"
    tracemalloc.start()
    try:
        for length in (2, 100):
            with pytest.raises(ValueError, match="does not unpack"):
                inflate(packed, length)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    with pytest.raises(ValueError, match="does not unpack"):
        inflate(gzip.compress(b"abc"), 4)


# --- resizing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 9, 28, 40])
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 3, 20, 33)])
def test_resize_is_pillow_image_by_image(shape, size, monkeypatch):
    u = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    monkeypatch.setattr("genlab.data.resize.PIXELS", 4000)  # several chunks, the last one smaller
    expected = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC))
        for plane in u.flatten(0, 1).numpy()
    ]
    assert np.array_equal(resize(u, size).flatten(0, 1).numpy(), np.stack(expected))


def test_size_of_a_set(tmp_path):
    write(tmp_path / "MNIST", mini()[0])
    data = mnist(tmp_path, size=12)
    assert data.spec.shape == (1, 12, 12)
    assert data.load("test").x.shape == (20, 1, 12, 12)
    assert resize(u := torch.zeros(2, 1, 8, 8, dtype=torch.uint8), None) is u
    for size in (3, 1025, 0, -8):
        with pytest.raises(ValueError, match="between 4 and 1024"):
            mnist(tmp_path, size=size)
        with pytest.raises(ValueError, match="between 4 and 1024"):
            Digits(size=size, flip=False, shift=0.0)


# --- configs and the real sets -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "toy", "mnist", "fashion_mnist"])
def test_yaml_builds_its_set(tmp_path, name):
    write(tmp_path / "MNIST" / "raw", mini()[0])
    write(tmp_path / "FashionMNIST" / "raw", mini()[0])
    config = config_of("data", name)
    config.root = str(tmp_path)
    node = OmegaConf.to_container(config)
    assert set(node) == {"name", "root", *registry.signature("data", name).keys}
    data = registry.build("data", node)
    u, y, _ = data.load("train")
    assert u.shape == (data.count, *data.spec.shape)
    assert data.flip is False
    assert data.names is None or len(data.names) == data.spec.classes
    assert int(y.max()) < data.spec.classes


@pytest.mark.parametrize(("cls", "mean", "std"), [
    (MNIST, 0.1307, 0.3081), (FashionMNIST, 0.2860, 0.3530),
])  # fmt: skip
def test_real_set(cls, mean, std):
    data = None
    for root in filter(None, ROOTS):
        try:
            data = mnist(root, cls)
            break
        except DataError:
            continue
    if data is None:
        pytest.skip(f"{cls.name} is neither in $GENLAB_DATA nor installed")
    assert data.spec.shape == (1, 28, 28)
    assert data.count == 60_000
    for split, prefix, n in (("train", "train", 6000), ("test", "t10k", 1000)):
        u, y, _ = data.load(split)
        for values, kind in ((u[:, 0], "images-idx3"), (y, "labels-idx1")):
            digest = hashlib.sha256(idx(values)).hexdigest()
            assert digest == data.pinned[f"{prefix}-{kind}-ubyte"][0]
        if cls is FashionMNIST:
            assert torch.equal(torch.bincount(y), torch.full((10,), n))
        if split == "train":
            grey = u.double() / 255  # the normalisation constants in everybody's scripts
            assert grey.mean() == pytest.approx(mean, abs=5e-5)
            assert grey.std() == pytest.approx(std, abs=5e-5)
