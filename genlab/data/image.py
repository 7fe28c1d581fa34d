"""One stored image as bytes of a tensor: what is opened, how it is converted, what is refused.

The rule, in this order; all but the plain cases are counted and said once:

- JPEG, PNG, WebP, BMP and GIF are opened, told apart by their contents; of an animation the first
  frame is taken.
- More than PIXELS pixels or BYTES bytes are refused before anything is decoded.
- An EXIF orientation is applied.
- 16-bit grey is scaled to 8 bits by 255/65535, of 16-bit colours the high byte is taken; palette
  and CMYK become RGB; transparency is laid over white (that of 16-bit grey is not seen).
- A grey image in a set of colours repeats its channel; a colour image in a grey set becomes its
  luma 0.299 R + 0.587 G + 0.114 B (ITU-R 601).
- Anything else is corrupt: it cannot be opened, or ends too early, or fails its checksum.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from genlab.core.errors import Refused

__all__ = [
    "BYTES",
    "Corrupt",
    "ImageTransform",
    "centre_crop",
    "centre_square",
    "convert",
    "no_pillow_warnings",
    "open_image",
]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # readers of rarer formats are rarely tested
PIXELS = 2**26  # of one image; Pillow warns from 1.3 times and stops at 2.7 times as many
BYTES = 2**28  # of one file, as stored
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")

Box = tuple[int, int, int, int]


class Corrupt(Exception):
    """An image that cannot be decoded; the message says why."""


class ImageTransform:
    """How the images of a set become arrays of one shape.

    channels: 3 colours or 1 grey. size: side in pixels, None as stored. crop: (width, height) ->
    box (left, upper, right, lower) inside; None takes the whole image.
    """

    def __init__(
        self, channels: int, size: int | None, crop: Callable[[int, int], Box] | None
    ) -> None:
        self.channels, self.size, self.crop = channels, size, crop

    def __call__(self, image: Image.Image) -> tuple[np.ndarray, set[str]]:
        """An opened image -> (uint8 [H, W, C], what was done to it in words).

        Raises Corrupt for an image that is damaged inside.
        """
        with _corrupt():
            picture, done = convert(image, self.channels)
            if self.crop is not None:
                picture = picture.crop(self.crop(*picture.size))
            if self.size is not None and picture.size != (self.size, self.size):
                if min(picture.size) < self.size:
                    done.add("enlarged")
                picture = picture.resize((self.size, self.size), Image.Resampling.BICUBIC)
            return np.asarray(picture).reshape(picture.height, picture.width, -1), done


def centre_crop(width: int, height: int, side: int) -> Box:
    """The square of `side` pixels in the middle, half a pixel up and left where it must be."""
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def centre_square(width: int, height: int) -> Box:
    """The centred square of the shorter side."""
    return centre_crop(width, height, min(width, height))


def open_image(data: bytes, name: str) -> Image.Image:
    """The image in the bytes of a file, its pixels not decoded yet.

    name: of the file, for messages. Raises Corrupt, and Refused for a decompression bomb.
    """
    if not data:
        raise Corrupt("it is empty")
    with _corrupt():
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise _bomb(name, "far too many") from None
    if image.width * image.height > PIXELS:
        raise _bomb(name, f"{image.width} x {image.height}")
    return image


def _bomb(name: str, many: str) -> Refused:
    return Refused(
        f"{name} promises {many} pixels, more than the {PIXELS:,} an image may have here; "
        "remove it or make it smaller"
    )


def convert(image: Image.Image, channels: int) -> tuple[Image.Image, set[str]]:
    """An image of mode "L" (channels 1) or "RGB" (3), decoded; and what was done, in words."""
    done = set()
    if getattr(image, "n_frames", 1) > 1:
        done.add("first frame of an animation")
    tiles = getattr(image, "tile", ())  # of an image from a file: how its values are stored
    if any(";16" in str(tile[3]) for tile in tiles) and not image.mode.startswith("I"):
        done.add("16-bit colours to 8 bits")
    image.load()
    if image.getexif().get(0x0112, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        done.add("turned by EXIF")
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        done.add("16-bit grey to 8 bits")
    elif "A" in mode or "a" in mode or "transparency" in image.info:
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image.convert("RGBA"))
        image = over.convert("L" if mode in GREY else "RGB")
        done.add("transparency over white")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "RGB"):
        image = image.convert("RGB")
        done.add({"P": "palette to RGB"}.get(mode, f"{mode} to RGB"))
    wanted = "L" if channels == 1 else "RGB"
    if image.mode != wanted:
        done.add("colour to grey" if channels == 1 else "grey to RGB")
        image = image.convert(wanted)
    return image, done


@contextmanager
def no_pillow_warnings() -> Iterator[None]:
    """Without Pillow's warnings: bombs are refused earlier, odd metadata is no concern here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextmanager
def _corrupt() -> Iterator[None]:
    """Turns what Pillow's decoders raise for damaged data into Corrupt."""
    try:
        yield
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        ArithmeticError,
        struct.error,
        zlib.error,
    ) as e:
        known = isinstance(e, UnidentifiedImageError)
        raise Corrupt("it is no image of a known kind" if known else f"{e}") from e
