"""Perceptual distance of reconstructions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from genlab.core.errors import DataError
from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.registry import register
from genlab.metric.pairwise import check_size, each
from genlab.nn.backbones import VGG16, AlexNet
from genlab.nn.full_precision import full_precision
from genlab.nn.perceptual import Perceptual
from genlab.nn.preprocess import to_rgb
from genlab.nn.pretrained_weights import digest, weights_path

__all__ = ["LPIPS"]

BACKBONES = {"alex": AlexNet, "vgg": VGG16}
HEADS = "https://github.com/richzhang/PerceptualSimilarity: lpips/weights/v0.1/{net}.pth"


@register
class LPIPS(Metric):
    """Mean LPIPS of originals and copies, 0 when equal.

    Version 0.1, at the stored size.

    net: whose maps are compared, alex or vgg. backbone: torchvision's weights of that network.
    heads: the weights of LPIPS for it. One channel is repeated for all three.

    digest: 12 hex digits of both files' contents. Raises DataError for a file that is not there
    or of another network.

    Reference: Zhang, Isola, Efros, Shechtman, Wang 2018, arXiv 1801.03924.
    """

    needs = ("pairs",)
    lower_is_better = ("lpips",)
    file_keys = ("backbone", "heads")

    def __init__(
        self, *, net: Literal["alex", "vgg"], backbone: str | None, heads: str | None
    ) -> None:
        layers = BACKBONES[net]()
        self.name = f"lpips with net={net}"
        self.network = Perceptual(layers)
        self.network.load(
            weights_path(
                backbone, "metric.lpips.backbone", f"weights of {layers.name}", layers.file
            ),
            weights_path(heads, "metric.lpips.heads", "the heads of LPIPS", HEADS.format(net=net)),
        )
        self.network.eval()
        self.digest = digest(self.network, self.name)

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """lpips. Raises DataError for images the network has no place for: below 16 pixels with
        vgg, 31 with alex, or of other than one or three channels."""
        originals = inputs.pairs().originals
        if originals.shape[1] not in (1, 3):
            raise DataError(f"lpips sees one or three channels, not {originals.shape[1]}")
        least = self.network.torso.least
        fix = "use metric.lpips.net=vgg" if least > VGG16.least else "use metric=psnr"
        check_size(originals, least, self.name, fix)
        network = self.network.to(inputs.device)

        def score(a: Tensor, b: Tensor) -> Tensor:
            with full_precision(inputs.device):
                return network(*(to_rgb(u.float()) / 127.5 - 1 for u in (a, b)))

        return MetricResult({"lpips": float(each(inputs, score).mean())})
