"""A training step and a draw of a model on EDM's path, with a U-Net of about 10 M parameters."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from genlab.sampling.pipeline import Pipeline
from peers import ours
from peers.compare import Side, Target, Work
from peers.unet import LEVELS, described, diffusers_net

__all__ = ["TARGETS"]

BATCH, DRAWN, SIDE, STEPS = 64, 16, 32, 18  # images of a training step and of a draw
EVALUATIONS = 2 * STEPS - 1  # of Heun's method, whose last step is Euler's
LEAST, MOST, MEAN, DEVIATION = 0.002, 80.0, -1.2, 1.2  # sigmas of sampling; ln sigma of training
WORDS = ["model=flow_matching", "process=edm", "model.sd=1", "model.predict=F", "model.weight=edm"]
WORDS += ["model.density=lognormal", f"model.location={MEAN}", f"model.scale={DEVIATION}"]
WORDS += ["model.ema=0", f"schedule.batch={BATCH}", "guidance=none", "network=unet"]
WORDS += [f"network.net.{key}" for key in (*LEVELS, "embedding=128", "dropout=0")]
WORDS += ["sampler=heun", f"sampler.steps={STEPS}", "sampler.grid=karras", "sampler.rho=7"]
WORDS += [f"sampler.span=[{LEAST},{MOST}]"]
CHANNELS = [64, 192, 288]  # of the levels of k-diffusion's own network

MODES = {
    "fp32": ["hardware.precision=fp32"],
    "bf16": ["hardware.precision=bf16"],
    "compiled": ["hardware.precision=bf16", "hardware.compile=true"],
}


def images(n: int) -> torch.Tensor:
    """Numbers of variance 1, of the shape of n images."""
    return torch.randn(n, 1, SIDE, SIDE)


def autocast(mode: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=mode != "fp32")


def placed(net: nn.Module, evaluate, mode: str) -> tuple[nn.Module, str]:
    """(the network, compiled where the mode says so, and what it is)."""
    what = f"{described(net, evaluate)}, {mode}"  # counted before anything is compiled
    if mode == "compiled":
        net.compile()
    return net, what


# --- genlab --------------------------------------------------------------------------------------


def genlab_train(mode: str) -> Work:
    """As `genlab train` trains; no average."""
    built, trainer = ours.trainer(*WORDS, *MODES[mode], side=SIDE)
    return Work(trainer.one_step, BATCH, built.hardware.describe())


def genlab_heun(mode: str) -> Work:
    """As `genlab sample` draws, to bytes."""
    _, built = ours.built(*WORDS, *MODES[mode], side=SIDE)
    draw = partial(Pipeline(built).draw, None, 0, range(DRAWN), "raw")
    return Work(draw, DRAWN, built.hardware.describe())


def network(mode: str) -> tuple[nn.Module, str]:
    """The same network as genlab places it, alone, and its description."""
    _, built = ours.built(*WORDS, MODES[mode][0], side=SIDE)
    net = built.model.net
    return placed(net, lambda x, t: net(x, t, None), mode)


# --- the same network without genlab -------------------------------------------------------------


def training(loss, net: nn.Module, what: str) -> Work:
    """Steps of AdamW on a loss."""
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
    return Work(ours.step_by_hand(loss, optimizer), BATCH, what)


def bare_train(mode: str) -> Work:
    """EDM's loss in F, ten lines of it."""
    net, what = network(mode)
    x0 = images(BATCH)

    def loss() -> torch.Tensor:
        eps = torch.randn_like(x0)
        log_sigma = torch.randn(BATCH) * DEVIATION + MEAN
        sigma = log_sigma.exp()[:, None, None, None]
        root = (1 + sigma**2).sqrt()
        with autocast(mode):
            out = net((x0 + sigma * eps) / root, log_sigma / 4000, None)
        return F.mse_loss(out, (sigma * x0 - eps) / root)

    return training(loss, net, what)


def bare_heun(mode: str) -> Work:
    """As many evaluations as Heun's method takes, and nothing between them."""
    net, what = network(mode)
    net.eval()

    @torch.inference_mode()
    def step() -> None:
        x, t = images(DRAWN), torch.full((DRAWN,), 1e-4)
        with autocast(mode):
            for _ in range(EVALUATIONS):
                x = net(x, t, None)

    return Work(step, DRAWN, what)


