"""Grids, strips, animations and scatter plots of samples."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from genlab.core.errors import DiskError
from genlab.run import pictures


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_grid_puts_every_pixel_where_it_belongs() -> None:
    x = noise(6, 3, 64, 64)
    sheet = np.asarray(pictures.grid(x, columns=3, pad=2))
    assert sheet.shape == (2 + 2 * 66, 2 + 3 * 66, 3)
    for i in range(6):
        top, left = 2 + i // 3 * 66, 2 + i % 3 * 66
        assert (sheet[top : top + 64, left : left + 64] == x[i].transpose(1, 2, 0)).all()


def test_small_images_are_enlarged_by_a_whole_factor() -> None:
    x = noise(1, 1, 8, 8)
    sheet = np.asarray(pictures.grid(x, pad=0))
    assert sheet.shape == (56, 56)
    assert (sheet == np.kron(x[0, 0], np.ones((7, 7), np.uint8))).all()


@pytest.mark.parametrize(
    ("n", "columns"), [(1, 1), (2, 2), (7, 3), (10, 5), (12, 4), (16, 4), (64, 8), (80, 10)]
)
def test_columns_fill_the_rows_where_they_can(n: int, columns: int) -> None:
    assert pictures.grid(noise(n, 1, 64, 64), pad=0).width == 64 * columns


def test_strip_rows_touch_inside_and_are_apart() -> None:
    x = noise(2, 4, 1, 64, 64)
    sheet = np.asarray(pictures.strip(x, pad=6))
    assert sheet.shape == (64 + 6 + 64, 4 * 64)
    assert (sheet[70:, 64:128] == x[1, 1, 0]).all()
    assert (np.asarray(pictures.strip(x[0])) == sheet[:64]).all()


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3, 8, 8)), noise(2, 8, 8), noise(2, 2, 8, 8), noise(0, 3, 8, 8)]
)
def test_what_is_no_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="image"):
        pictures.grid(wrong)


def test_save_each_keeps_the_own_size_and_counts_on(tmp_path) -> None:
    x = noise(3, 3, 8, 8)
    paths = pictures.save_each(x, tmp_path / "new", first=40)
    assert [p.name for p in paths] == ["000040.png", "000041.png", "000042.png"]
    for image, path in zip(x, paths, strict=True):
        assert (np.asarray(Image.open(path)) == image.transpose(1, 2, 0)).all()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_animation_has_all_frames_and_rests_on_the_last(tmp_path, suffix: str) -> None:
    frames = [pictures.grid(np.full((4, 1, 8, 8), v, np.uint8)) for v in (0, 90, 250)]
    path = pictures.animation(frames, tmp_path / f"a.{suffix}", seconds=0.3)
    still = int(suffix == "png")  # what is seen where nothing moves stands before the frames
    with Image.open(path) as image:
        assert image.n_frames == 3 + still
        assert image.info["loop"] == 0
        if still:
            assert image.convert("L").getpixel((10, 10)) == 250, "the result, and no noise"
        durations = []
        for i in range(3):
            image.seek(i + still)
            image.load()
            durations.append(image.info["duration"])
            assert abs(int(image.convert("L").getpixel((10, 10))) - (0, 90, 250)[i]) <= 2
    assert durations == [100, 100, 1600]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch) -> None:
    path = pictures.save(pictures.grid(noise(1, 1, 8, 8)), tmp_path / "grid.png")
    before = path.read_bytes()

    def half(image: Image.Image, file, *_: object, **__: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(DiskError, match="the disk is full"):
        pictures.save(pictures.grid(noise(1, 1, 8, 8)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]


def test_scatter_draws_a_point_at_its_place_with_y_up() -> None:
    blank = np.asarray(pictures.scatter(np.zeros((0, 2)), limit=1.0, pixels=200)).astype(int)
    drawn = np.asarray(pictures.scatter(np.array([[0.55, 0.8]]), limit=1.0, pixels=200))
    rows, columns = np.nonzero(np.abs(drawn - blank).sum(axis=2))
    assert abs(rows.mean() - 20) < 1.5  # (1 - 0.8) / 2 of 200
    assert abs(columns.mean() - 155) < 1.5  # (1 + 0.55) / 2 of 200


def test_scatter_frames_by_the_data_and_skips_what_is_not_finite() -> None:
    data = np.random.default_rng(0).normal(size=(500, 2))
    wild = np.array([[np.nan, 0.0], [1e30, 0.0], [np.inf, 1.0], [0.3, 0.3]])
    one = np.asarray(pictures.scatter(wild, behind=data))
    two = np.asarray(pictures.scatter(wild[3:], behind=data))
    assert (one == two).all()


def test_sheet_tells_images_from_points() -> None:
    x, points = noise(4, 1, 8, 8), np.random.default_rng(0).normal(size=(9, 2))
    assert pictures.sheet(x) == pictures.grid(x)
    assert pictures.sheet(points) == pictures.scatter(points)
