"""Files of feature networks with random weights, and where real ones are looked for."""

from pathlib import Path

import torch

from genlab.core.registry import PACKAGE

WEIGHTS = PACKAGE.parent.parent / "shared/data/weights"


def random_backbone(net, seed=0):
    """State dict of a VGG16 or AlexNet in the names of torchvision, activity neither dying out
    nor exploding."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, tensor in net.state_dict().items():
        spread = (2 / max(1, tensor[0].numel())) ** 0.5 if tensor.dim() > 1 else 0.05
        out[name] = torch.randn(tensor.shape, generator=g) * spread
    return out


def random_heads(widths, seed=0):
    """Heads of LPIPS, not negative as the true ones."""
    g = torch.Generator().manual_seed(seed)
    return {
        f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1, generator=g) for i, w in enumerate(widths)
    }


def saved(tensors, path: Path) -> str:
    """Writes .safetensors or a pickle of torch, by the suffix; the path as a key takes it."""
    from safetensors.torch import save_file

    tensors = {n: t.contiguous() for n, t in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)