# --- peers ---------------------------------------------------------------------------------------


class BySigma(nn.Module):
    """A network of genlab as k-diffusion calls one: with sigma, and nothing divided by 4000."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x [B, C, H, W], sigma [B] -> [B, C, H, W]."""
        return self.net(x, sigma.log() / 4000, None)


def denoiser(mode: str, own: bool):
    """(k-diffusion's preconditioner around its own network or genlab's, what it is)."""
    from k_diffusion import layers, models

    if not own:
        net, what = network(mode)
        return layers.Denoiser(BySigma(net), sigma_data=1.0), what
    width = 2 * CHANNELS[0]
    attends = [False, True, False]
    net = models.ImageDenoiserModelV1(1, width, [2, 2, 2], CHANNELS, attends)
    _, what = placed(net, net, mode)
    return layers.Denoiser(net, sigma_data=1.0), what


def k_train(mode: str, own: bool) -> Work:
    """Its loss of its preconditioner."""
    model, what = denoiser(mode, own)
    x0 = images(BATCH)

    def loss() -> torch.Tensor:
        sigma = (torch.randn(BATCH) * DEVIATION + MEAN).exp()
        with autocast(mode):
            return model.loss(x0, torch.randn_like(x0), sigma).mean()

    return training(loss, model, what)


def k_heun(mode: str, own: bool) -> Work:
    """Its sampler on its grid."""
    from k_diffusion import sampling

    model, what = denoiser(mode, own)
    model.eval()
    sigmas = sampling.get_sigmas_karras(STEPS, LEAST, MOST)

    @torch.inference_mode()
    def step() -> None:
        with autocast(mode):
            sampling.sample_heun(model, images(DRAWN) * MOST, sigmas, disable=True)

    return Work(step, DRAWN, what)


def diffusers_train(mode: str) -> Work:
    """As its training example does: the noise of one of 1000 levels."""
    from diffusers import DDPMScheduler

    net = diffusers_net()
    _, what = placed(net, lambda x, t: net(x, t).sample, mode)
    levels, x0 = DDPMScheduler(), images(BATCH)

    def loss() -> torch.Tensor:
        eps, t = torch.randn_like(x0), torch.randint(1000, (BATCH,))
        with autocast(mode):
            return F.mse_loss(net(levels.add_noise(x0, eps, t), t).sample.float(), eps)

    return training(loss, net, what)


def diffusers_heun(mode: str) -> Work:
    """Its scheduler of Heun's method on Karras' grid."""
    from diffusers import HeunDiscreteScheduler

    net = diffusers_net()
    _, what = placed(net, lambda x, t: net(x, t).sample, mode)
    net.eval()
    solver = HeunDiscreteScheduler(use_karras_sigmas=True)

    @torch.inference_mode()
    def step() -> None:
        solver.set_timesteps(STEPS)
        x = images(DRAWN) * solver.init_noise_sigma
        with autocast(mode):
            for t in solver.timesteps:
                x = solver.step(net(solver.scale_model_input(x, t), t).sample, t, x).prev_sample

    return Work(step, DRAWN, what)


def _target(work: str, mode: str) -> Target:
    if work == "train":
        makes, batch = (genlab_train, bare_train, k_train, diffusers_train), BATCH
        what = "training step, EDM's loss, AdamW, clip 1.0, no average"
    else:
        makes, batch = (genlab_heun, bare_heun, k_heun, diffusers_heun), DRAWN
        what = f"{STEPS} steps of Heun's method, {EVALUATIONS} evaluations, to the end"
    genlab, bare, k, diffusers = makes
    package = ("k_diffusion", "k-diffusion")
    return Target(
        key=f"{work}-{mode}",
        unit="images/s",
        protocol=f"{what}; U-Nets of about 10 M parameters, {SIDE}x{SIDE}x1, batch {batch}",
        ours=Side("genlab", partial(genlab, mode)),
        peers=(
            Side("the same network bare", partial(bare, mode)),
            Side("k-diffusion, same network", partial(k, mode, False), *package),
            Side("k-diffusion, its network", partial(k, mode, True), *package),
            Side("diffusers UNet2DModel", partial(diffusers, mode), "diffusers", "diffusers"),
        ),
    )


TARGETS = tuple(_target(work, mode) for work in ("train", "heun") for mode in MODES)
