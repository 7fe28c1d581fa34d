"""`genlab sample from=`: given images, encoded and decoded, or edited.

`task=` chooses the edit (inpaint, colourise, edit); without it an autoencoder reconstructs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from genlab.core.console import log
from genlab.core.errors import ConfigError, DataError
from genlab.core.files import write_text
from genlab.core.format import clean
from genlab.data.source import count_images, iter_images
from genlab.nn.quantize import codebook_usage
from genlab.nn.similarity import psnr
from genlab.run import pictures
from genlab.sampling.drawing import Drawing, drawing, stoppable
from genlab.sampling.edit import ImageEditor
from genlab.sampling.kept_samples import clear
from genlab.sampling.pipeline import Pipeline

__all__ = ["write_edits", "write_reconstructions"]

PAIRS = 32  # in the grid of reconstructions
ROWS = 16  # in the grid of edits


def write_reconstructions(
    pipeline: Pipeline, asked: Mapping[str, Any], folder: Path, again: str
) -> None:
    """Writes codes.npy, images/<name>.png (or reconstructions.npy), names.json, grid.png of the
    first pairs, sample.json: of all images, or the first n. again: the command, for a stop.

    Raises DataError when no image can be decoded, ConfigError for a run whose images are not
    square.
    """
    given = GivenImages(asked, pipeline.data.spec.shape, folder, asked["n"])
    codes, decibels, first = [], [], []

    def finish() -> dict[str, Any]:
        every, quality = (np.concatenate(x)[: given.kept] for x in (codes, decibels))
        originals, copies = (np.stack(side) for side in zip(*first[:PAIRS], strict=True))
        record = _quality(pipeline, every, quality) | {"weights": asked["weights"]}
        given.finish(pictures.pairs(originals, copies), "reconstructions", record)
        np.save(folder / "codes.npy", every, allow_pickle=False)
        return record

    with given.stoppable(finish, again), given.drawing(pipeline, "reconstructions") as batches:
        for u in given.batches(asked["batch"]):
            with batches.batch(len(u)):
                index, copied = pipeline.reconstruct(u, batch=len(u), weights=asked["weights"])
            codes.append(index.astype(np.int32) if index.dtype == np.int64 else index)
            decibels.append(psnr(torch.from_numpy(u), torch.from_numpy(copied)).numpy())
            if len(first) < PAIRS:
                first.extend(zip(u, copied, strict=True))
            given.keep(copied)
    record = finish()
    facts = [f"PSNR {record['psnr']} dB"] if record["psnr"] is not None else []
    facts += [f"{record['bits']:,.0f} bits an image"] if "bits" in record else []
    facts += [f"{record['usage']:.1%} of the codes used"] if "usage" in record else []
    print(f"{given.kept:,} reconstructions by {pipeline.title}: {clean(str(folder))}")
    print(", ".join(facts))


def _quality(
    pipeline: Pipeline, codes: NDArray[Any], quality: NDArray[np.float32]
) -> dict[str, Any]:
    model = pipeline.model
    finite = quality[np.isfinite(quality)]
    record: dict[str, Any] = {
        "checkpoint": pipeline.record()["checkpoint"],
        "psnr": round(float(finite.mean()), 3) if len(finite) else None,
    }
    if (bits := model.code_bits) is not None:
        record["bits"] = bits
        record["bits_per_number"] = round(bits / float(np.prod(pipeline.spec.shape)), 4)
    if (size := model.codebook_size) is not None:
        count = torch.bincount(torch.from_numpy(codes).flatten(), minlength=size)
        usage, perplexity = codebook_usage(count)
        record["usage"] = round(float(usage), 4)
        record["perplexity"] = round(float(perplexity), 2)
    return record


def write_edits(pipeline: Pipeline, asked: Mapping[str, Any], folder: Path, again: str) -> None:
    """Writes images/<name>-<k>.png (or edits.npy), names.json, grid.png and sample.json.

    Of every image of from=, the first n of them, `variants` edits; a row of the grid is an image,
    what is known of it, and its edits. A mask is not resampled. again: the command, for a stop.
    Raises ConfigError or DataError before anything is written.
    """
    mask = None if asked["mask"] is None else _mask(asked["mask"])
    words = {k: asked[k] for k in ("strength", "labels")}
    variants = asked["variants"]
    # what cannot be is said before an image is read
    ImageEditor(pipeline.components, asked["task"], mask=mask, **words)
    given = GivenImages(asked, pipeline.output_shape, folder, asked["n"])
    words |= {k: asked[k] for k in ("variants", "seed", "batch", "weights")}
    pipeline.sampler.recount()
    rows: list[NDArray[np.uint8]] = []

    def finish() -> None:
        record = {
            **{k: asked[k] for k in ("task", "mask", "strength", "variants", "batch", "seed")},
            "weights": asked["weights"],
            "labels": "none" if asked["labels"] is None else asked["labels"],
            **pipeline.record(),
            "evaluations": pipeline.sampler.evaluations,
        }
        given.finish(pictures.grid(np.concatenate(rows), 2 + variants), "edits", record)

    with given.stoppable(finish, again), given.drawing(pipeline, "edits") as batches:
        for u in given.batches(max(1, asked["batch"] // variants)):
            first = len(given.names) - len(u)
            with batches.batch(len(u)):
                edits, known = pipeline.edit(u, asked["task"], mask=mask, first=first, **words)
            rows.extend(np.concatenate([u[:, None], known[:, None], edits], 1)[: ROWS - len(rows)])
            given.keep(edits)
    finish()
    print(
        f"{variants} edits of each of {given.kept:,} images by {pipeline.title}: "
        f"{clean(str(folder))}"
    )


class GivenImages:
    """The images of from=, read one batch at a time whatever their number, and what is made of
    them.

    Images of another size are cropped and resampled as data=folder does, which is said; corrupt
    ones are left out, which is said too. names: of those read so far; kept: of how many of them
    something is made.
    """

    def __init__(
        self, asked: Mapping[str, Any], shape: Sequence[int], folder: Path, most: int | None
    ) -> None:
        """asked: keys of the command; shape: (C, H, W) of the run; folder: of what is written;
        most: how many images are taken, None for all.

        Raises ConfigError for a run whose images are not square.
        """
        channels, height, width = shape
        if height != width:
            raise ConfigError(f"from= takes runs of square images, not {height}x{width}")
        self.place, self.folder, self.save = asked["from"], folder, asked["save"]
        self._images = iter_images(self.place, channels, width)
        self.names: list[str] = []
        self.kept, self._most = 0, most
        self._done: Counter[str] = Counter()
        self._corrupt: dict[str, str] = {}
        self._written: set[str] = set()
        self._arrays: list[NDArray[np.uint8]] = []

    @contextmanager
    def drawing(self, pipeline: Pipeline, what: str) -> Iterator[Drawing]:
        """Context in which batches are shown as they are made."""
        total = count_images(self.place)
        taken = total if self._most is None else min(total, self._most)
        if taken < total:
            log(f"the first {taken:,} of {total:,} images of {self.place}; n= takes more")
        with drawing(what, taken, pipeline.sampler) as batches:
            yield batches

    @contextmanager
    def stoppable(self, finish: Callable[[], object], again: str) -> Iterator[None]:
        """Context whose stop keeps what is made. finish: writes the record of it; again: the
        command that begins once more."""

        def state() -> str:
            if not self.kept:
                return f"0 images; begin again with: {again}"
            del self.names[self.kept :]
            finish()
            return f"{self.kept:,} images, kept in {self.folder}; begin again with: {again}"

        with stoppable(state):
            yield

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """The images that are taken, uint8 [size or fewer, C, H, W].

        Raises DataError at the end where none could be decoded.
        """
        images = islice(self._decoded(), self._most)
        while batch := list(islice(images, size)):
            yield np.stack(batch)
        if not self.names:
            name, reason = next(iter(self._corrupt.items()))
            raise DataError(f"{self.place}: no image can be decoded ({name}: {reason})")

    def _decoded(self) -> Iterator[NDArray[np.uint8]]:
        for name, pixels, words in self._images:
            if pixels is None:
                self._corrupt[name] = ", ".join(words)
                log(f"{name} is left out: {self._corrupt[name]}")
                continue
            self.names.append(name)
            self._done.update(words)
            yield pixels.numpy()

    def keep(self, made: NDArray[np.uint8]) -> None:
        """Writes what is made of the last n images, [n, C, H, W] or [n, k, C, H, W], as PNG.

        Each under the name of its image, of k numbered <name>-<k>; a.jpg beside a.png becomes
        a.jpg.png. With save=npy `finish` writes them.
        """
        if not self.kept:
            clear(self.folder)
        first = self.kept
        self.kept += len(made)
        if self.save == "npy":
            self._arrays.append(made)
        if self.save != "png":
            return
        for name, results in zip(self.names[first:], made, strict=True):
            path = PurePosixPath(name)
            if made.ndim == 4:
                self._save(results, path)
                continue
            for k, pixels in enumerate(results):
                self._save(pixels, path.with_stem(f"{path.stem}-{k}"))

    def _save(self, pixels: NDArray[np.uint8], path: PurePosixPath) -> None:
        target = path.with_suffix(".png")
        target = path.with_name(f"{path.name}.png") if str(target) in self._written else target
        self._written.add(str(target))
        flat = pixels.transpose(1, 2, 0)
        picture = Image.fromarray(flat[..., 0] if flat.shape[2] == 1 else flat)
        pictures.save(picture, self.folder / "images" / target)

    def finish(self, grid: Image.Image, array: str, record: Mapping[str, Any]) -> None:
        """Writes grid.png, <array>.npy with save=npy, names.json and sample.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pictures.save(grid, self.folder / "grid.png")
        if self._arrays:
            np.save(self.folder / f"{array}.npy", np.concatenate(self._arrays), allow_pickle=False)
        converted = ", ".join(f"{n:,} {what}" for what, n in sorted(self._done.items())) or None
        record = {
            "shows": array,
            "from": str(self.place),
            "n": len(self.names),
            **record,
            "converted": converted,
        }
        record |= {"corrupt": self._corrupt} if self._corrupt else {}
        write_text(self.folder / "names.json", json.dumps(self.names, indent=1))
        write_text(self.folder / "sample.json", json.dumps(record, indent=1))
        if converted:
            print(f"to the size of the run: {converted}")


def _mask(place: str) -> NDArray[np.bool_]:
    """[H, W], True where the image at `place` is white (128 and above)."""
    asks = "give one image, white where it should draw"
    if not Path(place).expanduser().exists():
        raise DataError(f"mask={place} is not there; {asks}")
    found = list(iter_images(place, 1, None))
    if len(found) != 1 or found[0][1] is None:
        what = "is corrupt" if len(found) == 1 else f"holds {len(found)} images"
        raise DataError(f"mask={place} {what}; {asks}")
    return found[0][1][0].numpy() >= 128
