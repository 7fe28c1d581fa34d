"""The Inception v3 network of 2015 as distances between sets of images use it.

Szegedy et al. 2015, arXiv 1512.00567, with what tells the released graph from the paper: average
pools do not count their padding, and the last block pools by maximum. Batch normalization is
folded into the convolutions, as this network is never trained here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.nn.pretrained_weights import wrong_weights

__all__ = ["Inception", "fold", "names"]

WANTED = "the Inception network of 2015"
EPS = 1e-3  # of its batch normalization
POOL = 2048  # features before the classifier

Conv = tuple[int, int | tuple[int, int]]  # channels, kernel: padded so that the size stays


class Inception(nn.Module):
    """Images [n, 3, 299, 299] in [-1, 1) -> pooled features [n, 2048] and, with them, logits."""

    def __init__(self, classes: int | None = None) -> None:
        """classes: of the logits, 1008 in the released weights; None leaves them out."""
        super().__init__()
        self.stem = nn.ModuleList(
            _conv(i, o, k, stride, padding)
            for i, o, k, stride, padding in (
                (3, 32, 3, 2, 0),
                (32, 32, 3, 1, 0),
                (32, 64, 3, 1, 1),
                (64, 80, 1, 1, 0),
                (80, 192, 3, 1, 0),
            )
        )
        seven, other = (1, 7), (7, 1)
        blocks: list[nn.Module] = []
        width = 192
        for pool in (32, 64, 64):
            double: Sequence[Conv] = [(64, 1), (96, 3), (96, 3)]
            blocks.append(_Mixed(width, [[(64, 1)], [(48, 1), (64, 5)], double], pool))
            width = 224 + pool
        blocks.append(_Halved(width, [[(384, 3)], [(64, 1), (96, 3), (96, 3)]]))
        width = 768
        for c in (128, 160, 160, 192):
            short: Sequence[Conv] = [(c, 1), (c, seven), (192, other)]
            long: Sequence[Conv] = [(c, 1), (c, other), (c, seven), (c, other), (192, seven)]
            blocks.append(_Mixed(width, [[(192, 1)], short, long], 192))
        last: Sequence[Conv] = [(192, 1), (192, seven), (192, other), (192, 3)]
        blocks.append(_Halved(width, [[(192, 1), (320, 3)], last]))
        blocks += [_Split(1280, F.avg_pool2d), _Split(POOL, F.max_pool2d)]
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(POOL, classes) if classes else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x [n, 3, 299, 299] -> {"pool": [n, 2048], "logits": [n, classes] if it has them}."""
        for i, conv in enumerate(self.stem):
            x = F.relu_(conv(x))
            if i in (2, 4):
                x = F.max_pool2d(x, 3, 2)
        for block in self.blocks:
            x = block(x)
        pool = x.mean((2, 3))
        if self.classifier is None:
            return {"pool": pool}
        # the score of a class without its bias: what the inception score was defined with
        return {"pool": pool, "logits": F.linear(pool, self.classifier.weight)}

    def take(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Loads released weights by their order, which all copies of the graph share.

        path: where they are from, for the message. Raises DataError for those of another network.
        """
        if any(".branch" in name for name in weights):  # a file may have sorted them by name
            order = {name: i for i, name in enumerate(names())}
            last = len(order)

            def place(name: str) -> tuple[int, bool]:
                stem, kernel, _ = name.partition(".conv.")
                return order.get(stem.partition(".bn.")[0], last), not kernel

            weights = {name: weights[name] for name in sorted(weights, key=place)}
        convs = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        kernels = [tuple(t.shape) for t in weights.values() if t.ndim == 4]
        if len(kernels) != len(convs):
            why = f"it has {len(kernels)} convolutions, not {len(convs)}"
            raise wrong_weights(path, weights, WANTED, why)
        if kernels != [tuple(c.weight.shape) for c in convs]:
            raise wrong_weights(path, weights, WANTED, "its convolutions are of other sizes")
        try:
            given = list(fold(weights))
            scores = None if self.classifier is None else _scores(weights, self.classifier)
        except ValueError as e:
            raise wrong_weights(path, weights, WANTED, str(e)) from e
        with torch.no_grad():
            for conv, (weight, bias) in zip(convs, given, strict=True):
                conv.weight.copy_(weight)
                assert conv.bias is not None
                conv.bias.copy_(bias)
            if self.classifier is not None and scores is not None:
                self.classifier.weight.copy_(scores[0])
                self.classifier.bias.copy_(scores[1])


def fold(weights: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """(kernel, bias) of each convolution with the normalization that follows it folded in.

    weights: in the order of the network: a kernel [o, i, h, w], then vectors [o] whose names end
    as batch normalization calls them. Raises ValueError where they do not.
    """
    found: list[tuple[str, Tensor, dict[str, Tensor]]] = []
    for name, tensor in weights.items():
        if tensor.ndim == 4:
            found.append((name, tensor, {}))
        elif tensor.ndim == 1 and found:
            found[-1][2].setdefault(name.rpartition(".")[2].removeprefix("running_"), tensor)
    for name, kernel, after in found:
        wide = {
            k: after[k].double() for k in ("weight", "beta", "bias", "mean", "var") if k in after
        }
        if not {"mean", "var"} <= set(wide):
            raise ValueError(f"no normalization follows {name}")
        if any(len(v) != len(kernel) for v in wide.values()):
            raise ValueError(f"the normalization after {name} is of another size")
        scale = wide.get("weight", 1.0) / (wide["var"] + EPS).sqrt()
        shift = wide.get("beta", wide.get("bias", torch.zeros(1)))
        bias = shift - wide["mean"] * scale
        yield (kernel.double() * scale[:, None, None, None]).float(), bias.float()


def names() -> list[str]:
    """The convolutions in the order of the network, as torchvision calls them."""
    found = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"]
    found = [f"Conv2d_{n}" for n in found]
    double = ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"]
    seven = ["1x1", *(f"7x7_{i}" for i in "123"), *(f"7x7dbl_{i}" for i in "12345"), "_pool"]
    last = ["1x1", "3x3_1", "3x3_2a", "3x3_2b", *double[:2], "3x3dbl_3a", "3x3dbl_3b", "_pool"]
    blocks = {f"5{c}": ["1x1", "5x5_1", "5x5_2", *double, "_pool"] for c in "bcd"}
    blocks |= {"6a": ["3x3", *double]} | {f"6{c}": seven for c in "bcde"}
    blocks |= {"7a": ["3x3_1", "3x3_2", *(f"7x7x3_{i}" for i in "1234")], "7b": last, "7c": last}
    return found + [f"Mixed_{b}.branch{n}" for b, inside in blocks.items() for n in inside]


def _scores(weights: Mapping[str, Tensor], layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of the classifier; ValueError where they are not those of `layer`."""
    names = [n for n, t in weights.items() if t.ndim == 2]
    if len(names) != 1:
        raise ValueError(f"it has {len(names)} classifiers")
    matrix = weights[names[0]]
    bias = weights.get(names[0].replace("weight", "bias"), torch.zeros(len(matrix)))
    if matrix.shape != layer.weight.shape or bias.shape != layer.bias.shape:
        raise ValueError(f"its classifier is not of {POOL} features")
    return matrix, bias


def _conv(
    i: int, o: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | None = None
) -> nn.Conv2d:
    h, w = (kernel, kernel) if isinstance(kernel, int) else kernel
    same = (h // 2, w // 2) if padding is None else padding
    return nn.Conv2d(i, o, (h, w), stride, same)


def _branch(i: int, convs: Sequence[Conv], stride: int = 1) -> nn.Sequential:
    """Convolutions with ReLU; a stride is that of the last one, which is then not padded."""
    layers: list[nn.Module] = []
    for k, (o, kernel) in enumerate(convs):
        last = k == len(convs) - 1 and stride > 1
        layers += [_conv(i, o, kernel, stride if last else 1, 0 if last else None)]
        layers += [nn.ReLU(inplace=True)]
        i = o
    return nn.Sequential(*layers)


class _Mixed(nn.Module):
    """Branches beside each other and an average pool with a 1x1 convolution."""

    def __init__(self, i: int, branches: Sequence[Sequence[Conv]], pool: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(i, b) for b in branches)
        self.pool = _branch(i, [(pool, 1)])

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([b(x) for b in self.branches] + [self.pool(pooled)], 1)


class _Halved(nn.Module):
    """Branches of stride 2 and a maximum pool."""

    def __init__(self, i: int, branches: Sequence[Sequence[Conv]]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(i, b, stride=2) for b in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([b(x) for b in self.branches] + [F.max_pool2d(x, 3, 2)], 1)


class _Split(nn.Module):
    """The widest blocks: 3x3 convolutions as a 1x3 and a 3x1 beside each other."""

    def __init__(self, i: int, pool: object) -> None:
        super().__init__()
        self.average = pool is F.avg_pool2d
        self.single = _branch(i, [(320, 1)])
        self.short = _branch(i, [(384, 1)])
        self.short_ends = nn.ModuleList([_branch(384, [(384, k)]) for k in ((1, 3), (3, 1))])
        self.long = _branch(i, [(448, 1), (384, 3)])
        self.long_ends = nn.ModuleList([_branch(384, [(384, k)]) for k in ((1, 3), (3, 1))])
        self.pool = _branch(i, [(192, 1)])

    def forward(self, x: Tensor) -> Tensor:
        if self.average:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        else:
            pooled = F.max_pool2d(x, 3, 1, 1)
        short, long = self.short(x), self.long(x)
        ends = [e(short) for e in self.short_ends] + [e(long) for e in self.long_ends]
        return torch.cat([self.single(x), *ends, self.pool(pooled)], 1)
