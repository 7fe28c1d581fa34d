"""How stored images reach a network that was trained on photographs."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from genlab.core.contract import Spec

__all__ = ["IMAGENET", "Preprocess", "check_images", "to_rgb"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of its colours, of which most networks make their input."""


def check_images(spec: Spec, features: str) -> None:
    """Refuses (ValueError) data that are no images of one or three channels."""
    if spec.kind != "images" or spec.shape[0] not in (1, 3):
        raise ValueError(
            f"features={features} sees images of one or three channels, "
            f"not {' x '.join(map(str, spec.shape))}; use features=raw"
        )


def to_rgb(x: Tensor) -> Tensor:
    """x [n, C, H, W] with C one or three -> [n, 3, H, W]; one channel is repeated."""
    return x.expand(-1, 3, -1, -1)


class Preprocess:
    """Colour, size, mean and deviation.

    (bicubic(u) / 255 - mean) / std

    The whole image becomes `size` x `size`, whatever its shape: antialiased bicubic resampling of
    rows, then columns, each rounded to whole numbers from 0 to 255, as Pillow does with square
    images (a grey level apart where its fixed-point weights round otherwise, rarely two).

    resizer, words: the size, and all of it, in words.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)
        self.resizer = f"bicubic, antialiased, whole image to {size} x {size}"
        self.words = f"{self.resizer}; mean {self.mean}, std {self.std}"

    def __call__(self, u: Tensor) -> Tensor:
        """u uint8 [n, C, H, W] -> [n, 3, size, size] float32."""
        x = u.float()
        for side in ((x.shape[2], self.size), (self.size, self.size)):
            if x.shape[2:] != side:
                x = F.interpolate(x, side, mode="bicubic", antialias=True).clamp(0, 255).round()
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return (to_rgb(x) / 255 - mean) / std
