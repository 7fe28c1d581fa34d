"""A trained run, ready to draw: `genlab.load(run).sample(n)` in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from numpy.typing import NDArray
from omegaconf import OmegaConf

from genlab.assemble.components import build
from genlab.config import compose as cfg
from genlab.core import registry
from genlab.core.contract import Generates, Reconstructs
from genlab.core.errors import CheckpointError, ConfigError
from genlab.core.random import SampleNoise
from genlab.run.averages import Averages
from genlab.run.checkpoint import Checkpoints, load_model
from genlab.run.directory import Run, find_run

__all__ = ["STEPS", "Loaded", "load"]

PAIRS, STEPS = 6, 9  # rows and columns of an interpolation strip


def load(
    run: str | Path = "latest",
    outputs: str = "outputs",
    trust: bool = False,
    overrides: Sequence[str] = (),
) -> Loaded:
    """A trained run: `genlab.load("outputs/...").sample(16)`.

    run: path, id or latest; overrides: of sampler, guidance and hardware, as on a command line.
    trust: allow its config to import code from outside genlab. Raises a GenlabError.
    """
    return Loaded(find_run(str(run), outputs), trust, overrides)


class Loaded:
    """The newest valid checkpoint of a run, ready to draw samples."""

    def __init__(
        self,
        run: Run,
        trust: bool = False,
        overrides: Sequence[str] = (),
        checkpoint: str | int = "latest",
    ) -> None:
        """checkpoint: latest, best, or the images it had seen."""
        self.run = run
        outputs = {"outputs": str(run.path.parent.parent)}  # where it lies now
        self.config = _with(run.config, overrides) | outputs
        if problems := cfg.validate(self.config):
            raise ConfigError(*problems)
        folder = Checkpoints(run.path / "checkpoints", print).find(checkpoint)
        if folder is None:
            raise CheckpointError(
                f"{run.path} has no checkpoint yet; train it with genlab resume run={run.id}"
            )
        self.checkpoint = folder.name
        self.built = build(self.config, trust=trust)
        self.built.folder = folder
        self.built.hardware.start()
        load_model(self.built.model, folder / "model.safetensors")
        kept = partial(Averages(run.path, print).rebuild, self.built.model, int(folder.name))
        self.built.rebuild = lru_cache(maxsize=1)(kept)  # a model holds one of them at a time
        self.saved = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:12]

    @property
    def classes(self) -> int | None:
        """Number of labels the model was trained with; None if it is unconditional."""
        return self.built.spec.classes

    def record(self) -> dict[str, Any]:
        """How it draws, for a sample.json."""
        reference = self.built.reference
        return {
            "checkpoint": self.checkpoint,
            "sampler": self.config["sampler"],
            "guidance": self.config["guidance"],
            **({} if reference is None else {"reference": reference.record()}),
        }

    def labels(self, n: int, asked: int | Sequence[int] | None = None) -> list[int] | None:
        """n labels: `asked` repeated, or all classes in turn; None without classes."""
        k = self.classes
        if k is None:
            if asked is not None:
                raise ConfigError(
                    "labels= needs a class-conditional run; this one was trained without labels"
                )
            return None
        if asked is None:
            return [i % k for i in range(n)]
        wanted = [asked] if isinstance(asked, int) else list(asked)
        if not wanted:
            raise ConfigError(f"labels=[] is empty: name some of 0 to {k - 1}, or leave it out")
        if min(wanted) < 0 or max(wanted) >= k:
            raise ConfigError(f"labels={asked}: this run has the labels 0 to {k - 1}")
        return [wanted[i % len(wanted)] for i in range(n)]

    def sample(
        self,
        n: int,
        *,
        labels: int | Sequence[int] | None = None,
        seed: int = 0,
        batch: int = 64,
        weights: str | float = "ema",
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[Any]:
        """uint8 [n, C, H, W] images (or float32 [n, 2] points).

        Image i is a function of (seed, i, its label) alone, not of n or batch; convolutions may
        differ in the last bit between batch sizes, which is at most one grey level.
        """
        self.require(Generates)
        y = self.labels(n, labels)
        parts = []
        for start in range(0, n, batch):
            stop = min(n, start + batch)
            part = None if y is None else y[start:stop]
            parts.append(self.built.draw(part, seed, range(start, stop), weights).numpy())
            if progress:
                progress(stop)
        return np.concatenate(parts)

    def reconstruct(
        self, images: NDArray[np.uint8], *, batch: int = 64, weights: str | float = "ema"
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """uint8 [n, C, H, W] -> (their codes, int64 [n, h, w] of a VQ-VAE; uint8 [n, C, H, W]).

        Raises ConfigError for a model that does not reconstruct and for images of another shape.
        """
        self.require(Reconstructs)
        shape = self.built.data.spec.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise ConfigError(
                f"this run takes uint8 images [n, {', '.join(map(str, shape))}], "
                f"not {images.dtype} {list(images.shape)}"
            )
        u = torch.from_numpy(np.ascontiguousarray(images))
        parts = [self.built.reconstruct(part, weights) for part in u.split(batch)]
        codes, copies = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
        return codes, copies

    def require(self, capability: type[Generates] | type[Reconstructs]) -> None:
        """ConfigError with what to do instead, for a model without a capability."""
        if isinstance(self.built.model, capability):
            return
        name = repr(self.config["model"]["name"])
        if capability is Reconstructs:
            raise ConfigError(
                f"model {name} has no encoder, so it cannot reconstruct images; leave out from="
            )
        raise ConfigError(
            f"model {name} draws no images of its own, it reconstructs given ones: "
            f"genlab sample run={self.run.id} from=<folder or .zip of images>"
        )

    def interpolate(
        self, *, seed: int = 0, weights: str | float = "ema", label: int | None = None
    ) -> Any:
        """[PAIRS * STEPS, ...] samples along great circles between pairs of starting points.

        A spherical path keeps the norm a Gaussian prior expects; a straight one would pass
        through points the model never saw.
        """
        self.require(Generates)
        built = self.built
        with torch.inference_mode(), built.viewed(weights), built.hardware.autocast():
            ends = built.start(SampleNoise(seed, range(2 * PAIRS), built.hardware.device))
            a, b = ends[0::2].flatten(1), ends[1::2].flatten(1)
            cos = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)
            angle = cos.acos()[:, None]
            rows = []
            for i in range(STEPS):
                f = i / (STEPS - 1)
                mixed = (torch.sin((1 - f) * angle) * a + torch.sin(f * angle) * b) / angle.sin()
                rows.append(mixed.view(PAIRS, *ends.shape[1:]))
            z = torch.stack(rows, 1).flatten(0, 1)
            classes = self.classes
            y = None
            if classes is not None:
                chosen = [label if label is not None else p % classes for p in range(PAIRS)]
                y = torch.tensor(chosen, device=z.device).repeat_interleave(STEPS)
            noise = SampleNoise(seed, range(len(z)), built.hardware.device)
            x = built.model.transport(z, y, noise, built.solver)
        return built.codec.decode(x.float()).cpu().numpy()

    def trajectory(
        self, n: int, *, labels: Any = None, seed: int = 0, weights: str | float = "ema"
    ) -> list[NDArray[Any]]:
        """The decoded states from noise to n samples; ConfigError for a model without a path."""
        if not self.built.solver.follows_path:
            raise ConfigError(
                f"animate=true needs a model with a path; {self.config['model']['name']!r} draws "
                "its samples in one step"
            )
        frames: list[NDArray[Any]] = []
        solver = self.built.solver
        solver.watch = lambda x: frames.append(self.built.codec.decode(x.float()).cpu().numpy())
        try:
            self.built.draw(self.labels(n, labels), seed, range(n), weights)
        finally:
            solver.watch = None
        return frames


def _with(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The run's config with another sampler, guidance or hardware."""
    node = OmegaConf.create(dict(config))
    for word in words:
        override = OverridesParser.create().parse_override(word)
        key, value = override.get_key_element(), override.value()
        group = key.partition(".")[0]
        if key in ("sampler", "guidance", "hardware"):
            node[key] = cfg.member(key, str(value))
        elif key != "data.root" and group not in ("sampler", "guidance", "hardware"):
            raise ConfigError(
                f"{key}: sampling can change sampler, guidance, hardware and data.root; "
                "the rest belongs to the run"
            )
        elif key not in cfg.flatten(OmegaConf.to_container(node)):
            known = cfg.flatten(OmegaConf.to_container(node))
            near = registry.owners(group, key[len(group) + 1 :]) or registry.suggest(key, known)
            raise ConfigError(f"no key {key!r} in this run. {near}")
        else:
            OmegaConf.update(node, key, value)
    out = OmegaConf.to_container(node)
    assert isinstance(out, dict)
    if isinstance(out["sampler"].get("grid"), list):  # it is as many steps, whatever was asked
        out["sampler"]["steps"] = len(out["sampler"]["grid"])
    return {str(k): v for k, v in out.items()}
