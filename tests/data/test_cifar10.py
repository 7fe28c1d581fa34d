"""CIFAR-10: every official layout in miniature, hostile pickles, and the real set."""

import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.core.errors import DataError, Refused
from genlab.data import cifar_files
from genlab.data.cifar10 import BINARY, CIFAR10, PYTHON

SHARED = Path(__file__).parents[3] / "shared" / "data"
N = 40  # images of a batch of the miniature

README = {
    "train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
}
"""SHA-256 of the images as [N, 32, 32, 3]."""

OFFICIAL = (
    "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
)
"""SHA-256 of data_batch_1.bin to data_batch_5.bin and test_batch.bin, as others publish them."""


def batches(seed=0):
    """Six batches (images [N, 3, 32, 32], labels [N])."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 256, (N, 3, 32, 32), np.uint8), rng.integers(0, 10, N).astype(np.uint8))
        for _ in range(6)
    ]


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(autouse=True)
def pinned(monkeypatch, tmp_path):
    """The miniature is what the class takes for the official set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    made = batches()
    x = np.stack([b[0] for b in made]).transpose(0, 1, 3, 4, 2)
    y = np.stack([b[1] for b in made])
    contents = {"train": (sha(x[:5]), sha(y[:5])), "test": (sha(x[5]), sha(y[5]))}
    monkeypatch.setattr(CIFAR10, "contents", contents)
    monkeypatch.setattr(CIFAR10, "count", 5 * N)
    return x.reshape(-1, 32, 32, 3), y.reshape(-1)


