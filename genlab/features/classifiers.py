"""The convolutional parts of VGG16 and AlexNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlab.core.contract import Spec
from genlab.core.registry import register
from genlab.features.backbone import Backbone
from genlab.nn.backbones import VGG16, AlexNet, ConvBackbone
from genlab.nn.preprocess import IMAGENET, Preprocess, check_images
from genlab.nn.pretrained_weights import weights_path

__all__ = ["AlexNetFeatures", "VGG16Features"]

SIZE = 224  # pixels these networks were trained with


@register("vgg16")
class VGG16Features(Backbone):
    """VGG16 from a file, the mean over pixels of the last block: 512 numbers.

    pool: behind the ReLU of the 13th convolution, 14 x 14 pixels; the classifier is not used.

    spec: of the stored data. file: torchvision's weights, whole or `features.*` alone.
    Raises ValueError for data that are no images, DataError for a file that is not there or of
    another network.

    Reference: Simonyan and Zisserman 2014, arXiv 1409.1556.
    """

    def __init__(
        self, spec: Spec, device: torch.device | None = None, *, file: str | None
    ) -> None:
        net = _loaded(VGG16(), spec, "vgg16", file)
        super().__init__(net, VGG16.widths[-1], Preprocess(SIZE, *IMAGENET), device)


@register("alexnet")
class AlexNetFeatures(Backbone):
    """AlexNet from a file, the mean over pixels of its last map: 256 numbers.

    pool: behind the ReLU of the 5th convolution, 13 x 13 pixels; the classifier is not used.

    spec, file, errors: as for vgg16.

    Reference: Krizhevsky 2014, arXiv 1404.5997.
    """

    def __init__(
        self, spec: Spec, device: torch.device | None = None, *, file: str | None
    ) -> None:
        net = _loaded(AlexNet(), spec, "alexnet", file)
        super().__init__(net, AlexNet.widths[-1], Preprocess(SIZE, *IMAGENET), device)


def _loaded(net: ConvBackbone, spec: Spec, features: str, file: str | None) -> nn.Module:
    check_images(spec, features)
    net.load(weights_path(file, "features.file", f"the weights of {net.name}", net.file))
    return _Last(net)


class _Last(nn.Module):
    """x [n, 3, H, W] -> the mean over pixels of the last map [n, width]."""

    def __init__(self, net: ConvBackbone) -> None:
        super().__init__()
        self.torso = net  # this name is part of the digest

    def forward(self, x: Tensor) -> Tensor:
        return self.torso(x)[-1].mean((2, 3))
