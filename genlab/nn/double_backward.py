"""Layers of critics whose slope is part of the loss: second derivatives without torch's detours.

torch takes the second derivative of a convolution's weights by a convolution whose kernel is as
large as the feature map, and it carries zeros back through the whole forward pass of a network
that is linear between its kinks. Without both a penalty on the slope takes about 0.6 of the time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Conv2d", "LeakyReLU", "conv2d"]

_slopes = torch.ops.aten.convolution_backward


class Conv2d(nn.Conv2d):
    """A convolution whose slope with respect to its input is cheap to differentiate."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C', H', W']."""
        stride, padding = self.stride[0], self.padding[0]
        return conv2d(x, self.weight, self.bias, stride, int(padding))


class LeakyReLU(nn.LeakyReLU):
    """x where x > 0, else slope x (slope 0: ReLU); its second derivative is nothing, not zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """x [*] -> [*]."""
        if torch.compiler.is_compiling():
            return F.leaky_relu(x, self.negative_slope)
        return _LeakyReLU.apply(x, self.negative_slope)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """x [B, C, H, W], weight [C', C, K, K] -> [B, C', H', W'], as torch's function."""
    # under autocast torch's own function casts; slopes are taken without
    if torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, stride, padding)
    # views, since of a leaf the engine does not report whether its gradient is needed
    weight, bias = weight.view_as(weight), None if bias is None else bias.view_as(bias)
    return _Convolution.apply(x, weight, bias, stride, padding)


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        ctx.set_materialize_grads(False)
        return F.leaky_relu(x, slope)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None]:
        if g is None:
            return None, None
        (x,) = ctx.saved_tensors
        return torch.ops.aten.leaky_relu_backward(g, x.detach(), ctx.slope, False), None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        ctx.set_materialize_grads(False)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None, None
        x, weight = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        if not torch.is_grad_enabled():
            return *_slopes(g, x, weight, [len(weight)], *ctx.shape, needed), None, None
        # needs_input_grad covers every input; autograd.grad may need x alone
        for i, (node, _) in enumerate(ctx.next_functions):
            needed[i] = needed[i] and (i == 0 or _is_needed(node))
        dx = _InputSlope.apply(g, x.detach(), weight, ctx.shape) if needed[0] else None
        dw = db = None
        if any(needed[1:]):
            _, dw, db = _slopes(g, x, weight, [len(weight)], *ctx.shape, [False, *needed[1:]])
        return dx, dw, db, None, None


def _is_needed(node: Any) -> bool:
    """Whether this backward pass will reach a node; yes, where torch no longer reports it."""
    will_execute = getattr(torch._C, "_will_engine_execute_node", None)
    return will_execute is None or bool(will_execute(node))


class _InputSlope(torch.autograd.Function):
    """The slope of a convolution with respect to its input: linear in g and in the weight.

    x gives the size alone.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, shape: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.shape = shape
        return _slopes(g, x, weight, None, *shape, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, gg: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        """<gg, dx> = <conv(gg, weight), g>, so it has the slopes of a convolution of gg."""
        g, weight = ctx.saved_tensors
        dg = dw = None
        if ctx.needs_input_grad[0]:
            (stride, _), (padding, _), *_ = ctx.shape
            dg = conv2d(gg, weight, None, stride, padding)
        if ctx.needs_input_grad[2]:
            _, dw, _ = _slopes(g, gg, weight, None, *ctx.shape, [False, True, False])
        return dg, None, dw, None
