"""The flow of a finite data set along every path, its score known: pictures, and how straight.

    python scripts/show_paths.py [--data eight_gaussians] [--points 256] [--picture paths.png]

Nothing is trained. Of N data points the density of x_t = a x0 + b eps is a mean of N normal ones,
and the datum behind x_t is the mean of the points, weighted by softmax(-|x_t - a x0|^2 / 2 b^2).
All paths start from one draw of noise at sigma = 50 and end at sigma = 0.01. So x / a runs over
one and the same curve on every path; what differs is how it is stretched and when it is where.

length    of all curves over that of all their chords, 1 for straight lines
S         mean of the integral of |x1 - x0 - v|^2 over time, which goes from 0 to 1; 0 for straight
          lines at one speed (Liu et al. 2022, arXiv 2209.03003, section 2.2)
part      S over the mean integral of |v|^2: from 0, to 1 for curves that end where they start
Euler     mean distance from the true end of 10 steps of Euler's method, equal in time

Below, flow without score or diffusion: conditional curves x_t = (1 - t) x0 + t z are straight, and
whatever can be sampled may be z; the flow is their mean velocity (x_t - E[x0 | x_t]) / t. From a
uniform square, E[x0 | x_t] is the plain mean of the points that x_t can come from.
"""

import argparse
import math
from itertools import pairwise

import torch
from PIL import Image, ImageDraw

from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.contract import Spec
from genlab.core.gaussian_path import noise_levels

FIRST, LAST = 0.01, 50.0  # sigma of the ends
STEPS = 400  # of Runge and Kutta's method, equal in ln sigma
SIDE, SHOWN = 360, 96  # pixels of a panel, curves in it
COLORS = ("#2c6fbb", "#c0392b", "#3a8f5d", "#8a63b8", "#c98a1b", "#1f9aa5", "#777777")

PATHS = {
    "linear": {},
    "trig": {},
    "cosine": {"steps": None},
    "vp": {"steps": None},
    "sub_vp": {},
    "ve": {},
    "edm": {},
}


def component(group, name, **keys):
    node = config_of(group, name)
    return registry.build(group, {**node, **keys}, root="", spec=Spec((2,)))


class Normal:
    """Data and standard normal noise."""

    def __init__(self, points, process):
        """points: [N, 2]."""
        self.points, self.process = points, process

    def datum(self, x, a, b):
        """x [n, 2] -> E[x0 | x] [n, 2]."""
        off = torch.cdist(x, a * self.points).square() / (2 * b**2)
        return (-off).softmax(1) @ self.points


class Uniform(Normal):
    """Data and noise that is uniform on a square of variance 1."""

    def datum(self, x, a, b):
        """x [n, 2] -> E[x0 | x] [n, 2]."""
        out = (x[:, None] - a * self.points).abs().amax(2) / b - math.sqrt(3)
        # a state that rounding has put outside of what is possible comes from the nearest points
        return (-1e6 * out.clamp(min=0)).softmax(1) @ self.points


def velocity(flow, t):
    """x [n, 2] -> dx/dt at one time."""
    level = noise_levels(flow.process, [t])[0]
    p, q = level.velocity
    return lambda x: p * x + q * flow.datum(x, level.a, level.b)


