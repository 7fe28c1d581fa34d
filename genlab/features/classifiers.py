"""The convolutional parts of VGG16 and AlexNet."""

from __future__ import annotations

from torch import Tensor, nn

from genlab.core.registry import register
from genlab.features.backbone import Backbone, Net
from genlab.nn.backbones import VGG16, AlexNet, ConvBackbone
from genlab.nn.preprocess import IMAGENET, Preprocess
from genlab.nn.pretrained_weights import weights_path

__all__ = ["AlexNetFeatures", "VGG16Features"]

SIZE = 224  # pixels these networks were trained with


@register("vgg16")
class VGG16Features(Backbone):
    """VGG16 from a file, the mean over pixels of the last block: 512 numbers.

    pool: behind the ReLU of the 13th convolution, 14 x 14 pixels; the classifier is not used.

    file: torchvision's weights, whole or `features.*` alone.

    Reference: Simonyan and Zisserman 2014, arXiv 1409.1556.
    """

    title = "vgg16"

    def load(self) -> Net:
        """The convolutions, and the mean over their last map."""
        return _last(VGG16(), self.file)


@register("alexnet")
class AlexNetFeatures(Backbone):
    """AlexNet from a file, the mean over pixels of its last map: 256 numbers.

    pool: behind the ReLU of the 5th convolution, 13 x 13 pixels; the classifier is not used.

    file: as for vgg16.

    Reference: Krizhevsky 2014, arXiv 1404.5997.
    """

    title = "alexnet"

    def load(self) -> Net:
        """The convolutions, and the mean over their last map."""
        return _last(AlexNet(), self.file)


def _last(net: ConvBackbone, file: str | None) -> Net:
    net.load(weights_path(file, "features.file", f"the weights of {net.name}", net.file))
    return Net(_Last(net), net.widths[-1], Preprocess(SIZE, *IMAGENET))


class _Last(nn.Module):
    """x [n, 3, H, W] -> the mean over pixels of the last map [n, width]."""

    def __init__(self, net: ConvBackbone) -> None:
        super().__init__()
        self.torso = net  # this name is part of the digest

    def forward(self, x: Tensor) -> Tensor:
        return self.torso(x)[-1].mean((2, 3))
