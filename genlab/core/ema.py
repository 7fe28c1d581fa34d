"""Exponential moving averages of network weights, and weights that take no gradients.

A step of n images that ends at t images moves an average by

    avg <- beta avg + (1 - beta) net

where beta follows from the key `ema` of a model:

    h, {halflife: h, ramp: r}   beta = 2^(-n / min(h, r t))    r = 0.05 for a plain number
    {decay: d}                  beta = d
    {std: [s, ...]}             beta = (1 - n / t)^(gamma + 1),  s = sigma_rel(gamma)

Half-life: in images, so batch size and accumulation do not change its meaning; early in training
it is `ramp` times the images seen, so that the random start is forgotten (ramp 0: not shortened).
Karras et al. 2022, arXiv 2206.00364, appendix F. A plain 0 is no average.

Decay: of every optimizer step, whatever its batch, as DDPM counts: the half-life is
n ln 2 / -ln d images, 887,000 for d = 0.9999 and n = 128, and twice that for twice the batch. The
random start is part of it. Ho et al. 2020, arXiv 2006.11239, appendix B.

Power function: an average with weights s^gamma, exactly: net between two steps is what the later
one made, so (1 - n/t)^(gamma + 1) is no approximation. It always reaches back over the same share
of the training, and the start has no weight. Several are kept at once; samples are drawn from the
first, and from any other length afterwards (`blend`). Karras et al. 2023, arXiv 2312.02696,
section 3.1 and eq. 2.

Post-hoc EMA. A power-function average at time t (images drawn) is

    avg_gamma(t) = integral of p_{gamma,t}(s) net(s) over s <= t,
    p_{gamma,t}(s) = (gamma + 1) s^gamma / t^(gamma + 1)

Its width grows with t: the standard deviation of p is always the same share of t,

    sigma_rel(gamma) = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))

from 0.288 (gamma = 0, the plain mean) to 0, and names the average. An average that was not tracked
is the sum of kept ones whose profile is nearest to the wanted one in L2. Their inner products have
a closed form: with m = min(t, u),

    <p_{gamma,t}, p_{delta,u}> = (gamma + 1) (delta + 1) / (gamma + delta + 1)
                                 m^(gamma + delta + 1) / (t^(gamma + 1) u^(delta + 1))

Reference: Karras et al. 2023, arXiv 2312.02696, section 3 and appendix C. Added here: the
coefficients sum to 1, as every profile does. The mean of the weights is then carried over whatever
the profiles leave over, which makes the error about ten times smaller on a random walk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from genlab.core.schema import Average

__all__ = ["EMA", "blend", "frozen", "gamma_of", "make_ema", "std_of"]


def std_of(gamma: float) -> float:
    """gamma >= 0 -> relative standard deviation of its profile, in (0, 0.289]."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def gamma_of(std: float) -> float:
    """Relative standard deviation in (0, 0.288] -> gamma, the largest root of its cubic.

    gamma^3 + 7 gamma^2 + (16 - std^-2) gamma + 12 - std^-2 = 0. Raises ValueError outside.
    """
    if not 0 < std <= std_of(0):
        raise ValueError(f"no profile t^gamma, gamma >= 0, has a relative std of {std:g}")
    inverse = std**-2
    low, high = 0.0, inverse**0.5  # sigma_rel falls with gamma and is below 1 / (gamma + 2)
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if std_of(middle) > std else (low, middle)
    return middle


def blend(std: float, time: float, kept: Sequence[tuple[float, float]]) -> tuple[Tensor, float]:
    """How much of each kept average makes the one of `std` at `time`.

    kept: (std, time) of each, all different. Returns (coefficients [n] float64, which sum to 1;
    the distance of their profile from the wanted one, relative to the length of that).
    """
    gammas = torch.tensor([gamma_of(s) for s, _ in kept], dtype=torch.float64)
    times = torch.tensor([t for _, t in kept], dtype=torch.float64) / time
    wanted = torch.tensor(gamma_of(std), dtype=torch.float64)
    one = torch.ones(len(kept), dtype=torch.float64)
    among = _inner(gammas[:, None], times[:, None], gammas, times)
    aims = _inner(wanted, one[0], gammas, times)
    # least squares under a constraint: the gradient is the same in every coefficient
    matrix = torch.cat([torch.cat([among, one[:, None]], 1), one.new_ones(1, len(kept) + 1)])
    matrix[-1, -1] = 0
    right = torch.cat([aims, one[:1]])[:, None]
    found = torch.linalg.lstsq(matrix, right, driver="gelsd").solution[:-1, 0]
    whole = _inner(wanted, one[0], wanted, one[0])
    left = whole - 2 * aims @ found + found @ among @ found
    return found, float((left.clamp(min=0) / whole).sqrt())


