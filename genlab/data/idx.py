"""Reader of idx files, the format of MNIST and its relatives, plain or gzipped.

An idx file is four bytes (0, 0, 8 for uint8, number of dimensions D), D sizes as big-endian
uint32, then the values. What a header promises is held against the size of the file before
anything is allocated: a damaged or hostile file costs a few kilobytes of reading.

Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import math
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from genlab.core.errors import DataError

__all__ = ["idx_bytes", "idx_shape", "inflate", "read_idx"]

LIMIT = 4 * 2**30  # bytes; the largest set of this format, unpacked, has 0.5 GB
GZIP = b"\x1f\x8b"
RATIO = 1032  # deflate cannot pack more than this many bytes into one


def idx_shape(path: Path, dims: int) -> tuple[int, ...]:
    """Sizes of an idx file of uint8, from its header alone.

    path: plain or gzipped; told apart by the first bytes, since browsers unpack silently.
    dims: 3 for images [N, H, W], 1 for labels [N].
    Raises DataError for a file that cannot be read, is none of this kind, or is cut short.
    """
    start = 4 + 4 * dims
    with _reading(path) as file:
        packed = file.seek(0, 2)
        file.seek(0)
        head = file.read(4096)
        zipped = head[:2] == GZIP
        if zipped and packed > 18:  # the least that a gzip file has
            file.seek(-4, 2)
            total = int.from_bytes(file.read(4), "little")  # unpacked size modulo 4 GiB
        else:
            total = packed
    if not packed:
        raise DataError(f"{path} is empty; replace it by the official file")
    if zipped:
        try:
            head = zlib.decompressobj(31).decompress(head, start)
        except zlib.error:
            raise _damaged(path, "its first block cannot be unpacked") from None
    magic = bytes([0, 0, 8, dims])
    if len(head) >= 4 and head[:4] != magic:
        kind = {1: "labels", 3: "images"}.get(dims, f"{dims}-dimensional values")
        raise DataError(
            f"{path} is no idx file of {kind}: it begins with {head[:4].hex(' ')} instead of "
            f"{magic.hex(' ')}; replace it by the official file"
        )
    if len(head) < start:
        raise _damaged(path, "its header is incomplete")
    shape = struct.unpack(f">{dims}I", head[4:start])
    need = start + math.prod(shape)
    size = " x ".join(map(str, shape))
    if need == start:
        raise DataError(f"{path} holds nothing ({size}); replace it by the official file")
    if need > LIMIT:
        raise _damaged(path, f"its header promises {size} values, more than 4 GiB")
    if total != need % 2**32 or (zipped and need > packed * RATIO):
        raise _damaged(path, f"its header promises {need} bytes, the file has {total}")
    return shape


def idx_bytes(path: Path, dims: int) -> bytes:
    """Whole unpacked contents of an idx file, checked against its header and checksum.

    Raises DataError as `idx_shape` does, and for gzip data that are damaged inside.
    """
    need = 4 + 4 * dims + math.prod(idx_shape(path, dims))
    with _reading(path) as file:
        data = file.read()
    if data[:2] == GZIP:
        try:
            data = inflate(data, need)
        except ValueError as e:
            raise _damaged(path, str(e)) from None
    if len(data) != need:
        raise _damaged(path, f"its header promises {need} bytes, the file has {len(data)}")
    return data


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Values of an idx file: uint8, [N, H, W] for images (dims 3), [N] for labels (dims 1).

    Raises DataError as `idx_bytes` does.
    """
    data = idx_bytes(path, dims)
    shape = struct.unpack_from(f">{dims}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()


def inflate(data: bytes, length: int) -> bytes:
    """Unpacked bytes of one gzip stream, at most `length`; ValueError for more, fewer or damage.

    The limit is given to zlib, so a stream that would swell beyond it is never unpacked.
    """
    stream = zlib.decompressobj(31)
    try:
        out = stream.decompress(data, length + 1)
    except zlib.error as e:
        raise ValueError(f"gzip says: {e}") from None
    if not stream.eof or len(out) != length:
        raise ValueError(f"it does not unpack to {length} bytes")
    return out


def _damaged(path: Path, how: str) -> DataError:
    return DataError(f"{path} is damaged or cut short ({how}); replace it by the official file")


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        # a pipe or device in this place would block or never end
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "folder" if path.is_dir() else "device or pipe"
            raise DataError(f"{path} is a {kind} where a file is expected; put the file there")
        with path.open("rb") as file:
            yield file
    except OSError as e:
        reason = e.strerror or str(e)
        raise DataError(f"{path} cannot be read ({reason}); check the file and who may") from e
