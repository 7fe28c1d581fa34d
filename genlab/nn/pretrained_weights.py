"""Weights that others trained, from files that hold tensors and nothing else."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from genlab.core.errors import DataError, Refused

__all__ = ["digest", "fit", "read_weights", "renamed", "weights_path", "wrong_weights"]

PICKLED = (".pth", ".pt", ".bin")  # of torch.save, read without running what is in them


def weights_path(file: str | None, key: str, what: str, where: str) -> Path:
    """The path a key names; for null a DataError with what it is and where it is found."""
    if file is None:
        raise DataError(f"{key} is null: it takes the path of {what} ({where})")
    return Path(file).expanduser()


def read_weights(path: Path) -> dict[str, Tensor]:
    """name -> tensor of a .safetensors, .pth, .pt or .bin file; float16 and bfloat16 as float32.

    A checkpoint that holds its weights under "state_dict" or "model" will do. Raises DataError
    for a file that is missing, damaged, of another kind or not finite, Refused for one that
    would have to run code.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of weights")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.float()
            if not tensors[name].isfinite().all():
                raise DataError(f"{path}: {name} is not finite; the file is damaged")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise DataError(f"{path} cannot be read as safetensors ({e}); get it again") from e


def _pickled(path: Path) -> dict[str, Tensor]:
    if path.suffix not in PICKLED:
        raise DataError(
            f"{path}: weights come as .safetensors, or as {', '.join(PICKLED)} of torch.save"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise Refused(
            f"{path} holds more than tensors, and reading that would run code; "
            "save its state dict as .safetensors where you trust it"
        ) from e
    except (RuntimeError, EOFError, OSError, ValueError) as e:
        if "TorchScript" in str(e):
            raise Refused(
                f"{path} is a program (TorchScript), not a file of weights; "
                "get the state dict of that network, .safetensors for choice"
            ) from e
        raise DataError(f"{path} cannot be read as weights of torch; get it again") from e
    for inner in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(inner), Mapping):
            found = found[inner]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise DataError(f"{path} holds no state dict: names of tensors are wanted")
    return dict(found)


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str | None]) -> dict[str, Tensor]:
    """Tensors under the names of genlab.

    names: pattern of a whole name -> replacement, None for tensors to leave out; the first match
    counts, and a name without any stays.
    """
    out = {}
    for name, tensor in tensors.items():
        for pattern, replacement in names.items():
            if match := re.fullmatch(pattern, name):
                if replacement is not None:
                    out[match.expand(replacement)] = tensor
                break
        else:
            out[name] = tensor
    return out


def fit(net: nn.Module, tensors: Mapping[str, Tensor], path: Path, wanted: str) -> None:
    """Fills a network with exactly its own weights; without gradients from then on.

    wanted: what the network is, for the message. Raises DataError where names or shapes are not
    those of the network.
    """
    own = net.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    for name in [*own, *tensors]:
        if name in counters:
            continue
        if name not in tensors:
            raise wrong_weights(path, tensors, wanted, f"it has no {name}")
        if name not in own:
            raise wrong_weights(path, tensors, wanted, f"{name} is one too many")
        if tensors[name].shape != own[name].shape:
            sizes = " and not ".join(_size(t) for t in (tensors[name], own[name]))
            raise wrong_weights(path, tensors, wanted, f"{name} is {sizes}")
    net.load_state_dict({n: t for n, t in tensors.items() if n in own}, strict=False)
    net.requires_grad_(False)


def wrong_weights(path: Path, tensors: Mapping[str, Tensor], wanted: str, why: str) -> DataError:
    """The error for a file of another network."""
    return DataError(
        f"{path} is a file of another network: it looks like {_look(tensors)}, "
        f"and {wanted} is wanted ({why})"
    )


LOOKS = {  # a name that only this network has -> what it is; the first match counts
    "visual.attnpool.positional_embedding": "CLIP with a ResNet",
    "blocks.0.mlp.w12.weight": "DINOv2 ViT-g/14, whose layers are of another kind",
    "lin0.model.1.weight": "the heads of LPIPS",
    "visual.conv1.weight": "CLIP as OpenAI names it",
    "vision_model.embeddings.class_embedding": "CLIP as transformers names it",
    "embeddings.patch_embeddings.projection.weight": "a vision transformer of transformers",
    "patch_embed.proj.weight": "a vision transformer as DINOv2 and timm name it",
    "Conv2d_1a_3x3.conv.weight": "an Inception network",
    "layer1.0.conv1.weight": "a ResNet",
    "class_token": "a vision transformer",
}


def _look(tensors: Mapping[str, Tensor]) -> str:
    for name, words in LOOKS.items():
        if name in tensors:
            return words
    first = tensors.get("features.0.weight")
    if first is not None and first.shape[-1] == 11:
        return "AlexNet of torchvision"
    if first is not None and "features.28.weight" in tensors:
        deep = "features.34.weight" in tensors
        return f"{'VGG19' if deep else 'VGG16'} of torchvision"
    if not tensors:
        return "nothing: it has no tensors that could be meant"
    name, tensor = next(iter(tensors.items()))
    return f"{len(tensors)} tensors from {name} ({_size(tensor)}) on"


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def digest(net: nn.Module, preparation: str) -> str:
    """12 hex digits of SHA-256 over a network's weights, by name, and how its input is made."""
    found = hashlib.sha256(preparation.encode())
    for name, tensor in sorted(net.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            found.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]
