"""Images that are rows of a .npy file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from genlab.core.errors import DataError

__all__ = ["Rows"]

CHANNELS = (1, 3)


class Rows:
    """A .npy file of bytes [N, H, W], [N, H, W, C] or [N, C, H, W], mapped into memory.

    array: uint8 [N, H, W, C] with C of 1 or 3, a view of the file; shape: (H, W, C). Where both
    the second and the last size could be channels, the last is.
    Raises DataError, with what was found, for every other array. Nothing is unpickled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError) as e:
            reason = str(e).splitlines()[0]
            raise DataError(f"{path} is no array that can be read ({reason})") from None
        wanted = "wanted are bytes (uint8) [N, H, W], [N, H, W, C] or [N, C, H, W], C of 1 or 3"
        found = f"{array.dtype} {list(array.shape)}"
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
            raise DataError(f"{path} holds {found}; {wanted}")
        if array.ndim == 3:
            array = array[..., None]
        elif array.shape[3] not in CHANNELS:
            if array.shape[1] not in CHANNELS:
                raise DataError(f"{path} holds {found}; {wanted}")
            array = array.transpose(0, 2, 3, 1)
        self.array = array
        self.shape: tuple[int, int, int] = array.shape[1:]
        digits = len(str(len(array) - 1))
        self.names = [f"{i:0{digits}d}" for i in range(len(array))]

    def image(self, name: str) -> Image.Image:
        """The row of a name."""
        row = self.array[int(name)]
        return Image.fromarray(np.ascontiguousarray(row[..., 0] if row.shape[2] == 1 else row))

    def state(self, names: Iterable[str]) -> Iterator[str]:
        """Size and time of change of the file, then the rows."""
        found = self.path.stat()
        yield f"{self.shape} {found.st_size} {found.st_mtime_ns}"
        yield from names
