"""One step of WGAN-GP: the critic with its penalty, then the generator."""

import torch
from torch import nn

from peers import ours
from peers.compare import Side, Target, Work

__all__ = ["TARGETS"]

BATCH, SIDE, CHANNELS, LATENT, WIDTH, WEIGHT = 64, 32, 3, 128, 64, 10
WORDS = ["model=wgan_gp", "model.ema=0", "model.n_critic=1", f"schedule.batch={BATCH}"]
WORDS += [f"network.generator.width={WIDTH}", f"network.generator.z_dim={LATENT}"]
WORDS += [f"network.discriminator.width={WIDTH}"]


def size(generator, critic) -> str:
    """Parameters of both."""
    return f"generator {ours.millions(generator)}, critic {ours.millions(critic)}"


def genlab() -> Work:
    """As `genlab train model=wgan_gp` trains it, with one critic step and no average."""
    built, trainer = ours.trainer(*WORDS, channels=CHANNELS, side=SIDE)
    note = size(built.model.generator, built.model.discriminator)
    return Work(trainer.one_step, BATCH, f"{note}, {built.hardware.describe()}")


def loop(generator, critic, critic_loss, generator_loss, penalty) -> Work:
    """The algorithm box of WGAN-GP in fp32 with Adam.

    penalty(interpolates, scores) -> mean squared distance of the slopes from 1.
    """
    optimizers = [
        torch.optim.Adam(m.parameters(), 1e-4, betas=(0.0, 0.9)) for m in (critic, generator)
    ]
    real = torch.rand(BATCH, CHANNELS, SIDE, SIDE) * 2 - 1

    def step() -> None:
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, LATENT))
        share = torch.rand(BATCH, 1, 1, 1)
        between = (share * real + (1 - share) * fake).requires_grad_()
        loss = critic_loss(critic(real), critic(fake))
        loss = loss + WEIGHT * penalty(between, critic(between))
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        generator_loss(critic(generator(torch.randn(BATCH, LATENT)))).backward()
        optimizers[1].step()

    return Work(step, BATCH, f"{size(generator, critic)}, fp32")


def torchgan() -> Work:
    """Its DCGAN and its losses; the loop is written out here."""
    from torchgan.losses import functional
    from torchgan.models import DCGANDiscriminator, DCGANGenerator

    generator = DCGANGenerator(
        encoding_dims=LATENT, out_size=SIDE, out_channels=CHANNELS, step_channels=WIDTH
    )
    critic = DCGANDiscriminator(
        in_size=SIDE, in_channels=CHANNELS, step_channels=WIDTH, batchnorm=False
    )
    return loop(
        generator,
        critic,
        lambda real, fake: functional.wasserstein_discriminator_loss(real, fake),
        functional.wasserstein_generator_loss,
        lambda x, scores: functional.wasserstein_gradient_penalty(x, scores),
    )


def plain() -> Work:
    """The same networks in plain PyTorch, as most code one finds is written."""
    generator = nn.Sequential(nn.Unflatten(1, (LATENT, 1, 1)))
    inside, layers = LATENT, [(4 * WIDTH, 1, 0), (2 * WIDTH, 2, 1), (WIDTH, 2, 1)]
    for outside, stride, padding in layers:
        generator += nn.Sequential(
            nn.ConvTranspose2d(inside, outside, 4, stride, padding, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        )
        inside = outside
    generator += nn.Sequential(nn.ConvTranspose2d(inside, CHANNELS, 4, 2, 1), nn.Tanh())
    critic, inside = nn.Sequential(), CHANNELS
    for outside in (WIDTH, 2 * WIDTH, 4 * WIDTH):
        critic += nn.Sequential(nn.Conv2d(inside, outside, 4, 2, 1), nn.LeakyReLU(0.2))
        inside = outside
    critic += nn.Sequential(nn.Conv2d(inside, 1, 4), nn.Flatten(0))

    def penalty(x, scores):
        (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    return loop(
        generator,
        critic,
        lambda real, fake: fake.mean() - real.mean(),
        lambda scores: -scores.mean(),
        penalty,
    )


TARGETS = (
    Target(
        key="wgan-gp",
        unit="images/s",
        protocol=f"one critic step with penalty and one generator step, DCGAN, {SIDE}x{SIDE}x"
        f"{CHANNELS}, batch {BATCH}, Adam, no average; peers in fp32",
        ours=Side("genlab", genlab),
        peers=(
            Side("torchgan DCGAN, losses", torchgan, "torchgan", "torchgan", 2),
            Side("plain PyTorch loop", plain, aim=2),
        ),
    ),
)
