"""One image by the stated rule: every mode against its formula, damage and bombs refused."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from genlab.core.errors import Refused
from genlab.data.image import PIXELS, Corrupt, ImageTransform, centre_square, open_image
from tests.helpers.image_files import encoded, huge, picture

RGB = picture()


def read(data, channels=3, size=None, crop=None):
    pixels, done = ImageTransform(channels, size, crop)(open_image(data, "x.png"))
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == channels
    return pixels.astype(int), done


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "JPEG", "GIF"])
def test_plain_images_of_every_kind_are_as_pillow_reads_them(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(RGB, kind, **options)
    pixels, done = read(data)
    assert done == ({"palette to RGB"} if kind == "GIF" else set())
    error = np.abs(pixels - RGB)
    assert error.max() == 0 or (kind in ("JPEG", "GIF") and error.mean() < 12)


def test_grey_repeats_and_colour_becomes_luma():
    grey = RGB[..., 0]
    pixels, done = read(encoded(grey))
    assert (pixels == grey[..., None]).all()
    assert done == {"grey to RGB"}
    assert read(encoded(grey), 1)[1] == set()
    pixels, done = read(encoded(RGB), 1)
    assert done == {"colour to grey"}
    assert np.abs(pixels[..., 0] - RGB @ [0.299, 0.587, 0.114]).max() < 1
    bits = grey > 128
    assert (read(encoded(Image.fromarray(bits)), 1)[0][..., 0] == 255 * bits).all()


def test_sixteen_bits_are_scaled():
    values = np.linspace(0, 65535, 120).astype(np.uint16).reshape(10, 12)
    pixels, done = read(encoded(Image.fromarray(values)), 1)
    assert (pixels[..., 0] == np.rint(values / 257)).all()
    assert done == {"16-bit grey to 8 bits"}


def test_of_sixteen_bit_colours_the_high_byte_is_taken_and_counted():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    values = np.random.default_rng(0).integers(0, 65536, (5, 4, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    size = struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size)
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pixels, done = read(png)
    assert (pixels == values >> 8).all()
    assert done == {"16-bit colours to 8 bits"}


def test_an_orientation_that_says_nothing_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 0
    assert read(encoded(RGB, exif=exif))[1] == set()


def test_transparency_lies_over_white():
    alpha = np.linspace(0, 255, 120).astype(np.uint8).reshape(10, 12, 1)
    pixels, done = read(encoded(np.concatenate([RGB, alpha], -1)))
    share = alpha / 255
    assert np.abs(pixels - (share * RGB + (1 - share) * 255)).max() <= 1
    assert done == {"transparency over white"}
    grey = np.concatenate([RGB[..., :1], alpha], -1)
    pixels, done = read(encoded(Image.fromarray(grey, "LA")), 1)
    assert np.abs(pixels - (share * RGB[..., :1] + (1 - share) * 255)).max() <= 1
    assert done == {"transparency over white"}
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    pixels, _ = read(encoded(palette, transparency=0))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[1, 1].tolist() == [40, 50, 60]
    assert read(encoded(palette))[1] == {"palette to RGB"}


def test_cmyk_becomes_rgb():
    inks = (40, 90, 10, 60)
    pixels, done = read(encoded(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100))
    wanted = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
    assert np.abs(pixels - wanted).max() <= 3
    assert done == {"CMYK to RGB"}


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, np.rot90),
    ],
)
def test_exif_turns(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, done = read(encoded(RGB, exif=exif))
    assert (pixels == turn(RGB)).all()
    assert done == {"turned by EXIF"}


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    pixels, done = read(data)
    assert (pixels == [255, 0, 0]).all()
    assert "first frame of an animation" in done


def test_crop_and_resize_are_those_of_pillow():
    wide = picture(3, 50, 30)
    pixels, done = read(encoded(wide), size=16, crop=centre_square)
    known = Image.fromarray(wide).crop((10, 0, 40, 30)).resize((16, 16), Image.Resampling.BICUBIC)
    assert (pixels == np.asarray(known)).all()
    assert done == set()
    assert read(encoded(RGB), size=16, crop=centre_square)[1] == {"enlarged"}


PNG, JPEG = encoded(picture(1, 64, 64)), encoded(picture(1, 64, 64), "JPEG")
DAMAGED = {
    "empty": b"",
    "text": b"this is no image at all\n",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "cut jpeg": JPEG[: len(JPEG) // 2],
    "cut png": PNG[: len(PNG) // 2],
    "flipped png": PNG[:60] + bytes([PNG[60] ^ 0xFF]) + PNG[61:],
    "header alone": PNG[:33],
    "rare kind": encoded(picture(), "TIFF"),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_images_are_corrupt(how):
    with pytest.raises(Corrupt):
        read(DAMAGED[how])


@pytest.mark.parametrize("side", [20_000, 60_000, 8193])
def test_bombs_are_refused_from_the_header(side):
    assert side**2 > PIXELS
    data = huge(side, side)
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match=r"x\.png promises"):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
