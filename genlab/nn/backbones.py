"""Convolutional parts of two classifiers of photographs, with the maps inside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from genlab.nn.pretrained_weights import fit, read_weights

__all__ = ["VGG16", "AlexNet", "ConvBackbone"]


class ConvBackbone(nn.Module):
    """Layers in a row; the maps behind some of them are what is looked at.

    The state dict has the names of torchvision, features.<number>.weight and .bias, so that a
    file of its network fits; the classifier on top is not part of it.

    file: where torchvision has its weights. taps: numbers of the ReLUs whose maps are returned.
    widths: channels of each. least: pixels of the smallest side that leaves one at the last.
    """

    name: str
    file: str
    taps: tuple[int, ...]
    widths: tuple[int, ...]
    least: int

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)

    def load(self, path: Path) -> None:
        """Takes its weights from a file of torchvision's names, whole or features.* alone.

        Raises DataError for a file that is not there, unreadable or of another network.
        """
        every = read_weights(path)
        tensors = {n: t for n, t in every.items() if not n.startswith("classifier.")}
        fit(self, tensors, path, f"{self.name} of torchvision")

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [n, 3, H, W] -> the maps [n, widths[i], h_i, w_i] behind the taps."""
        maps = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                maps.append(x)
        return maps


class VGG16(ConvBackbone):
    """13 convolutions of 3 x 3 in five blocks; tapped at the last of each block.

    Reference: Simonyan and Zisserman 2014, arXiv 1409.1556, configuration D.
    """

    name = "VGG16"
    file = "https://download.pytorch.org/models/vgg16-397923af.pth"
    taps = (3, 8, 15, 22, 29)
    widths = (64, 128, 256, 512, 512)
    least = 16

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        c = 3
        for width, depth in zip(self.widths, (2, 2, 3, 3, 3), strict=True):
            layers += [nn.MaxPool2d(2)] if layers else []
            for _ in range(depth):
                layers += [nn.Conv2d(c, width, 3, padding=1), nn.ReLU(inplace=True)]
                c = width
        super().__init__(layers)


class AlexNet(ConvBackbone):
    """Five convolutions, the variant of one GPU; tapped behind each.

    Reference: Krizhevsky 2014, arXiv 1404.5997.
    """

    name = "AlexNet"
    file = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    taps = (1, 4, 7, 9, 11)
    widths = (64, 192, 384, 256, 256)
    least = 31

    def __init__(self) -> None:
        super().__init__(
            [
                nn.Conv2d(3, 64, 11, stride=4, padding=2),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, stride=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, stride=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(256, 256, 3, padding=1),
                nn.ReLU(inplace=True),
            ]
        )