def stems():
    return [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def binary(made):
    return {
        f"{stem}.bin": np.concatenate([y[:, None], x.reshape(N, -1)], 1).tobytes()
        for stem, (x, y) in zip(stems(), made, strict=True)
    }


def pickled(made, protocol=2, keys=str):
    """As Python 3 writes it; `keys=str.encode` gives the bytes keys of the official reader."""
    return {
        stem: pickle.dumps(
            {
                keys("batch_label"): "a batch",
                keys("labels"): y.tolist(),
                keys("data"): x.reshape(N, -1),
                keys("filenames"): [f"{i}.png" for i in range(N)],
            },
            protocol,
        )
        for stem, (x, y) in zip(stems(), made, strict=True)
    }


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def packed(path, files, top):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(directory(top))
        for name, data in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def directory(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def accept(monkeypatch, path):
    pin = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    monkeypatch.setattr(CIFAR10, "archives", {**CIFAR10.archives, path.name: pin})


def cifar(root, **keys):
    return CIFAR10(
        str(root), **{"size": None, "flip": True, "shift": 0.0, "download": False, **keys}
    )


def same(data, pinned):
    (u, y, _), (v, z, _) = data.load("train"), data.load("test")
    assert data.count == len(u)
    assert u.shape[1:] == data.spec.shape
    assert y.dtype == torch.int64
    whole = torch.cat([u, v]).permute(0, 2, 3, 1).numpy()
    return (whole == pinned[0]).all() and (torch.cat([y, z]).numpy() == pinned[1]).all()


PICKLES = {
    "protocol 2": lambda made: pickled(made),
    "protocol 4": lambda made: pickled(made, 4),
    "bytes keys": lambda made: pickled(made, 2, str.encode),
}


@pytest.mark.parametrize("place", ["cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"])
def test_binary_files(tmp_path, pinned, place):
    write(tmp_path / place, binary(batches()))
    assert same(cifar(tmp_path), pinned)
    assert same(cifar(tmp_path / place), pinned), "root may be the folder itself"


@pytest.mark.parametrize("how", PICKLES)
def test_pickles(tmp_path, pinned, how):
    write(tmp_path / "cifar-10-batches-py", PICKLES[how](batches()))
    assert same(cifar(tmp_path), pinned)


def test_a_pickle_of_python_2(tmp_path, pinned):
    """Text of Python 2 is bytes: opcodes written by hand, as the official files have them."""
    made = batches()

    def text(data):
        return b"T" + len(data).to_bytes(4, "little") + data

    files = {}
    for stem, (x, y) in zip(stems(), made, strict=True):
        array = (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01M" + N.to_bytes(2, "little") + b"M\x00\x0c\x86"
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
            b"J\xff\xff\xff\xffK\x00tb\x89" + text(x.tobytes()) + b"tb"
        )
        labels = b"](" + b"".join(b"K" + bytes([k]) for k in y) + b"e"
        files[stem] = b"\x80\x02}(" + text(b"labels") + labels + text(b"data") + array + b"u."
        theirs = pickle.loads(files[stem], encoding="latin1")
        assert (theirs["data"] == x.reshape(N, -1)).all(), "pickle itself reads it so"
    write(tmp_path / "cifar-10-batches-py", files)
    assert same(cifar(tmp_path), pinned)


@pytest.mark.parametrize("name", [BINARY, PYTHON])
def test_archives_by_their_digest(tmp_path, pinned, monkeypatch, name):
    files = binary(batches()) if name == BINARY else pickled(batches())
    path = packed(tmp_path / "cifar10" / name, files, "cifar-10-batches")
    with pytest.raises(DataError, match="is not the official archive"):
        cifar(tmp_path).load("train")
    accept(monkeypatch, path)
    assert same(cifar(tmp_path), pinned)


def test_another_size(tmp_path, pinned):
    write(tmp_path / "cifar-10-batches-bin", binary(batches()))
    data = cifar(tmp_path, size=16)
    u = data.load("test").x
    for ours, image in zip(u, pinned[0][5 * N :], strict=True):
        known = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)
        assert (ours.permute(1, 2, 0).numpy() == np.asarray(known)).all()


def test_the_second_start_reads_no_file(tmp_path, pinned, monkeypatch):
    write(tmp_path / "cifar-10-batches-bin", binary(batches()))
    cifar(tmp_path).load("train")
    monkeypatch.setattr(CIFAR10, "_write", None)
    assert same(cifar(tmp_path), pinned)


# --- bad files -----------------------------------------------------------------------------------


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (open, ("marker", "w")),
        (eval, ("open('marker', 'w')",)),
        (shutil.copy, ("here", "marker")),
        (np.lib.format.open_memmap, ("marker", "w+")),
        (getattr, ("text", "upper")),
    ],
    ids=["open", "eval", "shutil", "numpy", "getattr"],
)
def test_pickles_that_ask_for_code_are_refused(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    files = pickled(batches())
    for evil in ({"labels": Evil(*call)}, Evil(*call), [Evil(*call)]):
        files["data_batch_2"] = pickle.dumps(evil, 2)
        write(tmp_path / "cifar-10-batches-py", files)
        with pytest.raises(Refused, match="has no use for") as e:
            cifar(tmp_path).load("train")
        assert e.value.code == 11
        assert not (tmp_path / "marker").exists()


def test_damaged_pickles(tmp_path):
    made = batches()
    good = pickled(made)
    x, y = made[0]
    odd = [
        {"labels": y.tolist()},
        {"data": 3, "labels": y.tolist()},
        {"data": x.reshape(N, -1).astype(np.float32), "labels": y.tolist()},
        {"data": np.array([{}], object), "labels": y.tolist()},
        {"data": np.asfortranarray(x.reshape(N, -1)), "labels": y.tolist()},
        {"data": x.reshape(N, -1)[:, :100].copy(), "labels": y.tolist()},
        {"data": x.reshape(N, -1), "labels": y.tolist()[:-1]},
        {"data": x.reshape(N, -1), "labels": [300] * N},
        [],
        None,
    ]
    bad = [good["data_batch_1"][:-500], b"", b"<html>", *(pickle.dumps(o, 2) for o in odd)]
    for data in bad:
        write(tmp_path / "cifar-10-batches-py", good | {"data_batch_1": data})
        with pytest.raises(DataError, match="data_batch_1 is damaged"):
            cifar(tmp_path).load("train")


def test_damaged_binary_files(tmp_path):
    good = binary(batches())
    first = good["data_batch_1.bin"]
    other = bytes([first[0], first[1] ^ 1]) + first[2:]
    for data, says in ((first[:-1], "cut short"), (b"", "cut short"), (other, "as published")):
        write(tmp_path / "cifar-10-batches-bin", good | {"data_batch_1.bin": data})
        with pytest.raises(DataError, match=says):
            cifar(tmp_path).load("train")
    write(tmp_path / "cifar-10-batches-bin", good)
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch\.bin cannot be read"):
        cifar(tmp_path).load("test")


def test_damaged_mosaics(tmp_path):
    home = write(tmp_path / "cifar10", {"train_1.webp": b"RIFF"})
    with pytest.raises(DataError, match=r"train_1\.webp or labels\.npz beside it is damaged"):
        cifar(tmp_path).load("train")
    out = io.BytesIO()
    Image.new("RGB", (32, 32)).save(out, "WEBP", lossless=True)
    write(home, {"train_1.webp": out.getvalue()})
    with pytest.raises(DataError, match="32 x 32 pixels, not 3200 x 3200"):
        cifar(tmp_path).load("train")
    out = io.BytesIO()
    Image.new("RGB", (3200, 3200)).save(out, "WEBP", lossless=True)
    write(home, {"train_1.webp": out.getvalue()})
    with pytest.raises(DataError, match=r"labels\.npz cannot be read"):
        cifar(tmp_path).load("train")
    np.savez(home / "labels.npz", train=np.array([{}], object), test=np.zeros(1))
    with pytest.raises(DataError, match=r"labels\.npz beside it is damaged"):
        cifar(tmp_path).load("train")


def test_archives_that_swell_or_are_cut(tmp_path, monkeypatch):
    path = packed(tmp_path / BINARY, binary(batches()), "b")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut short or damaged"):
        cifar_files.from_tar(path)
    with gzip.open(path, "wb") as stream:  # a header that promises 100 MB
        info = tarfile.TarInfo("b/data_batch_1.bin")
        info.size = 10**8
        stream.write(info.tobuf())
    with pytest.raises(Refused, match="unpacks to more"):
        cifar_files.from_tar(path)
    path.write_bytes(whole)
    monkeypatch.setattr(cifar_files, "TOTAL", 10**5)
    with pytest.raises(Refused, match="unpacks to more"):
        cifar_files.from_tar(path)


def test_links_of_an_archive_lead_nowhere(tmp_path):
    (tmp_path / "secret").write_text("x")
    path = tmp_path / BINARY
    with tarfile.open(path, "w:gz") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("../data_batch_1.bin")
            info.type, info.linkname = kind, str(tmp_path / "secret")
            tar.addfile(info)
    with pytest.raises(DataError, match=r"has no data_batch_1\.bin"):
        cifar_files.from_tar(path)("data_batch_1.bin")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([BINARY, "secret"])


def test_absent_says_what_goes_where(tmp_path):
    with pytest.raises(DataError) as e:
        cifar(tmp_path / "nowhere")
    for part in ("data.root=", "data.download=true", BINARY, PYTHON):
        assert part in str(e.value)


def test_download_checks_the_archive(tmp_path, pinned, monkeypatch):
    path = packed(tmp_path / "mirror" / "cifar10" / BINARY, binary(batches()), "b")
    monkeypatch.setenv("GENLAB_MIRROR", (tmp_path / "mirror").as_uri())
    root = tmp_path / "deep" / "data"
    with pytest.raises(DataError, match="not the official ones"):
        cifar(root, download=True)
    assert not root.exists()
    accept(monkeypatch, path)
    assert same(cifar(root, download=True), pinned)
    assert (root / "cifar10" / BINARY).read_bytes() == path.read_bytes()
    shutil.rmtree(tmp_path / "mirror")
    assert same(cifar(root, download=True), pinned)


# --- the real set --------------------------------------------------------------------------------


@pytest.fixture
def real(monkeypatch):
    """Digests and count as they are in the source."""
    monkeypatch.undo()


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="no real files here")
def test_the_real_set_has_the_published_digests(real, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = cifar(SHARED)
    images, labels = {}, {}
    for split, digest in README.items():
        u, y, _ = data.load(split)
        images[split], labels[split] = u.permute(0, 2, 3, 1).numpy(), y.numpy().astype(np.uint8)
        assert sha(images[split]) == digest
    x = np.concatenate([images["train"], images["test"]]).transpose(0, 3, 1, 2)
    y = np.concatenate([labels["train"], labels["test"]])
    for k, digest in enumerate(OFFICIAL):
        rows = slice(10_000 * k, 10_000 * (k + 1))
        file = np.concatenate([y[rows, None], x[rows].reshape(-1, 3072)], 1)
        assert sha(file) == digest, "the official binary file, byte for byte"
    assert data.names[y[0]] == "frog"
    assert data.spec.classes == 10
