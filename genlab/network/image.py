"""The sizes of images that networks take."""

from __future__ import annotations

from genlab.core.contract import Spec

__all__ = ["halvable", "patches"]


def patches(network: str, spec: Spec, patch: int = 1) -> tuple[int, tuple[int, int]]:
    """(channels, (rows, columns)) of patches of patch x patch pixels.

    Raises ValueError where data are no images, or cannot be cut so.
    """
    spec.require(
        "images",
        network,
        "network=mlp and codec=points (experiment=toy/flow_matching has both)",
    )
    channels, height, width = spec.shape
    if height % patch or width % patch:
        fits = [str(p) for p in range(1, min(height, width) + 1) if not (height % p or width % p)]
        raise ValueError(
            f"{height}x{width} pixels cannot be cut into patches of {patch}x{patch}; "
            f"patch may be {', '.join(fits)}"
        )
    return channels, (height // patch, width // patch)


def halvable(size: tuple[int, int], levels: int, unit: str = "pixels") -> None:
    """ValueError where rows and columns cannot be halved between all levels; unit: of them."""
    (rows, columns), halvings = size, levels - 1
    if rows % 2**halvings or columns % 2**halvings:
        fit = next(n for n in range(halvings, -1, -1) if not (rows % 2**n or columns % 2**n))
        raise ValueError(
            f"mults has {levels} levels, which halve the image {halvings} times, and "
            f"{rows}x{columns} {unit} can be halved {fit} times: "
            f"give mults at most {fit + 1} entries, or choose another data.size"
        )
