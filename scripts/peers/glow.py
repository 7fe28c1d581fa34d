"""Training and sampling of Glow with 3 levels of 8 steps, couplings of width 128."""

from functools import partial

import torch
from torch import nn

from genlab.sampling.pipeline import Pipeline
from peers import ours
from peers.compare import Side, Target, Work

__all__ = ["TARGETS"]

BATCH, SIDE, LEVELS, DEPTH, WIDTH = 64, 32, 3, 8, 128
WORDS = ["model=glow", "model.ema=0", f"schedule.batch={BATCH}", f"network.net.levels={LEVELS}"]
WORDS += [f"network.net.depth={DEPTH}", f"network.net.width={WIDTH}"]


def coupling(inside: int, outside: int) -> nn.Sequential:
    """The network of Glow's couplings, which starts at zero."""
    net = nn.Sequential(
        nn.Conv2d(inside, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, outside, 3, padding=1),
    )
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net


class _Coupling(nn.Module):
    """The same where a second argument is handed over, as nflows does."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.net = coupling(inside, outside)

    def forward(self, x: torch.Tensor, context: None = None) -> torch.Tensor:
        return self.net(x)


def images() -> torch.Tensor:
    """Values of dequantized images in [-1/2, 1/2)."""
    return torch.rand(BATCH, 1, SIDE, SIDE) - 0.5


# --- genlab --------------------------------------------------------------------------------------


def genlab_training() -> Work:
    """As `genlab train model=glow` trains it; no average."""
    built, trainer = ours.trainer(*WORDS, side=SIDE)
    note = f"{ours.millions(built.model)}, {built.hardware.describe()}"
    return Work(trainer.one_step, BATCH, note)


def genlab_sampling() -> Work:
    """Down to bytes, as `genlab sample` draws."""
    built, trainer = ours.trainer(*WORDS, side=SIDE)
    trainer.one_step()
    note = f"{ours.millions(built.model)}, {built.hardware.describe()}"
    pipeline = Pipeline(built)
    return Work(lambda: pipeline.draw(None, 0, range(BATCH)), BATCH, note)


# --- peers ---------------------------------------------------------------------------------------


def training(make) -> Work:
    """Mean of nats(x) [B], Adam and clipping, fp32."""
    network, nats, _ = make()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x = images()
    step = ours.step_by_hand(lambda: nats(x).mean(), optimizer)
    return Work(step, BATCH, f"{ours.millions(network)}, fp32")


def sampling(make) -> Work:
    """draw() without gradients, once the layers that start on data have seen some."""
    network, nats, draw = make()
    with torch.no_grad():
        nats(images())
    network.eval()

    def step() -> None:
        with torch.no_grad():
            assert len(draw()) == BATCH

    return Work(step, BATCH, f"{ours.millions(network)}, fp32")


def normflows():
    """Its GlowBlock, squeezed and merged as in its Glow example: (network, nats, draw)."""
    import normflows as nf

    base, flows, merges = [], [], []
    for i in range(LEVELS):
        channels = 2 ** (LEVELS + 1 - i)
        steps = [nf.flows.GlowBlock(channels, WIDTH, scale_map="sigmoid") for _ in range(DEPTH)]
        flows.append([*steps, nf.flows.Squeeze()])
        side = SIDE >> (LEVELS - i)
        if i > 0:
            merges.append(nf.flows.Merge())
            channels //= 2
        base.append(nf.distributions.DiagGaussian((channels, side, side)))
    net = nf.MultiscaleFlow(base, flows, merges, class_cond=False)
    return net, net, lambda: net.sample(BATCH)[0]


def nflows():
    """Its actnorm, LU convolution and affine coupling, composed by hand: (network, nats, draw)."""
    from nflows import flows, transforms
    from nflows.distributions import StandardNormal

    scales = transforms.MultiscaleCompositeTransform(LEVELS)
    shape = (1, SIDE, SIDE)
    for _ in range(LEVELS):
        steps = [transforms.SqueezeTransform()]
        shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
        half = torch.arange(shape[0]) < shape[0] // 2
        for _ in range(DEPTH):
            steps += [
                transforms.ActNorm(shape[0]),
                transforms.OneByOneConvolution(shape[0]),
                transforms.AffineCouplingTransform(half, _Coupling),
            ]
        shape = scales.add_transform(transforms.CompositeTransform(steps), shape)
    net = flows.Flow(scales, StandardNormal([SIDE * SIDE]))
    return net, lambda x: -net.log_prob(x), lambda: net.sample(BATCH)


def freia():
    """Its AllInOneBlock, which has all three in one: (network, nats, draw)."""
    from FrEIA import framework, modules

    nodes = [framework.InputNode(1, SIDE, SIDE)]
    ends = []
    for level in range(LEVELS):
        nodes.append(framework.Node(nodes[-1], modules.IRevNetDownsampling, {}))
        for _ in range(DEPTH):
            keys = {"subnet_constructor": coupling}
            nodes.append(framework.Node(nodes[-1], modules.AllInOneBlock, keys))
        if level < LEVELS - 1:
            nodes.append(framework.Node(nodes[-1], modules.Split, {}))
            ends.append(framework.OutputNode(nodes[-1].out1))
    ends.append(framework.OutputNode(nodes[-1]))
    net = framework.GraphINN([*nodes, *ends], verbose=False)
    shapes = [z.shape for z in net(images())[0]]

    def nats(x):
        z, log_det = net(x)
        return sum(part.square().sum((1, 2, 3)) for part in z) / 2 - log_det

    return net, nats, lambda: net([torch.randn(s) for s in shapes], rev=True)[0]


TRAINING = f"training step of Glow, {LEVELS} levels of {DEPTH} steps, width {WIDTH}, "
TRAINING += f"{SIDE}x{SIDE}x1, batch {BATCH}, Adam, clip 1.0, no average; peers in fp32"
SAMPLING = f"{BATCH} samples of the same network; genlab's down to bytes"
PEERS = (
    ("normflows GlowBlock", normflows, "normflows", "normflows"),
    ("nflows", nflows, "nflows", "nflows"),
    ("FrEIA AllInOneBlock", freia, "FrEIA", "FrEIA"),
)


def _peers(work) -> tuple[Side, ...]:
    return tuple(Side(name, partial(work, make), *package, 1.5) for name, make, *package in PEERS)


TARGETS = (
    Target("glow-train", "images/s", TRAINING, Side("genlab", genlab_training), _peers(training)),
    Target("glow-sample", "images/s", SAMPLING, Side("genlab", genlab_sampling), _peers(sampling)),
)