def follow(flow, x, times):
    """[len(times), n, 2] states from x [n, 2] at the first of the times; Runge and Kutta."""
    states = [x]
    for here, there in pairwise(times):
        h, middle = there - here, velocity(flow, (here + there) / 2)
        k1 = velocity(flow, here)(x)
        k2 = middle(x + h / 2 * k1)
        k3 = middle(x + h / 2 * k2)
        k4 = velocity(flow, there)(x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        states.append(x)
    return torch.stack(states)


def straightness(states, times):
    """(length, S, part) of states [T, n, 2]."""
    part = states.diff(dim=0)
    chord = states[-1] - states[0]
    length = (part.norm(dim=2).sum() / chord.norm(dim=1).sum()).item()
    time = torch.tensor(times, dtype=torch.float64).diff() / (times[-1] - times[0])
    # v has the mean x1 - x0, so the integral of the squared difference is one of squares less it
    squares = (part.square().sum(2) / time[:, None]).sum(0).mean().item()
    s = squares - chord.square().sum(1).mean().item()
    return length, s, s / squares


def euler(flow, x, first, last, steps=10):
    """The end of Euler's method at equal steps of time."""
    for i in range(steps):
        x = x + (last - first) / steps * velocity(flow, first + i * (last - first) / steps)(x)
    return x


def row(name, flow, states, times):
    a = flow.process.coefficients(torch.tensor(times, dtype=torch.float64))[0][:, None, None]
    off = (euler(flow, states[0], times[0], times[-1]) - states[-1]).norm(dim=1).mean().item()
    # where nothing of the datum is left, x / a has no value
    scaled = straightness(states / a, times) if a[0] else [math.nan] * 3
    values = (*straightness(states, times), *scaled, off)
    print(f"{name:<18}" + "".join(f"{v:>10.4g}".replace("nan", "  -") for v in values))


# --- pictures ------------------------------------------------------------------------------------


def panel(title, curves, points, limit):
    """curves: color -> [T, n, 2]. The plane from -limit to limit, drawn at twice the size."""
    image = Image.new("RGB", (2 * SIDE, 2 * SIDE), "white")
    pen = ImageDraw.Draw(image)
    place = lambda v: ((v * torch.tensor([1, -1]) / limit + 1) * SIDE).tolist()  # noqa: E731
    for color, states in curves.items():
        for curve in states[:, :SHOWN].unbind(1):
            pen.line([tuple(v) for v in place(curve)], fill=color, width=2)
            x, y = place(curve[0])
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill="#bbbbbb")
    for x, y in place(points):
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill="black")
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    ImageDraw.Draw(image).text((8, 6), f"{title}, to {limit:g}", fill="black", font_size=14)
    return image


def reach(states):
    """What holds nearly all of the states, in round numbers."""
    most = states[:, :SHOWN].abs().amax().item()
    step = 10.0 ** math.floor(math.log10(most))
    return math.ceil(most * 1.05 / step * 2) / 2 * step


def sheet(panels, path, across=5):
    rows = -(-len(panels) // across)
    page = Image.new("RGB", ((SIDE + 4) * across - 4, (SIDE + 4) * rows - 4), "#cccccc")
    for i, one in enumerate(panels):
        page.paste(one, (i % across * (SIDE + 4), i // across * (SIDE + 4)))
    page.save(path)


@torch.no_grad()
def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--data", default="eight_gaussians")
    words.add_argument("--points", type=int, default=256)
    words.add_argument("--curves", type=int, default=256)
    words.add_argument("--picture", default="paths.png")
    args = words.parse_args()
    data = component("data", "toy", kind=args.data, count=args.points)
    points = data.load("train").x.double()
    g = torch.Generator().manual_seed(0)
    z = torch.randn(args.curves, 2, dtype=torch.float64, generator=g)
    square = (torch.rand(args.curves, 2, dtype=torch.float64, generator=g) * 2 - 1) * math.sqrt(3)
    sigma = torch.linspace(math.log(LAST), math.log(FIRST), STEPS + 1, dtype=torch.float64).exp()

    print(f"{'':<18}{'own x':>30}{'x / a':>30}")
    print(f"{'':<18}" + "".join(f"{h:>10}" for h in (*("length", "S", "part") * 2, "Euler")))
    panels, ends, same = [], [], {}
    for color, (name, keys) in zip(COLORS, PATHS.items(), strict=True):
        flow = Normal(points, component("process", name, **keys))
        times = flow.process.time(sigma).tolist()
        path = noise_levels(flow.process, times)
        states = follow(flow, path[0].b * z, times)
        row(name, flow, states, times)
        panels.append(panel(name, {color: states}, points, reach(states)))
        a = torch.tensor([level.a for level in path[:-1]], dtype=torch.float64)[:, None, None]
        same[color] = states / a
        ends.append(states[-1] / a[-1])
    panels.append(panel("x / a of all", same, points, 6))
    apart = max((end - ends[0]).norm(dim=1).max().item() for end in ends)
    print(f"\nends of x / a, farthest from those of linear: {apart:.1e}\n")

    linear = component("process", "linear")
    times = [1.0, *linear.time(sigma).tolist()]
    for color, kind, start in (("#2c6fbb", Normal, z), ("#c98a1b", Uniform, square)):
        flow = kind(points, linear)
        states = follow(flow, start, times)
        name = f"linear, {kind.__name__.lower()}"
        row(name, flow, states, times)
        panels.append(panel(name, {color: states}, points, reach(states)))
    sheet(panels, args.picture)
    print(f"\n{args.picture}: states of each path, grey where they start, black the data")


if __name__ == "__main__":
    main()
