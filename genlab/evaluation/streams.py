"""The inputs of metrics: each stream is computed once, in parts, and shared by all metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from genlab.core.console import log
from genlab.core.errors import OutOfMemory
from genlab.core.memory import is_out_of_memory
from genlab.core.metric import Features, Pairs
from genlab.evaluation.cache import ShardedCache, feature_cache, ranges
from genlab.evaluation.reference import Reference
from genlab.evaluation.target import EvalTarget

__all__ = ["BY_NETWORK", "OF_HELD_OUT", "OF_REFERENCE", "OF_SAMPLES", "Streams"]

OF_SAMPLES = {"fake", "features", "logits", "points"}
OF_REFERENCE = {"real", "features"}
OF_HELD_OUT = {"pairs", "bits", "codes"}
BY_NETWORK = {"features", "logits"}
"""Which streams are of samples, of the reference, of held-out data, outputs of a network."""

Tensors = Mapping[str, Tensor]


class Streams:
    """Implements `MetricInputs` for a target and its reference."""

    def __init__(
        self,
        target: EvalTarget,
        reference: Reference,
        network: Features | None,
        *,
        folder: Path,
        cache: Path,
        batch: int = 64,
        quiet: bool = False,
    ) -> None:
        """network: of features, None when no metric asks for them.

        folder: for the parts of this target. cache: for features of given images and of the
        reference, which many evaluations share. batch: rows computed at once. seconds: stream ->
        time it took.
        """
        self.target, self.reference, self.network = target, reference, network
        self.folder, self.cache, self.batch, self.quiet = folder, cache, batch, quiet
        self.device, self.seed = target.device, target.seed
        self.seconds: dict[str, float] = {}
        self._computed: dict[str, Tensors] = {}
        self._training: Tensor | None = None
        self._largest: int | None = None  # rows that memory holds at once, where that was tried

    # --- as metrics see them -----------------------------------------------------------------

    def real(self) -> Tensor:
        """[N, *S] the reference."""
        return self.reference.images

    def fake(self) -> Tensor:
        """[n, *S] samples, reconstructions or given images."""
        if self.target.images is not None:
            return self.target.images
        if self.target.kind == "reconstructions":
            return self.pairs().copies
        return self._stream("fake")["x"]

    def features(self, of: Literal["real", "fake"], output: str = "pool") -> Tensor:
        """[n, D] float32."""
        return self._stream(f"features/{of}")[output]

    def training(self) -> Tensor:
        """[N, *S] all that the model was trained on."""
        if self._training is None:  # the protocol and the metric both ask
            self._training = self.target.training()
        return self._training

    def pairs(self) -> Pairs:
        """Held-out images with their reconstructions."""
        return Pairs(**self._stream("pairs"))

    def bits(self) -> Tensor:
        """[n] float64 bits per dimension."""
        return self._stream("bits")["bits"]

    def codebook(self) -> int | None:
        """Number of codes; None without a codebook."""
        return self.target.codebook_size

    # --- how they are computed ---------------------------------------------------------------

    def compute(self, needs: Iterable[str]) -> None:
        """Computes every stream that metrics need, on all ranks."""
        needs, names = set(needs), []
        if needs & OF_SAMPLES and self.target.images is None:
            names.append("pairs" if self.target.kind == "reconstructions" else "fake")
        if needs & {"pairs", "codes"} and "pairs" not in names:
            names.append("pairs")
        if "bits" in needs:
            names.append("bits")
        if "features" in needs:
            names.append("features/real")
        if needs & BY_NETWORK:
            names.append("features/fake")
        for name in names:
            self._stream(name)

    def cached(self, name: str) -> ShardedCache:
        """A stream as parts on disk: fake, pairs, bits, features/real or features/fake."""
        target = self.target
        if name.startswith("features/"):
            assert self.network is not None
            real = name == "features/real"
            what = "features of the reference" if real else f"features of {target.kind}"
            images = self.real() if real else self.fake()
            lasting = real or target.images is not None  # samples come and go
            folder = self.cache if lasting else self.folder
            return feature_cache(what, self.network, images, self.device, folder)
        parts = ranges(target.n if name == "fake" else target.held_out, self.batch)

        def rows(part: range) -> Tensors:
            if name == "fake":
                return {"x": target.draw(part)}
            return {"bits": target.bits(part)} if name == "bits" else target.pairs(part)._asdict()

        def path(k: int) -> Path:
            return self.folder / f"{name}-{parts[k].start:07d}-{len(parts[k])}.safetensors"

        what = {"fake": "samples", "pairs": "reconstructions", "bits": "likelihoods"}[name]
        return ShardedCache(what, parts, path, lambda k: self._in_memory(rows, parts[k]))

    def _stream(self, name: str) -> Tensors:
        if name not in self._computed:
            start = time.perf_counter()
            self._computed[name] = self.cached(name).load(self.quiet)
            self.seconds[name] = time.perf_counter() - start
        return self._computed[name]

    def _in_memory(self, rows: Callable[[range], Tensors], part: range) -> Tensors:
        """The rows of a part at once, or in halves where memory is too small: said once.

        Every row is a function of its number alone, so this changes no row.
        """
        most = min(len(part), self._largest or len(part))
        found: list[Tensors] = []
        for inside in ranges(len(part), most):
            try:
                found.append(rows(range(part.start + inside.start, part.start + inside.stop)))
            except (RuntimeError, MemoryError) as e:
                if not is_out_of_memory(e):
                    raise
                if most == 1:
                    raise OutOfMemory("memory does not hold a single image of this run") from e
                self._largest = most // 2
                log(f"memory does not hold {most} at once: going on with {self._largest}")
                return self._in_memory(rows, part)
        return {name: torch.cat([f[name] for f in found]) for name in found[0]}
