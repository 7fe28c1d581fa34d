"""Averages as they were while a run was trained, from which one of any length is made later.

averages/000000102400.safetensors      named by the images drawn; float32, as the weights are
    ema/0.05/conv.weight               module that averages / relative std / parameter

Written just before the checkpoint of every.checkpoint, in one step, by models whose `ema` has
power-function averages; only a resume that begins before one removes it.

Reference: Karras et al. 2023, arXiv 2312.02696, section 3.2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from genlab.core.console import log
from genlab.core.ema import EMA, blend
from genlab.core.errors import CheckpointError, ConfigError
from genlab.core.files import make_folder, replacing
from genlab.run.asked import no_averages
from genlab.run.failpoint import point

__all__ = ["Averages", "PostHocEMA"]

NAME = re.compile(r"(\d{12})\.safetensors")
WORST = 0.1
"""The most of a profile that may be left over; on a random walk the average is then off by a few
hundredths of what the weights moved."""


class PostHocEMA(NamedTuple):
    """What an average that is made after training is made of."""

    std: float
    residual: float  # distance of its profile from the wanted one, relative to that
    moments: tuple[int, ...]  # images at which its parts were kept

    def __str__(self) -> str:
        return (
            f"weights={self.std:g}: made of averages kept at {len(self.moments)} moments, "
            f"{self.residual:.2%} of the profile left over (at most {WORST:.0%} is accepted)"
        )


class Averages:
    """The kept averages of one run directory."""

    def __init__(self, run: Path) -> None:
        """run: its directory."""
        self.folder = run / "averages"

    def moments(self) -> list[int]:
        """When averages were kept, in images, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for p in self.folder.iterdir() if (m := NAME.fullmatch(p.name)))

    def file(self, images: int) -> Path:
        """Where those at `images` are."""
        return self.folder / f"{images:012d}.safetensors"

    def save(self, images: int, model: nn.Module) -> None:
        """Keeps the power-function averages of a model, if any; DiskError when it cannot."""
        tensors = _averages(model)
        if not tensors:
            return
        make_folder(self.folder, self.folder.parent)
        with replacing(self.file(images), self.folder.parent) as f:
            f.write(save(tensors, {"sha256": _digest(tensors)}))
            point("average.before_fsync")
        point("average.after_rename")

    def cut(self, images: int) -> None:
        """Removes what was kept after `images`, where a run goes on, and what a kill left."""
        late = [self.file(t) for t in self.moments() if t > images]
        for path in [*late, *self.folder.glob(".*tmp*")]:
            path.unlink(missing_ok=True)

    def rebuild(self, model: nn.Module, images: int, std: float) -> PostHocEMA:
        """Makes the average of a relative std at `images`, for Model.weights = std.

        model: with the weights of its checkpoint at `images`, whose own averages are the last of
        those that were kept. Raises ConfigError for one without power-function averages,
        CheckpointError where more than WORST of the wanted profile is left over.
        """
        powers = _powers(model)
        if not powers:
            raise ConfigError(no_averages(std))
        own = _averages(model)
        moments = [t for t in self.moments() if t < images and self._is_of(t, own)] + [images]
        shares: dict[tuple[str, str, int], float] = {}
        worst = 0.0
        for path, average in powers.items():
            parts = [(s, t) for s in average.stds for t in moments]
            found, residual = blend(std, images, parts)
            if residual > WORST:
                raise CheckpointError(_too_far(std, residual, average.stds, len(moments)))
            worst = max(worst, residual)
            shares |= {
                (path, str(s), t): x for (s, t), x in zip(parts, found.tolist(), strict=True)
            }
        sums: dict[str, dict[str, Tensor]] = {path: {} for path in powers}
        for t in moments:  # one file at a time
            for key, tensor in (own if t == images else load_file(self.file(t))).items():
                path, s, name = key.split("/")
                part = tensor.double() * shares[path, s, t]
                sums[path][name] = sums[path][name] + part if name in sums[path] else part
        for path, average in powers.items():
            average.rebuild(std, sums[path])
        return PostHocEMA(std, float(f"{worst:.3g}"), tuple(moments))

    def _is_of(self, images: int, own: Mapping[str, Tensor]) -> bool:
        """Whether a file is whole and of these averages; one loud line where it is not."""
        file = self.file(images)
        try:
            with safe_open(file, "pt") as saved:
                digest = (saved.metadata() or {}).get("sha256")
            tensors = load_file(file)
            if digest != _digest(tensors):
                raise CheckpointError("it has other bytes than were written")
            if _shapes(tensors) != _shapes(own):
                raise CheckpointError("they are of another model or of other lengths")
        except (SafetensorError, CheckpointError) as e:
            log(f"WARNING: the averages in {file} are left out: {e}")
            return False
        return True


def _powers(model: nn.Module) -> dict[str, EMA]:
    """Path in the model -> power-function averages that samples are drawn from."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, EMA)}
    return {n: m for n, m in found.items() if m.stds and not m.target}


def _averages(model: nn.Module) -> dict[str, Tensor]:
    """Name in a file -> parameter on the CPU."""
    return {
        f"{path}/{std}/{name}": p.detach().float().cpu().contiguous()
        for path, average in _powers(model).items()
        for std, network in zip(average.stds, average.averages, strict=True)
        for name, p in network.named_parameters()
    }


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()


def _too_far(std: float, residual: float, stds: tuple[float, ...], moments: int) -> str:
    lengths = " and ".join(f"{s:g}" for s in stds)
    return (
        f"weights={std:g}: the averages of {lengths} kept at {moments} moments leave over "
        f"{residual:.0%} of that profile (at most {WORST:.0%} will do); ask for one nearer to "
        "theirs, or keep more with a smaller every.checkpoint"
    )
