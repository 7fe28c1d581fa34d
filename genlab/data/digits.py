"""The handwritten digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genlab.core.contract import Spec, Split
from genlab.core.errors import DataError
from genlab.core.registry import register
from genlab.data.images import Images
from genlab.data.resize import resize

__all__ = ["Digits"]

IMAGES = 1797


@register
class Digits(Images):
    """Handwritten digits of 8 x 8 pixels, 1500 to train on and 297 to test.

    The values 0 to 16 (ink in 4 x 4 cells of a bitmap) become round(255/16 value). The test split
    is every sixth image of each digit, from the fifth on, so both splits have all writers and the
    same share of each digit.

    size: None keeps 8. Raises DataError when scikit-learn is absent.

    Reference: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998;
    the 1797 images of its test set.
    """

    count = 1500

    def __init__(self, **images: Any) -> None:
        super().__init__(**images)
        self.spec = Spec((1, self.size or 8, self.size or 8), 10)
        self.names = [str(k) for k in range(10)]
        self.path = _stored()

    def load(self, split: str) -> Split:
        """split "train" or "test" -> uint8 [N, 1, size, size] and labels."""
        values, y = _read(self.path)
        rank = np.empty(IMAGES, np.int64)  # how many images of the same digit come before
        for k in range(10):
            of_digit = np.flatnonzero(y == k)
            rank[of_digit] = np.arange(len(of_digit))
        chosen = (rank % 6 == 4) == {"train": False, "test": True}[split]
        u = np.rint(values[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        return Split(resize(torch.from_numpy(u), self.size), torch.from_numpy(y[chosen]))


def _stored() -> Path:
    """The table inside scikit-learn, found without importing it (which takes about a second)."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits come with scikit-learn, which is absent: pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise DataError(f"digits: this scikit-learn has no {path}; pip install -U scikit-learn")
    return path


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(values [N, 64] in 0..16, labels int64 [N]) of the table: 64 values and the digit a line."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines()
        table = np.array([line.split(",") for line in lines], np.float64)
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise DataError(f"{path} cannot be read ({e}); reinstall scikit-learn") from e
    sound = table.shape == (IMAGES, 65) and table.min() >= 0 and table.max() <= 16
    if not sound or table[:, 64].max() > 9:
        raise DataError(f"{path} is not the known table of digits; reinstall scikit-learn")
    return table[:, :64], table[:, 64].astype(np.int64)
