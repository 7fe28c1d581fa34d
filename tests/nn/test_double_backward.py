"""Layers of critics: the second derivatives of torch, without its detours."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn.double_backward import Conv2d, LeakyReLU


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def critic_of_all_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        Conv2d(2, 4, 4, 2, 1), LeakyReLU(0.2), Conv2d(4, 3, 3, 1, 1, bias=False), nn.SiLU(),
        Conv2d(3, 1, 4), nn.Flatten(0),
    )  # fmt: skip


def plain(net: nn.Sequential) -> nn.Sequential:
    """The same network of torch's own layers."""
    for layer in net:
        layer.__class__ = {Conv2d: nn.Conv2d, LeakyReLU: nn.LeakyReLU}.get(
            type(layer), type(layer)
        )
    return net


def gradients_through_the_slope(net: nn.Sequential, dtype: torch.dtype) -> list[Tensor]:
    x = seeded(5, 2, 8, 8).to(dtype).requires_grad_()
    score = net.to(dtype)(x)
    (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    ((slope.flatten(1).norm(dim=1) - 1).square().mean() + score.mean()).backward()
    return [x.grad, *(p.grad for p in net.parameters())]


def test_layers_of_critics_have_the_second_derivatives_of_torch():
    """A kink, a smooth activation, which needs the forward pass again, strides and biases."""
    ours = gradients_through_the_slope(critic_of_all_layers(), torch.float64)
    torchs = gradients_through_the_slope(plain(critic_of_all_layers()), torch.float64)
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_layers_of_critics_against_finite_differences():
    net = critic_of_all_layers().double()
    first = net[0].weight
    grads = gradients_through_the_slope(net, torch.float64)

    def loss() -> Tensor:
        x = seeded(5, 2, 8, 8).double().requires_grad_()
        score = plain(critic_of_all_layers()).double()
        score.load_state_dict(net.state_dict())
        out = score(x)
        (slope,) = torch.autograd.grad(out.sum(), x)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean() + out.mean()

    step = seeded(*first.shape, seed=3).double()
    sides = []
    for h in (1e-6, -1e-6):
        with torch.no_grad():
            first += h * step
        sides.append(loss().detach())
        with torch.no_grad():
            first -= h * step
    torch.testing.assert_close(
        (grads[1] * step).sum(), (sides[0] - sides[1]) / 2e-6, rtol=1e-4, atol=1e-8
    )


@pytest.mark.parametrize("asked", ["x", "weight", "both"])
def test_a_convolution_gives_whatever_derivative_is_asked_for(asked):
    x, layer = seeded(2, 2, 6, 6).requires_grad_(), Conv2d(2, 3, 3, 1, 1)
    of = {"x": [x], "weight": [layer.weight], "both": [x, layer.weight, layer.bias]}[asked]
    for graph in (False, True):
        got = torch.autograd.grad(layer(x).square().sum(), of, create_graph=graph)
        reference = F.conv2d(x, layer.weight, layer.bias, 1, 1)
        expected = torch.autograd.grad(reference.square().sum(), of, create_graph=graph)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)
        if graph:
            twice = [
                torch.autograd.grad(sum(g.square().sum() for g in gs), [x, layer.weight])
                for gs in (got, expected)
            ]
            torch.testing.assert_close(*twice)
