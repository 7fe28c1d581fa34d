"""The kinds of files in which CIFAR-10 comes, each read without running anything it contains.

Every reader takes `get`, which gives the bytes of a file by its name, and a batch ("train_1" to
"train_5" or "test"), and returns (uint8 [N, 32, 32, 3], labels uint8 [N]).

Formats: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from genlab.core.errors import DataError, Refused

__all__ = ["BATCHES", "binary", "from_folder", "from_tar", "mosaic", "pickled"]

BATCHES = ("train_1", "train_2", "train_3", "train_4", "train_5", "test")
ROW = 3 * 32 * 32
CAP = 2**26  # bytes of one file; the largest that is known has 31 MB
TOTAL = 2**29  # of an unpacked archive; the official ones have 186 MB

Get = Callable[[str], bytes]
Images = tuple[np.ndarray, np.ndarray]


def official(batch: str) -> str:
    """The stem of a batch's file in the official archives."""
    return "test_batch" if batch == "test" else f"data_batch_{batch[-1]}"


def binary(get: Get, batch: str) -> Images:
    """A .bin file: rows of a label and 3 x 32 x 32 values."""
    data = get(f"{official(batch)}.bin")
    if not data or len(data) % (ROW + 1):
        raise DataError(f"{official(batch)}.bin is cut short or no file of CIFAR-10; get it again")
    rows = np.frombuffer(data, np.uint8).reshape(-1, ROW + 1)
    return _nhwc(rows[:, 1:]), rows[:, 0].copy()


def pickled(get: Get, batch: str) -> Images:
    """A pickled dict with data [N, 3072] and labels, of Python 2 or 3."""
    name = official(batch)
    try:
        found = _Unpickler(io.BytesIO(get(name))).load()
        stored = {_text(k): v for k, v in found.items()}
        data, labels = stored["data"].bytes(ROW), stored["labels"]
        rows = np.frombuffer(data, np.uint8).reshape(-1, ROW)
        y = np.array(labels, np.uint8)
        if y.shape != (len(rows),):
            raise ValueError(f"{len(rows)} images and labels of shape {y.shape}")
    except Refused:
        raise
    except Exception as e:  # pickle promises nothing about what damaged bytes raise
        raise DataError(f"{name} is damaged or no batch of CIFAR-10 ({e}); get it again") from None
    return _nhwc(rows), y


def mosaic(get: Get, batch: str) -> Images:
    """A lossless WebP of 100 x 100 tiles, with labels.npz beside it."""
    name = f"{batch}.webp"
    try:
        image = Image.open(io.BytesIO(get(name)), formats=("WEBP",))
        if image.size != (3200, 3200):
            raise ValueError(f"it has {image.width} x {image.height} pixels, not 3200 x 3200")
        tiles = np.asarray(image.convert("RGB")).reshape(100, 32, 100, 32, 3)
        every = _labels(get("labels.npz"))
        train = every["train"].reshape(5, -1)
        y = every["test"] if batch == "test" else train[int(batch[-1]) - 1]
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as e:
        raise DataError(f"{name} or labels.npz beside it is damaged ({e}); get it again") from None
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3), y


@lru_cache(maxsize=1)
def _labels(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if sum(i.file_size for i in packed.infolist()) > 2**20:
            raise ValueError("labels.npz unpacks to more than a megabyte")
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return {"train": stored["train"], "test": stored["test"]}


def _nhwc(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _text(key: str | bytes) -> str:
    return key.decode("ascii") if isinstance(key, bytes) else key


# --- pickles -------------------------------------------------------------------------------------


class _Array:
    """Stands for an array while a pickle is read: keeps what it is told, computes nothing."""

    def __init__(self, *made_with: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def bytes(self, columns: int) -> bytes:
        """The bytes of a C-contiguous uint8 [N, columns]; ValueError for any other array."""
        _, found, dtype, fortran, data = self.state
        data = data.encode("latin-1") if isinstance(data, str) else data
        if fortran or tuple(found[1:]) != (columns,) or _text(dtype.code) not in ("u1", "|u1"):
            raise ValueError(f"its array is none of bytes [N, {columns}]")
        if len(data) != found[0] * columns:
            raise ValueError("its array is cut short")
        return data


class _Type:
    """Stands for a dtype: keeps its code."""

    def __init__(self, code: str | bytes, *more: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them for Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes encoded as {encoding!r}")
    return text.encode("latin-1")


_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Reads dict, list, text, bytes, numbers and arrays of bytes; refuses every other name.

    Even the allowed names lead to stand-ins of this file, so nothing of numpy sees the pickle.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in, or Refused."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise Refused(
                f"a CIFAR-10 batch asks for {module}.{name}, which a data file has no use for; "
                "do not trust where it came from"
            ) from None


# --- where the files are -------------------------------------------------------------------------


def from_folder(folder: Path) -> Get:
    """Bytes of a file in a folder; DataError for one that cannot be read."""

    def get(name: str) -> bytes:
        path = folder / name
        try:
            if path.stat().st_size > CAP:
                raise DataError(f"{path} is larger than any file of CIFAR-10; get it again")
            return path.read_bytes()
        except OSError as e:
            raise DataError(f"{path} cannot be read ({e.strerror}); get it again") from None

    return get


def from_tar(path: Path) -> Get:
    """Bytes of a member of a .tar.gz by its last name; unpacked in memory, at most TOTAL bytes.

    Only regular files are kept. Raises DataError for an archive that is cut short, Refused for
    one that swells.
    """
    files: dict[str, bytes] = {}
    try:
        with gzip.open(path) as packed, tarfile.open(fileobj=_Limited(packed), mode="r|") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    if member.size > CAP:
                        raise _swells(path)
                    stream = tar.extractfile(member)
                    assert stream is not None
                    files[member.name.rpartition("/")[2]] = stream.read()
    except _TooMuch:
        raise _swells(path) from None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as e:
        raise DataError(f"{path} is cut short or damaged ({e}); get it again") from None

    def get(name: str) -> bytes:
        if name not in files:
            raise DataError(f"{path} has no {name}; get the official archive")
        return files[name]

    return get


def _swells(path: Path) -> Refused:
    return Refused(f"{path} unpacks to more than CIFAR-10 has; get the official archive")


class _TooMuch(Exception):
    """An archive has given more bytes than it may."""


class _Limited(io.RawIOBase):
    """A stream that ends in _TooMuch after TOTAL bytes."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile) -> None:
        self._stream, self._left = stream, TOTAL

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _TooMuch
        return data
