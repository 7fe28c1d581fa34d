"""What goes into a pipeline and comes out of it in Python: arrays, or images of Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genlab.core.errors import ConfigError

__all__ = ["Images", "Output", "as_tensor", "check_output", "handed_out"]

Output = Literal["array", "pil"]
Images = NDArray[Any] | Sequence[Image.Image]


def as_tensor(images: Images, shape: Sequence[int]) -> Tensor:
    """Data as a tensor [n, *shape]: uint8 where they are images, else float32.

    Images of Pillow are turned into grey or colour, as the shape asks; never resized. Raises
    ConfigError for others.
    """
    if not isinstance(images, np.ndarray):
        images = _stacked(images, shape)
    wanted: Any = np.uint8 if len(shape) == 3 else np.floating
    fits = np.issubdtype(images.dtype, wanted) and images.shape[1:] == tuple(shape)
    if not fits or not len(images):
        what = "uint8 images" if len(shape) == 3 else "float points"
        raise ConfigError(
            f"this run takes {what} [n, {', '.join(map(str, shape))}], "
            f"not {images.dtype} {list(images.shape)}"
        )
    made = torch.tensor(images)  # a copy: what Pillow gives is read-only
    return made if len(shape) == 3 else made.float()


def _stacked(images: Sequence[Image.Image], shape: Sequence[int]) -> NDArray[Any]:
    """Images of Pillow as uint8 [n, C, H, W], of as many channels as the shape has."""
    if isinstance(images, Image.Image):
        images = [images]
    if not images or not all(isinstance(image, Image.Image) for image in images):
        raise ConfigError("give an array of images [n, C, H, W], or a list of Pillow images")
    if len(shape) != 3:
        raise ConfigError("this run is of points, not of images: give an array of them")
    arrays = [np.asarray(image.convert("L" if shape[0] == 1 else "RGB")) for image in images]
    if len({a.shape for a in arrays}) > 1:
        sizes = sorted({f"{a.shape[1]}x{a.shape[0]}" for a in arrays})
        raise ConfigError(f"the images have several sizes, {', '.join(sizes)}; resize them to one")
    stacked = np.stack(arrays)
    return stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)


def check_output(output: Output, shape: Sequence[int]) -> None:
    """ConfigError for another word, and for data of this shape that are no images, as images."""
    if output not in get_args(Output):
        raise ConfigError(f"output={output!r}: array or pil")
    if output == "pil" and len(shape) != 3:
        raise ConfigError('output="pil" is of images, and this run draws points')


def handed_out(u: NDArray[Any], output: Output) -> Any:
    """Data as they are, or uint8 [..., C, H, W] as lists of Pillow images."""
    if output == "array":
        return u
    if u.ndim > 4:
        return [handed_out(part, output) for part in u]
    return [Image.fromarray(i[0] if len(i) == 1 else i.transpose(1, 2, 0)) for i in u]