def _inner(gamma: Tensor, t: Tensor, delta: Tensor, u: Tensor) -> Tensor:
    """<p_{gamma,t}, p_{delta,u}>, written so that large powers stay between 0 and 1."""
    m = torch.minimum(t, u)
    scale = (gamma + 1) * (delta + 1) / (gamma + delta + 1)
    return scale * (m / t) ** gamma * (m / u) ** delta * m / (t * u)


RAMP = 0.05

Decay = Callable[[int, int], float]
"""(images before the step, images of the step) -> beta."""


def make_ema(network: nn.Module, ema: Average) -> EMA | None:
    """The average a model draws its samples from, as its key `ema` says; None for 0."""
    return EMA(network, ema) if ema else None


class EMA(nn.Module):
    """Moving average of a network, kept as state of the model; see the formulas above.

    Buffers (running statistics) are copied, never averaged. A model may hold another one of the
    same network as a target of its loss, which samples are not drawn from.

    copy: the average (the first of several). stds: relative standard deviations of power-function
    averages, in order; empty for other kinds.
    """

    def __init__(self, network: nn.Module, ema: Average, *, target: bool = False) -> None:
        """ema: as in a config; target: of a loss, not what samples are drawn from.

        Raises ValueError for a negative half-life.
        """
        super().__init__()
        self.target, self.stds = target, _stds(ema)
        self._decays = _decays(ema)
        averages = [copy.deepcopy(network).requires_grad_(False).eval() for _ in self._decays]
        self.copy, self.others = averages[0], nn.ModuleList(averages[1:])
        # tuples hide modules from state_dict: they are not ours to save
        self._network = (network,)
        self._rebuilt: tuple[float, nn.Module] | None = None
        self._moved: list[list[Tensor]] | None = None
        self._sources: list[Tensor] = []
        self._copied: list[tuple[Tensor, Tensor]] = []

    @property
    def averages(self) -> list[nn.Module]:
        """The averages, in the order of the config."""
        return [self.copy, *self.others]

    def tracks(self, network: nn.Module) -> bool:
        """Whether samples of `network` are drawn from this average of it."""
        return self._network[0] is network and not self.target

    def network_for(self, weights: str | float) -> nn.Module:
        """The average for "ema", or the one that was rebuilt for a relative std."""
        if isinstance(weights, str) or not self.stds:
            return self.copy
        assert self._rebuilt is not None and self._rebuilt[0] == weights, "rebuild comes first"
        return self._rebuilt[1]

    def rebuild(self, std: float, parameters: Mapping[str, Tensor]) -> None:
        """Keeps another average to draw from, until the next: its buffers are the newest.

        parameters: name in the network -> value.
        """
        made = copy.deepcopy(self.copy)
        with torch.no_grad():
            for name, p in made.named_parameters():
                p.copy_(parameters[name])
        self._rebuilt = (std, made)

    def restart(self) -> None:
        """Begins anew at the weights that the network has."""
        for average in self.averages:
            average.load_state_dict(self._network[0].state_dict())

    @torch.no_grad()
    def update(self, images: int, drawn: int) -> None:
        """Moves the averages after a step that drew `drawn` images, `images` before it."""
        if self._moved is None:
            network = self._network[0]
            self._sources = list(network.parameters())
            self._moved = [list(c.parameters()) for c in self.averages]
            self._copied = [
                pair
                for c in self.averages
                for pair in zip(c.buffers(), network.buffers(), strict=True)
            ]
        for decay, moved in zip(self._decays, self._moved, strict=True):
            torch._foreach_lerp_(moved, self._sources, 1 - decay(images, drawn))
        for target, source in self._copied:
            target.copy_(source)

    def train(self, mode: bool = True) -> EMA:
        """Stays in evaluation mode."""
        return super().train(False)

    def _apply(self, fn, recurse: bool = True) -> EMA:  # noqa: ANN001 - torch's signature
        self._moved = self._rebuilt = None  # moving a module may replace its tensors
        return super()._apply(fn, recurse)


def _stds(ema: Average) -> tuple[float, ...]:
    return tuple(ema.get("std", ())) if isinstance(ema, Mapping) else ()


def _decays(ema: Average) -> list[Decay]:
    """beta of each average a config names."""
    if not isinstance(ema, Mapping):
        ema = {"halflife": ema, "ramp": RAMP}
    if stds := _stds(ema):
        return [_power(gamma_of(std)) for std in stds]
    if "decay" in ema:
        return [lambda images, drawn: ema["decay"]]
    return [_halflife(ema["halflife"], ema.get("ramp", RAMP))]


def _power(gamma: float) -> Decay:
    return lambda images, drawn: (images / (images + drawn)) ** (gamma + 1)


def _halflife(length: float, ramp: float) -> Decay:
    if length < 0:
        raise ValueError(f"the half-life of an average is at least 0 images, not {length}")

    def decay(images: int, drawn: int) -> float:
        halflife = min(length, ramp * (images + drawn)) if ramp else length
        return 0.5 ** (drawn / halflife) if halflife > 0 else 0.0

    return decay


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
