"""What data sets of images share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from genlab.core.contract import Dataset
from genlab.core.schema import Fraction
from genlab.data.resize import check_size

__all__ = ["DownloadedImages", "Images"]


class Images(Dataset):
    """A data set of images.

    size: side in pixels, 4 to 1024, to which others are resampled (bicubic); None as stored.
    flip: whether training mirrors half of the images. shift: the most that it moves them, as a
    share of their sides.
    """

    indifferent = (*Dataset.indifferent, "flip", "shift")

    def __init__(self, *, size: int | None, flip: bool, shift: Fraction) -> None:
        """Raises ValueError for a size outside 4 to 1024."""
        check_size(size)
        self.size, self.flip, self.shift = size, flip, shift


class DownloadedImages(Images):
    """Images that are fetched when they are absent.

    root: data.root, absolute. download: whether absent files are downloaded to a folder of root.
    """

    indifferent = (*Images.indifferent, "download")

    def __init__(self, root: str, *, download: bool, **images: Any) -> None:
        super().__init__(**images)
        self.root, self.download = Path(os.path.abspath(os.path.expanduser(root))), download
