"""The diffusion Transformer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from genlab.core.contract import Network, Spec
from genlab.core.registry import register
from genlab.core.schema import Count, Fraction, Positive
from genlab.network.image import patches
from genlab.nn.attention import SelfAttention
from genlab.nn.embed import Condition
from genlab.nn.norm import LayerNorm
from genlab.nn.patch import narrow, patchify, unpatchify
from genlab.nn.position import LearnedPositions, grid, sincos
from genlab.nn.rotary import Rotary
from genlab.nn.transformer import MLP, AdaLNBlock

__all__ = ["DiT"]


@register("dit")
class DiT(Network):
    """Transformer over patches, that denoises images.

    h = W patch + b + position;  `depth` adaLN-zero blocks;  W' ((1 + s) norm(h) + b') a patch,
    (b', s) = V e,  e the embedding of time and label

    W' and V start at zero, so the output starts at zero.

    Reference: Peebles and Xie 2023, arXiv 2212.09748, section 3.2.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        patch: Count,
        width: Count,
        depth: Count,
        head_width: Count,
        mlp: Positive,
        position: Literal["sincos", "learned", "rope"],
        qk_norm: bool,
        embedding: Count,
        frequencies: Count | None,
        gelu: Literal["exact", "tanh"],
        dropout: Fraction,
        outputs: Literal[1, 2],
    ) -> None:
        """spec: shape (C, H, W), labels K or None; the keys as in configs/network/dit.yaml."""
        super().__init__()
        channels, (rows, columns) = patches("dit", spec, patch)
        if position == "rope" and head_width % 4:
            raise ValueError(
                f"position=rope turns by rows and by columns, which needs a head_width that is a "
                f"multiple of 4, and {head_width} is not; use another or position=sincos"
            )
        if position == "sincos" and width % 4:
            raise ValueError(
                f"position=sincos has sines and cosines of rows and columns, which needs a width "
                f"that is a multiple of 4, and {width} is not; use another or position=learned"
            )
        self.patch, self.size = patch, (rows * patch, columns * patch)
        self.notes = narrow(patch, channels, width)
        places = grid(rows, columns)
        self.stem = nn.Linear(patch**2 * channels, width)
        self.learned = LearnedPositions(len(places), width) if position == "learned" else None
        # what follows from the config is in no checkpoint
        fixed = sincos(places, width) if position == "sincos" else None
        self.register_buffer("fixed", fixed, persistent=False)
        rotary = Rotary(head_width, axes=2) if position == "rope" else None
        self.register_buffer("places", places if rotary else None, persistent=False)
        self.condition = Condition(embedding, spec.classes, frequencies)
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                width,
                embedding,
                SelfAttention(width, head_width, qk_norm=qk_norm, rotary=rotary, dropout=dropout),
                MLP(width, round(mlp * width), gelu),
                dropout,
            )
            for _ in range(depth)
        )
        self.norm = LayerNorm(width, affine=False)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.outputs = outputs
        self.head = nn.Linear(width, patch**2 * outputs * channels)
        self._start()

    def _start(self) -> None:
        """Starting weights: Glorot's for what makes tokens of tokens, zero for what must be.

        Times and labels as in the paper's code, github.com/facebookresearch/DiT.
        """
        inner = (part for block in self.blocks for part in (block.attention, block.mlp))
        for layer in (m for part in (self.stem, *inner) for m in part.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in self.condition.modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                nn.init.normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def compiled_regions(self) -> list[nn.Module]:
        """The blocks, which are all alike: the first is compiled, and the others are done."""
        return list(self.blocks)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1], y [B] or None -> [B, outputs C, H, W] float32."""
        e = self.condition(t, y)
        # the sum that the blocks add to stays in the type of x: in bf16 every addition rounds it
        h = self.stem(patchify(x, self.patch)).to(x.dtype)
        if self.learned is not None:
            h = self.learned(h, torch.arange(h.shape[1], device=h.device))
        if self.fixed is not None:
            h = h + self.fixed.to(h.dtype)
        for block in self.blocks:
            h = block(h, e, position=self.places)
        shift, scale = self.modulation(e).chunk(2, 1)
        tokens = self.head(self.norm(h, scale, shift))
        return unpatchify(tokens, self.patch, *self.size).float()
