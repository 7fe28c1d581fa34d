"""Image embedding of CLIP."""

from __future__ import annotations

from typing import Any, Literal

from genlab.core.registry import register
from genlab.features.backbone import Backbone, Net
from genlab.nn.preprocess import Preprocess
from genlab.nn.pretrained_weights import read_weights, renamed, weights_path, wrong_weights
from genlab.nn.vit import ViT

__all__ = ["CLIP"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SOURCES = (
    "of openai/clip-vit-base-patch32, base-patch16, large-patch14 or large-patch14-336 on "
    "huggingface.co: model.safetensors or pytorch_model.bin"
)
BLOCK = r"visual\.transformer\.resblocks\.(\d+)\."
OPENAI = {
    r"visual\.class_embedding": "class_token",
    r"visual\.positional_embedding": "position",
    r"visual\.proj": "projection",
    r"visual\.conv1\.weight": "patch.weight",
    r"visual\.ln_pre\.(\w+)": r"first.\1",
    r"visual\.ln_post\.(\w+)": r"last.\1",
    BLOCK + r"ln_([12])\.(\w+)": r"blocks.\1.norm\2.\3",
    BLOCK + r"attn\.in_proj_(\w+)": r"blocks.\1.qkv.\2",
    BLOCK + r"attn\.out_proj\.(\w+)": r"blocks.\1.out.\2",
    BLOCK + r"mlp\.c_fc\.(\w+)": r"blocks.\1.up.\2",
    BLOCK + r"mlp\.c_proj\.(\w+)": r"blocks.\1.down.\2",
    r"positional_embedding|text_projection|logit_scale": None,
    r"input_resolution|context_length|vocab_size": None,
    r"(token_embedding|transformer|ln_final)\..*": None,
}
LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
TRANSFORMERS = {
    r"vision_model\.embeddings\.class_embedding": "class_token",
    r"vision_model\.embeddings\.position_embedding\.weight": "position",
    r"vision_model\.embeddings\.patch_embedding\.weight": "patch.weight",
    r"visual_projection\.weight": "transposed",
    r"vision_model\.pre_layrnorm\.(\w+)": r"first.\1",
    r"vision_model\.post_layernorm\.(\w+)": r"last.\1",
    LAYER + r"layer_norm([12])\.(\w+)": r"blocks.\1.norm\2.\3",
    LAYER + r"self_attn\.([qkv])_proj\.(\w+)": r"blocks.\1.\2.\3",
    LAYER + r"self_attn\.out_proj\.(\w+)": r"blocks.\1.out.\2",
    LAYER + r"mlp\.fc1\.(\w+)": r"blocks.\1.up.\2",
    LAYER + r"mlp\.fc2\.(\w+)": r"blocks.\1.down.\2",
    r"(text_model\..*|text_projection\.weight|vision_model\.embeddings\.position_ids)": None,
}


@register
class CLIP(Backbone):
    """Image tower of CLIP, a ViT-B or ViT-L, from a file.

    The networks are ViT-B/32, B/16, L/14 and L/14 for 336 pixels.

    pool: the embedding that is compared with text, 512 or 768 numbers, not normalized. Which
    network it is, is seen from the shapes; names are those of OpenAI (and open_clip) or of
    transformers. Images come to the size it was trained with, whole, not cropped.

    activation: quick_gelu for OpenAI's weights, gelu for most others, which their shapes do not
    tell. Raises Refused for OpenAI's own .pt files, which are programs.

    Reference: Radford et al. 2021, arXiv 2103.00020.
    """

    title = "clip"

    def __init__(
        self, *given: Any, activation: Literal["quick_gelu", "gelu"], **keys: Any
    ) -> None:
        self.note = activation
        super().__init__(*given, **keys)

    def load(self) -> Net:
        """The tower that the shapes of the weights show."""
        path = weights_path(self.file, "features.file", "weights of CLIP", SOURCES)
        wanted = "CLIP with a ViT-B or ViT-L for images"
        tensors = renamed(read_weights(path), OPENAI | TRANSFORMERS)
        net = ViT.of(tensors, path, wanted, gelu=self.note, eps=1e-5)
        if net.projection is None:
            raise wrong_weights(path, tensors, wanted, "it has no projection")
        size = net.side * net.grid
        return Net(net, net.out, Preprocess(size, MEAN, STD))
