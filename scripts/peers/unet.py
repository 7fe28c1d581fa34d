"""A training step of diffusion U-Nets with about 10 M parameters."""

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from peers import ours
from peers.compare import Side, Target, Work

__all__ = ["TARGETS"]

BATCH, SIDE = 64, 32
LEVELS = ["width=64", "mults=[1,2,3]", "blocks=2", "skip_inputs=true", "attention=[16]"]
WORDS = ["model=flow_matching", "model.ema=0", f"schedule.batch={BATCH}", "network=unet"]
WORDS += [f"network.net.{key}" for key in (*LEVELS, "embedding=128", "dropout=0")]


def described(network, evaluate) -> str:
    """Parameters, and what a forward pass of one image costs."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        evaluate(torch.randn(1, 1, SIDE, SIDE), torch.rand(1))
    return f"{ours.millions(network)}, {counter.get_total_flops() / 1e9:.2f} GFLOP/image"


def genlab() -> Work:
    """The U-Net of DDPM in genlab's own layout, as `genlab train` trains it; no average."""
    built, trainer = ours.trainer(*WORDS, side=SIDE)
    net = built.model.net
    hardware = built.hardware.describe()
    note = described(net, lambda x, t: net(x, t, None))
    return Work(trainer.one_step, BATCH, f"{note}, {hardware}")


def loop(network, evaluate) -> Work:
    """Velocity regression in fp32 with AdamW and clipping, as the peers' examples train."""
    x = torch.randn(BATCH, 1, SIDE, SIDE)

    def loss() -> torch.Tensor:
        t, noise = torch.rand(BATCH), torch.randn_like(x)
        at = t[:, None, None, None]
        return F.mse_loss(evaluate((1 - at) * x + at * noise, t), noise - x)

    step = ours.step_by_hand(loss, torch.optim.AdamW(network.parameters(), 1e-4))
    return Work(step, BATCH, f"{described(network, evaluate)}, fp32")


def denoising_diffusion() -> Work:
    """Its Unet with the default linear attention, full attention on the innermost level."""
    from denoising_diffusion_pytorch import Unet

    net = Unet(dim=64, dim_mults=(1, 2, 4), channels=1)
    return loop(net, lambda x, t: net(x, 1000 * t))


def diffusers_net() -> torch.nn.Module:
    """Its DDPM U-Net with attention at 16 pixels."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def diffusers() -> Work:
    """The same, with its count of steps as the time."""
    net = diffusers_net()
    return loop(net, lambda x, t: net(x, 1000 * t).sample)


def torchcfm() -> Work:
    """Its copy of guided-diffusion's U-Net with attention at 16 pixels."""
    from torchcfm.models.unet import UNetModel

    net = UNetModel(
        dim=(1, SIDE, SIDE),
        num_channels=64,
        num_res_blocks=2,
        channel_mult=[1, 2, 3],
        num_heads=4,
        attention_resolutions="16",
    )
    return loop(net, lambda x, t: net(t, x))


TARGETS = (
    Target(
        key="unet",
        unit="images/s",
        protocol=f"training step of a U-Net of 10 M parameters, {SIDE}x{SIDE}x1, batch {BATCH}, "
        "velocity loss, AdamW, clip 1.0, no average; peers in fp32 as shipped, genlab with "
        "hardware=auto",
        ours=Side("genlab", genlab),
        peers=(
            Side(
                "denoising-diffusion-pytorch Unet",
                denoising_diffusion,
                "denoising_diffusion_pytorch",
                "denoising-diffusion-pytorch",
                2,
            ),
            Side("diffusers UNet2DModel", diffusers, "diffusers", "diffusers", 2),
            Side("torchcfm UNetModel", torchcfm, "torchcfm", "torchcfm", 2),
        ),
    ),
)
