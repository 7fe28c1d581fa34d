"""The data themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from genlab.core.contract import Spec
from genlab.core.metric import Features
from genlab.core.registry import register

__all__ = ["Raw"]


@register
class Raw(Features):
    """Pixels over 255, or coordinates of points, as they are.

    spec: of the stored data.
    """

    digest = "raw"
    resizer = "none"

    def __init__(self, spec: Spec) -> None:
        self.outputs = {"pool": math.prod(spec.shape)}

    def __call__(self, u: Tensor) -> Mapping[str, Tensor]:
        """u [n, *S] -> pool [n, prod(S)] float32."""
        flat = u.flatten(1).float()
        return {"pool": flat if u.is_floating_point() else flat / 255}
