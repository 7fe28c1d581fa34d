"""The side of images that fits all networks of a config: named where the one there is does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from genlab.core import registry
from genlab.core.contract import Spec
from genlab.core.errors import ConfigError

__all__ = ["nearest_side", "size_problem"]

LEAST, MOST = 4, 256  # sides that are named
STEP = 4  # most networks halve a side twice or more


def nearest_side(config: Mapping[str, Any], spec: Spec, trust: bool) -> int | None:
    """The side of square images, nearest to those of `spec`, that all networks take; None: none.

    spec: of the data as they are stored. Networks are made without storage, to see whether they
    can be: nothing has to declare its sides.
    """
    for side in _near(min(spec.shape[1:])):
        shape = (spec.shape[0], side, side)
        try:
            codec = registry.build(
                "codec", config["codec"], trust=trust, spec=replace(spec, shape=shape)
            )
            seen = replace(codec.spec, classes=spec.classes)
            with torch.device("meta"):
                for role, node in config["network"].items():
                    registry.build("network", node, f"network.{role}", trust, spec=seen)
        except ConfigError:
            continue
        return side
    return None


def size_problem(config: Mapping[str, Any], spec: Spec, trust: bool, why: str) -> str:
    """One sentence, where all that keeps the networks from such images is their size; else "".

    why: what the first of them says.
    """
    if spec.kind != "images" or "size" not in config["data"]:
        return ""
    side = nearest_side(config, spec, trust)
    if side is None or spec.shape[1:] == (side, side):
        return ""
    height, width = spec.shape[1:]
    names = dict.fromkeys(node["name"] for node in config["network"].values())
    return (
        f"images of {width} x {height} pixels do not fit {' and '.join(names)}; set "
        f"data.size={side}, the nearest side that does ({why})"
    )


def _near(side: int) -> Iterator[int]:
    """`side` and multiples of STEP by their distance from it; of two the smaller first."""
    aim = min(side, MOST)
    sides = {aim, *range(LEAST, MOST + 1, STEP)}
    yield from sorted(sides, key=lambda s: (abs(s - aim), s))
