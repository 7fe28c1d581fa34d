"""Miniature data sets in the official layout of MNIST, for tests."""

import gzip
import struct

import numpy as np

from genlab.data.mnist import MNIST

FILES = tuple(MNIST.pinned)


def idx(values):
    values = np.asarray(values, np.uint8)
    return (
        bytes([0, 0, 8, values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + bytes(values.tobytes())
    )


def mini(seed=0, train=30, test=20, side=7):
    """File -> unpacked contents of a small set, and the arrays behind them."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for prefix, n in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (n, side, side), np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = rng.integers(0, 10, n, np.uint8)
    return {file: idx(values) for file, values in arrays.items()}, arrays


def write(folder, contents, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in contents.items():
        if zipped:
            (folder / f"{file}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / file).write_bytes(data)


def mnist(root, cls=MNIST, size=None, download=False):
    return cls(str(root), size=size, flip=False, shift=0.0, download=download)
