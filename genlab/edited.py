"""`genlab sample run=... task=inpaint from=photo.png mask=mask.png`: writes edits of images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genlab import registry
from genlab.edit import Edits
from genlab.errors import ConfigError, DataError
from genlab.loaded import Loaded
from genlab.reconstruct import decoded, save_as
from genlab.run import pictures
from genlab.run.files import write_text

__all__ = ["write_edits"]

ROWS = 16  # images in the grid


def write_edits(loaded: Loaded, asked: Mapping[str, Any], folder: Path) -> None:
    """Writes images/<name>-<k>.png (or edits.npy, names.json), grid.png and sample.json.

    Of every image of from=, the first n of them, `variants` edits; a row of the grid is an image,
    what is known of it, and its edits. Images of another size are cropped and resampled as
    data=folder does, which is said; a mask is not. Raises ConfigError or DataError before anything
    is written, unless a later image turns out corrupt, which is said and left out.
    """
    task, variants, weights = asked["task"], asked["variants"], asked["weights"]
    mask = None if asked["mask"] is None else _mask(asked["mask"])
    edits = Edits(loaded, task, mask=mask, strength=asked["strength"])
    label = _labels(loaded, asked["labels"])
    channels, height, width = loaded.built.canvas
    if height != width:
        raise ConfigError(f"from= takes runs of square images, not {height}x{width}")
    names: list[str] = []
    done: Counter[str] = Counter()
    corrupt: dict[str, str] = {}
    given = registry.find("data", "folder").each(asked["from"], channels, width)
    images = islice(decoded(given, names, done, corrupt), asked["n"])
    loaded.built.solver.recount()
    rows: list[NDArray[np.uint8]] = []  # of the grid
    kept: list[NDArray[np.uint8]] = []
    written: set[str] = set()
    while batch := list(islice(images, max(1, asked["batch"] // variants))):
        first = len(names) - len(batch)
        index = range(first * variants, len(names) * variants)
        u = torch.from_numpy(np.stack(batch)).repeat_interleave(variants, 0)
        y = None if label is None else [label[i // variants % len(label)] for i in index]
        known, drawn = edits.draw(u, y, asked["seed"], index, weights)
        sets = drawn.numpy().reshape(len(batch), variants, *drawn.shape[1:])
        for name, original, seen, results in zip(
            names[first:], batch, known.numpy()[::variants], sets, strict=True
        ):
            if len(rows) < ROWS:
                rows.append(np.stack([original, seen, *results]))
            if asked["save"] == "png":
                for k, result in enumerate(results):
                    save_as(result, folder / "images", _numbered(name, k), written)
        if asked["save"] == "npy":
            kept.append(sets)
    if not names:
        name, reason = next(iter(corrupt.items()))
        raise DataError(f"{asked['from']}: no image can be decoded ({name}: {reason})")
    folder.mkdir(parents=True, exist_ok=True)
    if kept:
        np.save(folder / "edits.npy", np.concatenate(kept), allow_pickle=False)
    pictures.save(pictures.grid(np.concatenate(rows), 2 + variants), folder / "grid.png")
    converted = ", ".join(f"{n:,} {what}" for what, n in sorted(done.items())) or None
    record = {
        "shows": "edits",
        **{k: asked[k] for k in ("task", "from", "mask", "strength", "variants")},
        "n": len(names),
        **{k: asked[k] for k in ("batch", "seed", "weights")},
        "labels": "none" if label is None else asked["labels"],
        "converted": converted,
        **loaded.record(),
        "evaluations": loaded.built.solver.evaluations,
    }
    record |= {"corrupt": corrupt} if corrupt else {}
    write_text(folder / "names.json", json.dumps(names, indent=1))
    write_text(folder / "sample.json", json.dumps(record, indent=1))
    if converted:
        print(f"to the size of the run: {converted}")
    if next(given, None) is not None:
        print(f"{asked['from']} holds more than the first {len(names):,} images; n= takes more")
    print(
        f"{variants} edits of each of {len(names):,} images by {loaded.run.title} at image "
        f"{int(loaded.checkpoint):,}: {folder}"
    )


def _labels(loaded: Loaded, asked: int | list[int] | None) -> list[int] | None:
    """Labels the images take in turn; without any the model is asked for none."""
    if asked is not None:
        return loaded.labels(1 if isinstance(asked, int) else len(asked), asked)
    if loaded.classes is not None and getattr(loaded.built.model, "label_dropout", None) == 0:
        raise ConfigError(
            "labels= is needed: this run was trained with model.label_dropout=0, so it has no "
            "estimates without a label"
        )
    return None


def _mask(place: str) -> NDArray[np.bool_]:
    """[H, W], True where the image at `place` is white (128 and above)."""
    asks = "give one image, white where it should draw"
    if not Path(place).expanduser().exists():
        raise DataError(f"mask={place} is not there; {asks}")
    found = list(registry.find("data", "folder").each(place, 1, None))
    if len(found) != 1 or found[0][1] is None:
        what = "is corrupt" if len(found) == 1 else f"holds {len(found)} images"
        raise DataError(f"mask={place} {what}; {asks}")
    return found[0][1][0].numpy() >= 128


def _numbered(name: str, k: int) -> str:
    """a/b.jpg -> a/b-0.jpg."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{k}{path.suffix}"))
