"""A layer that quantizes vectors, forward and backward, with the update of its codebook."""

from functools import partial

import torch

from genlab.core import registry
from genlab.core.contract import Spec
from genlab.core.random import SampleNoise
from peers.compare import Side, Target, Work

__all__ = ["TARGETS"]

WIDTH, SIDE, DECAY, COMMITMENT = 64, 32, 0.99, 0.25


def work(layer, tokens: int, after=None) -> Work:
    """layer(z [T, d]) -> (quantized, loss), differentiated together; after() ends a step."""
    z = torch.randn(tokens, WIDTH, requires_grad=True)
    ahead = torch.randn(tokens, WIDTH)  # the gradient a decoder would send back

    def step() -> None:
        z.grad = None
        quantized, loss = layer(z)
        torch.autograd.backward((quantized, loss), (ahead.view_as(quantized), None))
        if after is not None:
            after()

    return Work(step, tokens, "fp32")


def genlab(tokens: int, codes: int) -> Work:
    """Its quantizer as VQ-VAE uses it, codes moved once a step, none restarted."""
    keys = {"code_width": WIDTH, "codebook": "ema", "commitment": COMMITMENT, "decay": DECAY}
    node = {"name": "vq", "codes": codes, **keys, "restart": 0.0, "kmeans": 0}
    layer = registry.build("network", node, spec=Spec((1, SIDE, SIDE)))
    noise = SampleNoise(0, range(tokens // SIDE**2), torch.device("cpu"))

    def forward(z):
        maps = z.view(-1, SIDE, SIDE, WIDTH).permute(0, 3, 1, 2)
        out = layer(maps)
        layer.collect(maps, out.indices, noise)
        return out.z.permute(0, 2, 3, 1), sum(out.losses.values())

    return work(forward, tokens, after=layer.commit)


def lucidrains(tokens: int, codes: int, **keys) -> Work:
    """Its VectorQuantize with the averaged codebook; keys say what differs from its defaults."""
    from vector_quantize_pytorch import VectorQuantize

    keys = {"decay": DECAY, "commitment_weight": COMMITMENT, **keys}
    layer = VectorQuantize(dim=WIDTH, codebook_size=codes, **keys)

    def forward(z):
        quantized, _, loss = layer(z[None])
        return quantized, loss.sum()

    return work(forward, tokens)


def simvq(tokens: int, codes: int) -> Work:
    """Its SimVQ: a fixed codebook under a learned linear map, learned by gradients."""
    from vector_quantize_pytorch import SimVQ

    layer = SimVQ(dim=WIDTH, codebook_size=codes)

    def forward(z):
        quantized, _, loss = layer(z[None])
        return quantized, loss.sum()

    return work(forward, tokens)


def pythae(tokens: int, codes: int) -> Work:
    """Its quantizer with the averaged codebook, in the layout it takes, [B, H, W, d]."""
    from pythae.models.vq_vae.vq_vae_config import VQVAEConfig
    from pythae.models.vq_vae.vq_vae_utils import QuantizerEMA

    keys = {"latent_dim": WIDTH, "use_ema": True, "decay": DECAY}
    config = VQVAEConfig(
        num_embeddings=codes, commitment_loss_factor=COMMITMENT, input_dim=(1, 8, 8), **keys
    )
    config.embedding_dim = WIDTH
    layer = QuantizerEMA(config).train()

    def forward(z):
        out = layer(z.view(-1, SIDE, SIDE, WIDTH))
        return out.quantized_vector.permute(0, 2, 3, 1), out.loss

    return work(forward, tokens)


def target(tokens: int, codes: int) -> Target:
    given = {"tokens": tokens, "codes": codes}
    package = ("vector_quantize_pytorch", "vector-quantize-pytorch")
    return Target(
        key=f"vq-{codes}",
        unit="tokens/s",
        protocol=f"{tokens:,} vectors of {WIDTH} numbers, {codes:,} codes, nearest code, "
        "straight-through gradient, commitment loss, averaged codebook updated; fp32",
        ours=Side("genlab", partial(genlab, **given)),
        peers=(
            Side("VectorQuantize EMA", partial(lucidrains, **given), *package, 5),
            Side(
                "VectorQuantize EMA, no rotation",
                partial(lucidrains, **given, rotation_trick=False),
                *package,
                5,
            ),
            Side("pythae QuantizerEMA", partial(pythae, **given), "pythae", "pythae", 5),
            Side("SimVQ", partial(simvq, **given), *package, 1),
        ),
    )


TARGETS = (target(65_536, 1024), target(16_384, 8192))
