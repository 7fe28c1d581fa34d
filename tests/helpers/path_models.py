"""Models of Gaussian paths as tests want them: with answers and draws that are given."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.contract import Batch, Network, Spec
from tests.helpers.paths import made


class Given:
    """A Noise whose calls return the tensors it was made with, in turn."""

    def __init__(self, *draws: Tensor) -> None:
        self.n, self.draws = len(draws[0]), list(draws)

    def normal(self, *shape: int) -> Tensor:
        draw = self.draws.pop(0)
        assert draw.shape == (self.n, *shape)
        return draw

    uniform = normal


class Answer(Network):
    """A network that says tanh(k x + weight) + t; keeps what it was asked and what it said."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.outputs, self.weight = outputs, nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.asked = (x, t, y)
        out = torch.cat([(k + 1) * x + self.weight for k in range(self.outputs)], dim=1).tanh()
        self.said = out + t.view(-1, *[1] * (x.dim() - 1))
        return self.said


def process(name: str, **keys: object) -> object:
    """A path with the keys of its yaml but for those given."""
    return made("process", name, keys)


def model(name: str, path: object, shape: tuple[int, ...] = (2,), bytes_=False, **keys: object):
    """A model on a path with its yaml's keys but for those given, over `Answer`.

    bytes_: whether the data are bytes, which have no density.
    """
    node = {**config_of("model", name), "label_dropout": 0.0, "ema": 0.0, **keys}
    net = Answer(2 if node.get("variance") == "learned" else 1)
    codec = SimpleNamespace(logdet=lambda x: x.new_zeros(len(x)) if not bytes_ else None)
    given = {"net": net, "process": path, "spec": Spec(shape), "codec": codec}
    return registry.build("model", node, **given)


def batch(u: Tensor, x: Tensor, eps: Tensor) -> Batch:
    """Data [B, *S] with what makes their times [B] and their noise [B, *S]."""
    return Batch(x, None, Given(u, eps))
