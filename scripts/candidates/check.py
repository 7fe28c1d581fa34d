"""The candidates against plain code in float64: on a GPU, or on a CPU in Triton's interpreter.

    TRITON_INTERPRET=1 python -m candidates.check      # in scripts/, where genlab can be imported

An error is the largest of a tensor over the largest number of the reference. In float32 2e-6 is
allowed, in bf16 twice the error of plain code in bf16. On a GPU a second call has to give the same
bits. Exit code 1 if anything is larger.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from candidates import adaln, group_norm_silu, nearest_code
from genlab.kernel.dispatch import interpreted
from genlab.nn.norm import GroupNorm

EXACT = 2e-6
DEVICE = "cpu" if interpreted() else "cuda"
HALF = torch.bfloat16


class Row(NamedTuple):
    """One tensor of one case: its error, and the largest allowed."""

    case: str
    tensor: str
    error: float
    allowed: float


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
    """Normal numbers, the same on every device."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=rng) + mean).to(DEVICE, dtype)


def results(f: Callable[..., Tensor], names: str, inputs: list[Tensor]) -> dict[str, Tensor]:
    """What f makes of its inputs and the gradient of each, in float64."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    y = f(*inputs)
    assert (y.dtype, y.shape) == (inputs[0].dtype, inputs[0].shape)
    dy = drawn(*y.shape, seed=99, dtype=HALF).to(y.dtype)
    grads = torch.autograd.grad(y, inputs, dy)
    named = {"y": y.detach()} | {f"d{n}": g for n, g in zip(names.split(), grads, strict=True)}
    return {name: t.double() for name, t in named.items()}


def rows(
    case: str,
    ours: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    names: str,
    *inputs: Tensor,
) -> Iterator[Row]:
    """One differentiable case, a row a tensor."""
    truth = results(plain, names, [t.double() for t in inputs])
    found = results(ours, names, [*inputs])
    theirs = results(plain, names, [*inputs]) if inputs[0].dtype == HALF else None
    for name, right in truth.items():
        most = float(right.abs().max())
        allowed = EXACT
        if theirs:
            allowed = max(allowed, 2 * float((theirs[name] - right).abs().max()) / most)
        yield Row(case, name, float((found[name] - right).abs().max()) / most, allowed)
    if DEVICE == "cuda":
        again = results(ours, names, [*inputs])
        yield Row(case, "again", sum(not again[n].equal(found[n]) for n in found), 0)


def group_norms() -> Iterator[Row]:
    """Groups of 4, 7 and 12 channels, maps that fill no tile, with a condition and without."""

    def called(f, x, weight, bias, *condition, **config):
        norm = GroupNorm(x.shape[1])
        del norm.weight, norm.bias
        norm.weight, norm.bias = weight, bias  # as tensors, so that they get gradients here
        return f(norm, x, *(condition or (None, None)), **config)

    def ours(x, *rest, config):
        x = x.contiguous(memory_format=torch.channels_last)
        return called(group_norm_silu.group_norm_silu, x, *rest, config=config)

    def plain(x, *rest):
        return called(group_norm_silu.plain, x, *rest)

    small = group_norm_silu.Config(16, 16, 4, 1)
    cases = [((2, 40, 5, 7), False, small), ((1, 7, 3, 3), True, small)]
    cases += [((1, 384, 1, 5), True, group_norm_silu.CONFIGS[0])]
    cases += [((2, 128, 6, 6), True, config) for config in group_norm_silu.CONFIGS]
    for shape, given, config in cases:
        for dtype in (torch.float32, HALF):
            batch, channels = shape[:2]
            affine = [drawn(channels, seed=1, mean=1.0), drawn(channels, seed=2)]
            names = "x weight bias"
            if given:
                affine += drawn(batch, 2 * channels, seed=3, dtype=dtype).chunk(2, 1)
                names += " scale shift"
            x = drawn(*shape, seed=0, dtype=dtype, mean=3.0)
            case = f"group_norm_silu {list(shape)} {str(dtype)[6:]}, {tuple(config)}"
            yield from rows(
                case, lambda *t, c=config: ours(*t, config=c), plain, names, x, *affine
            )


def norms() -> Iterator[Row]:
    """Widths that are no power of two, and numbers of tokens that are no multiple of a tile."""
    cases = [((2, 9, 24), adaln.Config(128, 1, 4)), ((1, 5, 7), adaln.Config(16, 1, 4))]
    cases += [((2, 7, 384), config) for config in adaln.CONFIGS]
    for shape, config in cases:
        for dtype in (torch.float32, HALF):
            x = drawn(*shape, seed=0, dtype=dtype, mean=3.0)
            ends = f"{list(shape)} {str(dtype)[6:]}, {tuple(config)}"
            condition = drawn(len(x), 2 * shape[2], seed=1, dtype=dtype).chunk(2, 1)
            yield from rows(
                f"adaln {ends}",
                lambda *t, c=config: adaln.adaln(*t, config=c),
                adaln.plain_adaln,
                "x scale shift",
                x,
                *condition,
            )
            yield from rows(
                f"rms_norm {ends}",
                lambda *t, c=config: adaln.rms_norm(*t, config=c),
                adaln.plain_rms_norm,
                "x weight",
                x,
                drawn(shape[2], seed=2, mean=1.0),
            )


def searches() -> Iterator[Row]:
    """Every product, whole numbers whose scores are exact, so that codes tie."""
    for product in nearest_code.PRODUCTS:
        for vectors, count, width in ((70, 100, 24), (5, 1, 3), (1, 300, 64)):
            config = nearest_code.configs(product)[0]
            case = f"nearest_code {[vectors, count, width]} {product}, {tuple(config)}"
            z, codes = (drawn(n, width, seed=n, mean=0.5) for n in (vectors, count))

            def found(z, codes, p=product, c=config):
                return nearest_code.nearest_code(z, codes, p, c)

            if product == "bf16":
                z, codes = z.to(HALF), codes.to(HALF)
            far = torch.cdist(z.double(), codes.double())
            excess = far.gather(1, found(z, codes)[:, None])[:, 0] - far.amin(1)
            yield Row(case, "distance", float((excess / far.amin(1)).max()), EXACT)

            z, codes = z.mul(2).round(), codes.mul(2).round()
            codes[count // 2 :] = codes[: count - count // 2].clone()
            scores = z.double() @ codes.double().t() - codes.double().square().sum(1) / 2
            first = (scores == scores.amax(1, keepdim=True)).int().argmax(1)
            index = found(z, codes)
            yield Row(case, "ties, wrong", int((index != first).sum()), 0)
            assert index.dtype == torch.int64

            z[0, 0] = float("nan")
            index = found(z, codes)
            yield Row(case, "not there", int(((index < 0) | (index >= count)).sum()), 0)


def every() -> Iterator[Row]:
    """All cases."""
    yield from group_norms()
    yield from norms()
    yield from searches()


def main() -> None:
    wrong = 0
    print("| case | tensor | error | allowed |\n|---|---|---|---|")
    for row in every():
        bad = not row.error <= row.allowed
        wrong += bad
        end = " **wrong** |" if bad else ""
        print(f"| {row.case} | {row.tensor} | {row.error:.2g} | {row.allowed:.2g} |{end}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
