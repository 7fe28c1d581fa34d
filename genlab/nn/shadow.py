"""Averaged copies of networks, and networks held still."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["Shadow", "frozen"]


class Shadow(nn.Module):
    """Exponential moving average of a network, kept as state of the model.

    ema <- ema + (1 - decay) (net - ema),  decay = 2^(-drawn / halflife)

    The half-life is counted in images, so batch size and accumulation do not change its meaning.
    Early in training it is shortened to `ramp` times the images seen, so that the random start is
    forgotten. Buffers (running statistics) are copied, never averaged.

    Reference: Karras et al. 2022, arXiv 2206.00364, appendix F (half-life and ramp-up).
    """

    def __init__(self, network: nn.Module, halflife: float, ramp: float = 0.05) -> None:
        """halflife: images after which a weight counts half (0: plain copy); ramp: see above."""
        super().__init__()
        if halflife < 0:
            raise ValueError(f"the half-life of an average is at least 0 images, not {halflife}")
        self.halflife, self.ramp = halflife, ramp
        self.copy = copy.deepcopy(network).requires_grad_(False).eval()
        self._network = (network,)  # a tuple hides it from state_dict: it is not ours to save
        self._pairs: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
        self._buffers_pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def follows(self, network: nn.Module) -> bool:
        """Whether this is the average of `network`."""
        return self._network[0] is network

    @torch.no_grad()
    def update(self, images: int, drawn: int) -> None:
        """Moves the average after a step that drew `drawn` images, `images` before it."""
        if self._pairs is None:
            source, target = self._network[0], self.copy
            self._pairs = (list(target.parameters()), list(source.parameters()))
            self._buffers_pairs = list(zip(target.buffers(), source.buffers(), strict=True))
        halflife = min(self.halflife, self.ramp * (images + drawn)) if self.ramp else self.halflife
        decay = 0.5 ** (drawn / halflife) if halflife > 0 else 0.0
        torch._foreach_lerp_(self._pairs[0], self._pairs[1], 1 - decay)
        for target, source in self._buffers_pairs:
            target.copy_(source)

    def train(self, mode: bool = True) -> Shadow:
        """Stays in evaluation mode."""
        return super().train(False)

    def _apply(self, fn, recurse: bool = True) -> Shadow:  # noqa: ANN001 - torch's signature
        self._pairs = None  # moving a module may replace its tensors
        return super()._apply(fn, recurse)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Blocks gradients into the weights of `modules` while a loss is computed through them."""
    held = [p for m in modules for p in m.parameters() if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)
