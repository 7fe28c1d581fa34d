"""The Transformer over tokens, and how it writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Network, Noise, Spec
from genlab.core.registry import register
from genlab.core.schema import Count, Fraction, Positive
from genlab.kernel.mask import MaskSpec
from genlab.nn.attention import SelfAttention
from genlab.nn.extrapolate import ReRoPE
from genlab.nn.kv_cache import KVCache
from genlab.nn.norm import LayerNorm
from genlab.nn.position import LearnedPositions, sincos
from genlab.nn.rotary import Rotary
from genlab.nn.token_sampling import filter_logits, sample_token
from genlab.nn.transformer import MLP, Block

__all__ = ["GPT"]

START = 0.02  # deviation of the starting weights, that of GPT-2
BASE = 10000  # of the angles, in the YAML


@register("gpt")
class GPT(Network):
    """Transformer over tokens, one network under every mask.

    h = E token + position;  `depth` blocks under the mask;  logits = W norm(h)

    Logits at place i are of token i + 1: under a causal mask of the next token, under a prefix
    mask of a text that continues another. Where all is seen, tokens to predict are replaced by
    `mask_token` first. Under a mask of two streams (`MaskSpec.permuted(..., stream="both")`) the
    tokens are followed by as many queries, all one learned vector; the logits are those of the
    queries, of token i at place i. The weights are the same under every mask.

    vocabulary: K, of the logits. mask_token: K, one more value that tokens may have.

    Reference: Radford et al. 2019, "Language models are unsupervised multitask learners"; prefix
    masks: Dong et al. 2019, arXiv 1905.03197; two streams: Yang et al. 2019, arXiv 1906.08237.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        width: Count,
        depth: Count,
        head_width: Count,
        kv_heads: Count | None,
        mlp: Positive,
        position: Literal["learned", "sincos", "rope", "none"],
        base: Positive,
        stretch: Literal["none", "interpolate", "ntk", "mixed"],
        factor: Positive,
        reach: Count | None,
        logn: bool,
        qk_norm: bool,
        tied: bool,
        dropout: Fraction,
    ) -> None:
        """spec: its vocabulary, and a shape of T tokens; the keys as in configs/network/gpt.yaml.

        Raises ValueError for data that are no tokens, and for widths and keys that do not fit.
        """
        super().__init__()
        spec.require("tokens", "gpt", "network=unet for images, or network=mlp for points")
        turned = stretch != "none" or reach is not None or factor != 1 or base != BASE
        if position != "rope" and turned:
            raise ValueError(
                f"base, stretch, factor and reach are of positions by rotation, and "
                f"position={position}; use position=rope, or base={BASE}, stretch=none, factor=1 "
                "and reach=null"
            )
        if stretch == "none" and factor != 1:
            raise ValueError(
                f"factor={factor} is how much further a stretch reads, and stretch=none; use "
                "stretch=mixed, or factor=1"
            )
        if position == "rope" and head_width % 2:
            raise ValueError(
                f"position=rope turns pairs of numbers, which needs an even head_width, and "
                f"{head_width} is not; use another or position=sincos"
            )
        if position == "sincos" and width % 2:
            raise ValueError(
                f"position=sincos has sines and cosines, which needs an even width, and {width} "
                "is not; use another or position=learned"
            )
        self.length = math.prod(spec.shape)
        self.vocabulary = self.mask_token = spec.vocabulary
        self.width, self.position = width, position
        self.bounded = reach is not None
        self.embed = nn.Embedding(spec.vocabulary + 1, width)
        self.query = nn.Parameter(torch.empty(width))
        self.learned = LearnedPositions(self.length, width) if position == "learned" else None
        rotary = None
        if position == "rope":
            rotary = Rotary(head_width, base=base, stretch=stretch, factor=factor)

        def attention() -> SelfAttention:
            shared = {
                "kv_heads": kv_heads,
                "qk_norm": qk_norm,
                "logn": self.length if logn else None,
                "dropout": dropout,
            }
            if reach is not None:
                return ReRoPE(width, head_width, rotary=rotary, reach=reach, **shared)
            return SelfAttention(width, head_width, rotary=rotary, **shared)

        self.blocks = nn.ModuleList(
            Block(width, attention(), MLP(width, round(mlp * width)), dropout)
            for _ in range(depth)
        )
        self.norm = LayerNorm(width)
        self.head = None if tied else nn.Linear(width, spec.vocabulary, bias=False)
        self._start()

    def _start(self) -> None:
        """Starting weights as in GPT-2, smaller for what each block adds to the sum."""
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                nn.init.normal_(layer.weight, std=START)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for block in self.blocks:
            for layer in (block.attention.out, block.mlp[-1]):
                nn.init.normal_(layer.weight, std=START / math.sqrt(2 * len(self.blocks)))
        nn.init.normal_(self.query, std=START)

    def compiled_regions(self) -> Sequence[nn.Module]:
        """The blocks, which are all alike: the first is compiled, and the others are done."""
        return list(self.blocks)

    def forward(
        self, tokens: Tensor, mask: MaskSpec | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """tokens int64 [B, T] in 0 .. K -> logits [B, T, K] float32.

        mask: for T tokens, or for T and T queries over T; None is causal. Tokens stand at its
        positions. cache: of the tokens before, which takes these up; the mask is one of its own.
        Raises ValueError for a mask of other lengths, and for positions or a cache beyond those
        that are learned; the positions of a mask that lies on a GPU are not looked at.
        """
        length = tokens.shape[1]
        if mask is None:
            mask = MaskSpec.causal(length) if cache is None else cache.mask(length)
        keys = length if cache is None else cache.length
        if mask.queries not in (length, 2 * length) or mask.keys != keys:
            raise ValueError(
                f"the mask is for {mask.queries} queries and {mask.keys} keys, and there are "
                f"{length} tokens and {keys} keys"
            )
        if cache is not None or mask.position_q is None:
            self._reach(keys)
        if mask.position_q is not None:
            self._stand(mask.position_q)
        mask = mask.to(tokens.device)
        h = self.embed(tokens)
        streams = mask.queries == 2 * length
        if streams:
            if self.position == "none" and mask.slopes is None:
                raise ValueError(
                    "with position=none queries do not know what place they ask for; "
                    "use position=rope, sincos or learned"
                )
            h = torch.cat([h, self.query.to(h.dtype).expand_as(h)], 1)
        at = self._places(mask, tokens.device)
        h = self._placed(h, at)
        for i, block in enumerate(self.blocks):
            layer = None if cache is None else cache.layers[i]
            own = None if self.bounded else at
            h = block(h, mask, own, length if streams else None, layer)
        if cache is not None:
            cache.advance(length)
        h = self.norm(h[:, length:] if streams else h)
        weight = self.embed.weight[: self.vocabulary] if self.head is None else self.head.weight
        return F.linear(h, weight).float()

    def _places(self, mask: MaskSpec, device: torch.device) -> Tensor:
        """Positions of the queries of a mask, [T] or [R, T]."""
        if mask.position_q is not None:
            return mask.position_q
        return torch.arange(mask.keys - mask.queries, mask.keys, device=device)

    def _reach(self, tokens: int) -> None:
        if self.learned is not None and tokens > self.length:
            raise ValueError(
                f"position=learned has {self.length} places, and {tokens} tokens are asked for; "
                "use position=rope to read further than was trained"
            )

    def _stand(self, at: Tensor) -> None:
        """Raises ValueError for positions without a learned place.

        On a GPU it would have to wait for them, and in a compiled step it could not.
        """
        if self.learned is None or at.device.type != "cpu" or torch.compiler.is_compiling():
            return
        first, last = at.min().item(), at.max().item()
        if first < 0:
            raise ValueError(
                f"position=learned has places from 0 on, and the mask has a token at {first}; "
                "use position=rope"
            )
        self._reach(int(last) + 1)

    def _placed(self, h: Tensor, at: Tensor) -> Tensor:
        """h [B, T, C] with the position embedding of its tokens added."""
        if self.learned is not None:
            return self.learned(h, at)
        if self.position == "sincos":
            waves = sincos(at.reshape(-1, 1), self.width).unflatten(0, at.shape)
            # as large as the tokens start: whole waves would drown them
            return h + (math.sqrt(2) * START * waves).to(h.dtype)
        return h

    def cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for texts of up to `length` tokens, in the type keys come in."""
        self._reach(length)
        attention = self.blocks[0].attention
        weight = attention.qkv.weight
        kind = weight.device.type
        return KVCache(
            len(self.blocks),
            batch,
            attention.kv_heads,
            length,
            attention.head_width,
            device=weight.device,
            dtype=torch.get_autocast_dtype(kind)
            if torch.is_autocast_enabled(kind)
            else weight.dtype,
        )

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        n: int,
        noise: Noise,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        whole: bool = False,
        adapt: Callable[[MaskSpec], MaskSpec] = lambda mask: mask,
    ) -> Tensor:
        """prompt int64 [B, P], P >= 1 -> [B, P + n], n tokens more, one after the other.

        temperature, top_k, top_p: as of `filter_logits`. whole: the tokens of the prompt see each
        other, as under a prefix mask. adapt: what the masks of training had besides, e.g.
        `lambda mask: mask.sloped(slopes)`. noise: of as many rows as the prompt. Without dropout,
        whatever mode the network is in. Raises ValueError for other prompts and noise.
        """
        if prompt.dim() != 2 or not prompt.shape[1]:
            raise ValueError(
                f"a prompt is [B, P] with at least one token a text, not {list(prompt.shape)}"
            )
        if noise.n != len(prompt):
            raise ValueError(f"the noise is for {noise.n} texts, and there are {len(prompt)}")
        training = self.training
        self.eval()
        try:
            return self._written(prompt, n, noise, temperature, top_k, top_p, whole, adapt)
        finally:
            self.train(training)

    def _written(
        self,
        prompt: Tensor,
        n: int,
        noise: Noise,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        whole: bool,
        adapt: Callable[[MaskSpec], MaskSpec],
    ) -> Tensor:
        cache = self.cache(len(prompt), prompt.shape[1] + n)
        mask = cache.mask(prompt.shape[1], whole=whole)
        text, new = [prompt], prompt
        for _ in range(n):
            logits = self(new, adapt(mask), cache)[:, -1]
            new = sample_token(filter_logits(logits, temperature, top_k, top_p), noise)[:, None]
            text.append(new)
            mask = cache.mask(1)
        return torch.cat(text, 1)
