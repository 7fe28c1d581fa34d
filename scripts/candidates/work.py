"""What `bench_fused.py` times: each candidate beside plain code, at the shapes the house has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import yaml
from torch import Tensor, nn

from candidates import adaln, group_norm_silu, nearest_code
from genlab.core.contract import Spec
from genlab.core.registry import configs_dir
from genlab.network.unet import UNet
from genlab.nn.norm import GroupNorm

__all__ = ["Work", "every", "unet_norms"]


@dataclass(frozen=True)
class Work:
    """One shape of one candidate.

    candidate: whose verdict it counts for. times: how often it occurs, for the verdict's sum.
    plain: what the house calls today. whole: what torch.compile is given, if not plain.
    ours: the candidate, once for each configuration.
    inputs: makes one set, on the device given; those that require a gradient get one.
    """

    candidate: str
    shape: str
    times: int
    plain: Callable[..., Tensor]
    ours: Sequence[Callable[..., Tensor]]
    inputs: Callable[[torch.device], tuple[Tensor, ...]]
    trains: bool = True
    whole: Callable[..., Tensor] | None = None


def unet_norms(side: int) -> Counter[tuple[int, int, bool]]:
    """(channels, side, with a condition) of the norms before a SiLU -> how many the U-Net has.

    side: of the images, in pixels; the network is that of configs/network/unet.yaml.
    """
    keys = yaml.safe_load((configs_dir() / "network" / "unet.yaml").read_text())["net"]
    del keys["name"]
    net = UNet(Spec((3, side, side)), **keys)
    found: Counter[tuple[int, int, bool]] = Counter()

    def seen(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[given[0].shape[1], given[0].shape[2], len(given) > 1] += 1

    for name, module in net.named_modules():
        if isinstance(module, GroupNorm) and "attention" not in name:
            module.register_forward_pre_hook(seen)
    with torch.no_grad():
        net(torch.zeros(1, 3, side, side), torch.zeros(1), None)
    return found


def group_norms(batch: int, side: int) -> Iterator[Work]:
    """Every norm of the U-Net, bf16 in channels_last."""

    def inputs(shape, given, device):
        x = torch.randn(shape, device=device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        ends = torch.randn(shape[0], 2 * shape[1], device=device, dtype=torch.bfloat16)
        condition = [t.requires_grad_() for t in ends.chunk(2, 1)] if given else []
        affine = [torch.ones(shape[1], device=device), torch.zeros(shape[1], device=device)]
        return x, *(t.requires_grad_() for t in affine), *condition

    def called(f, norm, x, weight, bias, scale=None, shift=None):
        norm.weight, norm.bias = weight, bias
        return f(norm, x, scale, shift)

    for (channels, height, given), times in sorted(
        unet_norms(side).items(), key=lambda i: -i[0][1]
    ):
        norm = GroupNorm(channels)
        del norm.weight, norm.bias  # those of the inputs take their place
        yield Work(
            "group_norm_silu",
            f"{batch} x {channels} x {height} x {height}{', scale and shift' * given}",
            times,
            partial(called, group_norm_silu.plain, norm),
            [
                partial(called, partial(group_norm_silu.group_norm_silu, config=c), norm)
                for c in group_norm_silu.CONFIGS
            ],
            partial(inputs, (batch, channels, height, height), given),
        )


def norms(batch: int, tokens: int) -> Iterator[Work]:
    """Two a layer in DiT-S and DiT-B, bf16; RMSNorm in their place, and of heads of 64."""

    def inputs(shape, adaptive, device):
        x = torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()
        if not adaptive:
            return x, torch.ones(shape[-1], device=device).requires_grad_()
        ends = torch.randn(shape[0], 6 * shape[-1], device=device, dtype=torch.bfloat16)
        return x, *(t.requires_grad_() for t in ends.chunk(6, 1)[:2])

    for width in (384, 768):
        for name, shape, plain, ours in (
            ("adaln", (batch, tokens, width), adaln.plain_adaln, adaln.adaln),
            ("rms_norm", (batch, tokens, width), adaln.plain_rms_norm, adaln.rms_norm),
            (
                "rms_norm of heads",
                (batch, width // 64, tokens, 64),
                adaln.plain_rms_norm,
                adaln.rms_norm,
            ),
        ):
            yield Work(
                name,
                " x ".join(map(str, shape)),
                24,
                plain,
                [partial(ours, config=c) for c in adaln.CONFIGS],
                partial(inputs, shape, name == "adaln"),
            )


def searches(vectors: int) -> Iterator[Work]:
    """Vectors of 64 numbers, small and large codebooks, float32 as the house has them."""

    def inputs(count, device):
        return torch.randn(vectors, 64, device=device), torch.randn(count, 64, device=device)

    def whole(z, codes):
        return torch.addmm(codes.square().sum(1).mul(-0.5), z, codes.t()).argmax(1)

    for count in (1024, 8192):
        for product in nearest_code.PRODUCTS:
            yield Work(
                f"nearest_code {product}, K {count}",
                f"{vectors} x 64",
                1,
                nearest_code.plain,
                [
                    partial(nearest_code.nearest_code, product=product, config=c)
                    for c in nearest_code.configs(product)
                ],
                partial(inputs, count),
                trains=False,
                whole=whole,
            )


def every(batch: int = 128, side: int = 32, tokens: int = 256, vectors: int = 65536) -> list[Work]:
    """All of it; the sizes are those of the house."""
    return [*group_norms(batch, side), *norms(batch, tokens), *searches(vectors)]
