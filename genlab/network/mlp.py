"""Networks for points of the plane."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Generator, Network, Spec
from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.nn.embed import Condition, LabelEmbedding

__all__ = ["MLP", "MLPDiscriminator", "MLPGenerator"]


def _numbers(spec: Spec, instead: str) -> int:
    """D of points (D,); instead: the network for images."""
    spec.require("points", "mlp", f"network={instead} and codec=pixels")
    return spec.shape[0]


@register("mlp")
class MLP(Network):
    """Residual perceptron that denoises points.

    h <- h + W2 SiLU(W1 norm(h) + V e),  e the embedding of time and label
    """

    def __init__(self, spec: Spec, *, width: Count, depth: Count, embedding: Count) -> None:
        """spec: shape (D,), labels K or None; the keys as in configs/network/mlp.yaml."""
        super().__init__()
        numbers = _numbers(spec, "unet_small")
        self.condition = Condition(embedding, spec.classes)
        self.stem = nn.Linear(numbers, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "inner": nn.Linear(width, width),
                    "affine": nn.Linear(embedding, width, bias=False),
                    "outer": nn.Linear(width, width),
                }
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, numbers)
        for last in [self.head, *(layer["outer"] for layer in self.layers)]:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, D], t [B] in [0, 1], y [B] or None -> [B, D] float32."""
        e = self.condition(t, y)
        h = self.stem(x)
        for layer in self.layers:
            inner = layer["inner"](layer["norm"](h)) + layer["affine"](e)
            h = h + layer["outer"](F.silu(inner))
        return self.head(h).float()


def _stack(inside: int, width: int, depth: int, outside: int, act: nn.Module) -> nn.Sequential:
    sizes = [inside] + [width] * depth
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), act)]
    return nn.Sequential(*layers, nn.Linear(width, outside))


@register("mlp_generator")
class MLPGenerator(Generator):
    """Perceptron from a latent vector, and a label, to a point."""

    def __init__(self, spec: Spec, *, width: Count, depth: Count, z_dim: Count) -> None:
        """spec: shape (D,), labels K or None; the keys as in configs/network/mlp_gan.yaml."""
        super().__init__()
        numbers = _numbers(spec, "dcgan")
        self.z_dim = z_dim
        self.label = LabelEmbedding(spec.classes, z_dim) if spec.classes is not None else None
        inside = z_dim if self.label is None else 2 * z_dim
        self.body = _stack(inside, width, depth, numbers, nn.ReLU())
        if self.label is not None:
            # As large as z, the label takes over in the first steps: one point per class.
            nn.init.normal_(self.label.weight, 0.0, 0.1)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        """z [B, Z], y [B] or None -> [B, D] float32."""
        if self.label is not None:
            z = torch.cat([z, self.label(y, len(z))], dim=1)
        return self.body(z).float()


@register("mlp_discriminator")
class MLPDiscriminator(Network):
    """Perceptron from a point to a logit.

    logit = head(h) + <label(y), h>

    Reference: Miyato and Koyama 2018, arXiv 1802.05637, eq. 9 (the projection on the label).
    """

    def __init__(self, spec: Spec, *, width: Count, depth: Count) -> None:
        """spec: shape (D,), labels K or None; the keys as in configs/network/mlp_gan.yaml."""
        super().__init__()
        numbers = _numbers(spec, "dcgan")
        self.body = _stack(numbers, width, depth, width, nn.LeakyReLU(0.2))
        self.head = nn.Linear(width, 1)
        self.label = LabelEmbedding(spec.classes, width) if spec.classes is not None else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, 0.0, width**-0.5)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        """x [B, D], y [B] or None -> logits [B] float32."""
        h = F.leaky_relu(self.body(x), 0.2)
        logit = self.head(h).squeeze(1).float()
        if self.label is not None:
            logit = logit + (self.label(y, len(x)) * h).sum(1).float()
        return logit
