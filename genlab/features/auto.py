"""`features=auto`: the network that suits the data."""

from __future__ import annotations

from genlab.core.contract import Spec
from genlab.features.small import SIDE

__all__ = ["name_for"]


def name_for(spec: Spec) -> str:
    """The registered name of the feature network for data as stored."""
    if spec.kind != "images":
        return "raw"
    return "small" if spec.shape[0] == 1 and max(spec.shape[1:]) <= SIDE else "inception"
