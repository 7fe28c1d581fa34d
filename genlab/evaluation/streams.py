"""The inputs of an evaluation, each stream made once, in parts, and shared by all metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.core import dist
from genlab.core.console import log, progress
from genlab.core.errors import OutOfMemory
from genlab.core.format import count, duration
from genlab.core.memory import is_out_of_memory
from genlab.core.metric import Features, Pairs
from genlab.evaluation.cache import ShardedCache, digest, extract_features, feature_cache, ranges

__all__ = ["Reference", "Streams", "Subject", "choose"]

LONG = 30.0  # seconds from which an evaluation is announced with what it will take


def choose(images: Tensor, n: int | None) -> Tensor:
    """n of [N, *S], always the same ones: the first of a fixed shuffle; all of it for None.

    Stored sets are often sorted by class, so their first n would be another distribution. The
    parts of fewer images are those of more, so features of a part serve both.
    """
    g = torch.Generator().manual_seed(0)
    return images[torch.randperm(len(images), generator=g)[:n]]


@dataclass(frozen=True)
class Reference:
    """What samples are compared with. name: set and split in words; of: size of the split."""

    name: str
    images: Tensor  # [n, *S]
    of: int

    @cached_property
    def digest(self) -> str:
        """12 hex digits of the contents."""
        return digest(self.images)[:12]


@dataclass(frozen=True)
class Subject:
    """What is judged: functions of a range of samples, None where it cannot give that.

    draw: -> [n, *S] samples. pairs: -> (originals, copies, codes) of held-out images.
    bits: -> [n] float64 of held-out data. training: -> [N, *S] all it was trained on.
    """

    n: int  # samples
    held_out: int  # images of which pairs and bits are
    draw: Callable[[range], Tensor] | None = None
    pairs: Callable[[range], Pairs] | None = None
    bits: Callable[[range], Tensor] | None = None
    training: Callable[[], Tensor] | None = None
    codes: int | None = None  # size of its codebook
    held_out_set: str = ""  # set, split and digest, in words
    data: str = ""  # what it was trained on, in words
    density: str = ""  # what its likelihoods are of
    likelihood: str = ""  # how they are found, "" without bits
    silent: str = ""  # why there are no bits, where more can be said than that
    given: Tensor | None = None  # images that need not be drawn
    of: Literal["samples", "reconstructions", "images"] = "samples"


@dataclass
class Streams:
    """Implements `MetricInputs`.

    folder: of the parts that belong to the subject. cache: of features of the reference, which
    many evaluations share. batch: samples made at once; features: None when no metric asks.
    """

    subject: Subject
    reference: Reference | None
    features_by: Features | None
    folder: Path
    cache: Path
    device: torch.device
    batch: int = 64
    seed: int = 0
    quiet: bool = False
    seconds: dict[str, float] = field(default_factory=dict)  # that each stream took
    _fits: int | None = None  # rows that fit into memory at once, once that was found out
    _training: Tensor | None = None
    _kept: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)

    # --- the streams, as metrics see them --------------------------------------------------------

    def real(self) -> Tensor:
        """[N, *S] the reference."""
        assert self.reference is not None
        return self.reference.images

    def fake(self) -> Tensor:
        """[n, *S] samples, or reconstructions of a model that draws none."""
        if self.subject.given is not None:
            return self.subject.given
        if self.subject.draw is None:
            return self.pairs().copies
        return self._stream("fake")["x"]

    def features(self, of: Literal["real", "fake"], output: str = "pool") -> Tensor:
        """[n, D] float32."""
        return self._stream(f"features/{of}")[output]

    def training(self) -> Tensor:
        """[N, *S] all that the model was trained on."""
        if self._training is None:  # the protocol and the metric both ask
            assert self.subject.training is not None
            self._training = self.subject.training()
        return self._training

    def pairs(self) -> Pairs:
        """Held-out images with their reconstructions."""
        found = self._stream("pairs")
        return Pairs(found["originals"], found["copies"], found["codes"])

    def bits(self) -> Tensor:
        """[n] float64 bits per dimension."""
        return self._stream("bits")["bits"]

    def codebook(self) -> int | None:
        """Number of codes; None without a codebook."""
        return self.subject.codes

    # --- how they are made -----------------------------------------------------------------------

    def _stream(self, name: str) -> Mapping[str, Tensor]:
        if name not in self._kept:
            shards = self._shards(name)
            missing = shards.missing()
            with progress(shards.what, sum(len(shards.parts[k]) for k in missing)) as done:
                start = time.perf_counter()
                self._kept[name] = shards.all((lambda n: None) if self.quiet else done)
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return self._kept[name]

    def _shards(self, name: str) -> ShardedCache:
        subject = self.subject
        if name.startswith("features/"):
            of = name.rpartition("/")[2]
            images = self.real() if of == "real" else self.fake()
            passing = of == "fake" and subject.given is None  # samples come and go
            folder = self.folder if passing else self.cache
            assert self.features_by is not None
            what = "features of the reference" if of == "real" else f"features of {subject.of}"
            return feature_cache(what, self.features_by, images, self.device, folder)
        n = subject.n if name == "fake" else subject.held_out
        parts = ranges(n, self.batch)

        def make(part: range) -> Mapping[str, Tensor]:
            if name == "fake":
                assert subject.draw is not None
                return {"x": subject.draw(part)}
            if name == "pairs":
                assert subject.pairs is not None
                return subject.pairs(part)._asdict()
            assert subject.bits is not None
            return {"bits": subject.bits(part)}

        def path(k: int) -> Path:
            return self.folder / f"{name}-{parts[k].start:07d}-{len(parts[k])}.safetensors"

        what = {"fake": "samples", "pairs": "reconstructions", "bits": "likelihoods"}[name]
        return ShardedCache(what, parts, path, lambda k: self._fitting(make, parts[k]))

    def _fitting(self, make: Callable[[range], Mapping[str, Tensor]], part: range) -> Any:
        """Makes a part whole, or in halves where memory is too small for it: said once.

        Every row is a function of its number alone, so this changes no row.
        """
        most = min(len(part), self._fits or len(part))
        found: list[Mapping[str, Tensor]] = []
        for inside in ranges(len(part), most):
            rows = range(part.start + inside.start, part.start + inside.stop)
            try:
                found.append(make(rows))
            except (RuntimeError, MemoryError) as e:
                if not is_out_of_memory(e):
                    raise
                if most == 1:
                    raise OutOfMemory("memory does not hold a single image of this run") from e
                self._fits = most // 2
                log(f"memory does not hold {most} at once: going on with {self._fits}")
                return self._fitting(make, part)
        return {name: torch.cat([f[name] for f in found]) for name in found[0]}

    def gather(self, needs: Iterable[str]) -> None:
        """Makes every stream that metrics need, on all ranks; says first what it will take."""
        needs = set(needs)
        streams: list[str] = []
        drawn = self.subject.draw is not None
        if needs & {"fake", "features", "logits", "points"} and self.subject.given is None:
            streams.append("fake" if drawn else "pairs")
        if needs & {"pairs", "codes"} and "pairs" not in streams:
            streams.append("pairs")
        if "bits" in needs:
            streams.append("bits")
        if "features" in needs:
            streams.append("features/real")
        if not self.quiet:
            self._announce(streams, bool(needs & {"features", "logits"}))
        if needs & {"features", "logits"}:
            streams.append("features/fake")
        for name in streams:
            self._stream(name)

    def _announce(self, streams: Iterable[str], featured: bool) -> None:
        """Does one part of each stream, to say what all of them will take before it is spent."""
        told, total = [], 0.0
        for name in streams:
            shards = self._shards(name)
            missing = shards.missing()
            if not missing:
                continue
            each = shards.do(missing[0]) / len(shards.parts[missing[0]])
            total += self._tell(
                told, shards.what, sum(len(shards.parts[k]) for k in missing[1:]), each
            )
        if featured and (images := self._unseen()):
            total += self._tell(told, f"features of {self.subject.of}", images, self._pace())
        if total > LONG and dist.rank() == 0:
            log(f"this will take about {duration(total)}: {', '.join(told)}")

    def _tell(self, told: list[str], what: str, images: int, each: float) -> float:
        seconds = images * each
        if seconds >= 1:
            told.append(f"{count(images)} {what} {duration(seconds)}")
        return seconds

    def _unseen(self) -> int:
        """Images judged that have no features yet; of samples a guess until they are drawn."""
        if self.subject.given is None:
            return 0 if any(self.folder.glob("*/*/*.safetensors")) else self.subject.n
        shards = self._shards("features/fake")
        return sum(len(shards.parts[k]) for k in shards.missing())

    def _pace(self) -> float:
        """Seconds the feature network takes for an image of this kind, on this rank's share."""
        assert self.features_by is not None
        images = self.real()[:8] if self.reference is not None else self.fake()[:8]
        start = time.perf_counter()
        extract_features(self.features_by, images, self.device)
        return (time.perf_counter() - start) / len(images) / dist.world()
