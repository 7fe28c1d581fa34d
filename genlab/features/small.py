"""A small network trained on pictures of clothes, for small sets without colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Spec
from genlab.core.metric import Features
from genlab.core.registry import register
from genlab.nn.full_precision import full_precision
from genlab.nn.pretrained_weights import digest, fit, read_weights

__all__ = ["Classifier", "Small", "canvas"]

FILE = Path(__file__).with_suffix(".safetensors")
SIDE = 32  # of what the network sees
OBJECT = 28  # pixels of the longer side of what it was trained on
PREPARATION = "zeros around to 32 x 32, below 28 pixels bicubic to 28 before"


@register
class Small(Features):
    """Classifier of FashionMNIST, for one-channel sets up to 32 pixels.

    pool: 128 numbers before the last layer. logits: 10, of the classes of FashionMNIST.

    An image whose longer side has 28 to 32 pixels is put into the middle of 32 x 32 zeros as it
    is; a smaller one is enlarged to 28 first (bicubic), so that things have the size they had in
    training. scripts/train_features.py made the weights; the metadata of the file beside this one
    say how, and the accuracy on the test split.

    spec: of the stored data. Raises ValueError for colour and for more than 32 pixels, DataError
    when the file is damaged.
    """

    resizer = PREPARATION

    def __init__(self, spec: Spec, device: torch.device | None = None) -> None:
        if spec.kind != "images" or spec.shape[0] != 1 or max(spec.shape) > SIDE:
            raise ValueError(
                f"features=small sees one-channel images of at most {SIDE} pixels, "
                f"not {' x '.join(map(str, spec.shape))}; use features=inception"
            )
        self.net = Classifier()
        fit(self.net, read_weights(FILE), FILE, "the network of features=small; reinstall genlab")
        self.digest = digest(self.net, PREPARATION)
        self.outputs = {"pool": Classifier.width, "logits": Classifier.classes}
        self.device = device or torch.device("cpu")
        self.net.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, u: Tensor) -> Mapping[str, Tensor]:
        """u uint8 [n, 1, H, W] -> pool [n, 128], logits [n, 10], float32."""
        with full_precision(self.device):
            pool = self.net.pool(canvas(u.to(self.device)))
            return {"pool": pool, "logits": self.net.head(pool)}


def canvas(u: Tensor) -> Tensor:
    """u uint8 [n, 1, H, W], H and W at most 32 -> [n, 1, 32, 32] float32 in [0, 1]."""
    x = u.float()
    h, w = x.shape[2:]
    if max(h, w) < OBJECT:
        h, w = (max(1, round(side * OBJECT / max(x.shape[2:]))) for side in (h, w))
        x = F.interpolate(x, (h, w), mode="bicubic", antialias=True).clamp(0, 255)
    left, top = (SIDE - w) // 2, (SIDE - h) // 2
    return F.pad(x / 255, (left, SIDE - w - left, top, SIDE - h - top))


class Classifier(nn.Module):
    """Five convolutions over 32 x 32 pixels without colour, 128 features.

    SiLU rather than ReLU, so that no feature is constant on a set unlike the training data and
    covariances are of full rank.
    """

    width = 128
    classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(1, 32, kernel=5, stride=2),
            *_convolution(32, 64, stride=2),
            *_convolution(64, 64),
            *_convolution(64, 128, stride=2),
            *_convolution(128, self.width),
        )
        self.head = nn.Linear(self.width, self.classes)

    def pool(self, x: Tensor) -> Tensor:
        """x [n, 1, 32, 32] in [0, 1] -> [n, 128]."""
        return self.layers(2 * x - 1).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x [n, 1, 32, 32] in [0, 1] -> logits [n, 10]."""
        return self.head(self.pool(x))


def _convolution(c: int, width: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(c, width, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.SiLU()]
