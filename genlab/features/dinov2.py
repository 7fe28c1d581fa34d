"""Class token of DINOv2."""

from __future__ import annotations

from typing import Any

from genlab.core.registry import register
from genlab.features.backbone import Backbone, Net
from genlab.nn.preprocess import IMAGENET, Preprocess
from genlab.nn.pretrained_weights import read_weights, renamed, weights_path, wrong_weights
from genlab.nn.vit import ViT

__all__ = ["DINOv2"]

SIZE = 224  # pixels, of the protocol of Stein et al.
SOURCES = (
    "dinov2_vits14, vitb14 or vitl14, with registers or without: "
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth, "
    "or model.safetensors of facebook/dinov2-large on huggingface.co"
)
OFFICIAL = {
    r"cls_token": "class_token",
    r"pos_embed": "position",
    r"register_tokens": "registers",
    r"mask_token": None,
    r"patch_embed\.proj\.(\w+)": r"patch.\1",
    r"blocks\.(\d+)\.attn\.qkv\.(\w+)": r"blocks.\1.qkv.\2",
    r"blocks\.(\d+)\.attn\.proj\.(\w+)": r"blocks.\1.out.\2",
    r"blocks\.(\d+)\.ls([12])\.gamma": r"blocks.\1.scale\2",
    r"blocks\.(\d+)\.mlp\.fc1\.(\w+)": r"blocks.\1.up.\2",
    r"blocks\.(\d+)\.mlp\.fc2\.(\w+)": r"blocks.\1.down.\2",
    r"norm\.(\w+)": r"last.\1",
}
LAYER = r"encoder\.layer\.(\d+)\."
TRANSFORMERS = {
    r"embeddings\.cls_token": "class_token",
    r"embeddings\.position_embeddings": "position",
    r"embeddings\.register_tokens": "registers",
    r"embeddings\.mask_token": None,
    r"embeddings\.patch_embeddings\.projection\.(\w+)": r"patch.\1",
    LAYER + r"attention\.attention\.([qkv])(?:uery|ey|alue)\.(\w+)": r"blocks.\1.\2.\3",
    LAYER + r"attention\.output\.dense\.(\w+)": r"blocks.\1.out.\2",
    LAYER + r"norm([12])\.(\w+)": r"blocks.\1.norm\2.\3",
    LAYER + r"layer_scale([12])\.lambda1": r"blocks.\1.scale\2",
    LAYER + r"mlp\.fc1\.(\w+)": r"blocks.\1.up.\2",
    LAYER + r"mlp\.fc2\.(\w+)": r"blocks.\1.down.\2",
    r"layernorm\.(\w+)": r"last.\1",
}


@register
class DINOv2(Backbone):
    """DINOv2 ViT-S/14, B/14 or L/14 from a file: 384, 768 or 1024 numbers.

    pool: the class token behind the last normalization, for images of 224 x 224. Which network it
    is, with registers or without, is seen from the shapes; names are those of the official files
    or of transformers.

    The position embedding, trained for 37 x 37 patches, is resampled to 16 x 16 as in the
    official program: bicubic for 16.1 samples without registers (its guard against rounding),
    and antialiased for 16 with them.

    Reference: Oquab et al. 2023, arXiv 2304.07193; as features of a Frechet distance: Stein et
    al. 2023, arXiv 2306.04675.
    """

    title, note = "dinov2", "DINOv2"

    def __init__(self, *given: Any, **keys: Any) -> None:
        super().__init__(*given, **keys)
        plain = self.net.registers is None  # the digest is of the weights as they were trained
        self.net.regrid(SIZE // self.net.side, offset=0.1 if plain else 0.0, antialias=not plain)

    def load(self) -> Net:
        """The tower that the shapes of the weights show."""
        path = weights_path(self.file, "features.file", "weights of DINOv2", SOURCES)
        wanted = "DINOv2 ViT-S/14, B/14 or L/14"
        tensors = renamed(read_weights(path), OFFICIAL | TRANSFORMERS)
        net = ViT.of(tensors, path, wanted, gelu="gelu", eps=1e-6)
        if not net.scaled or SIZE % net.side:
            raise wrong_weights(
                path, tensors, wanted, "it has no scales of layers or other patches"
            )
        return Net(net, net.out, Preprocess(SIZE, *IMAGENET))
