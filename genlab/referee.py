"""The judge of a run while it trains: the same metrics, at every.eval."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genlab import dist
from genlab.build import Built
from genlab.case import size_of
from genlab.environment import environment
from genlab.errors import ConfigError
from genlab.gather import Gathered
from genlab.judge import admit, judge, make_metrics
from genlab.results import write_result
from genlab.run.directory import Run
from genlab.subject import of_built, reference

__all__ = ["Referee"]

SAMPLES = {"cpu": 1_000, "cuda": 10_000}


class Referee:
    """Measures the model of a run as it stands, on all ranks, each time it is called.

    Raises ConfigError for a metric that the model cannot serve, DeviceError or DataError for
    features that are not there: before the training begins.
    """

    def __init__(
        self, run: Run, config: Mapping[str, Any], built: Built, say: Callable[[str], None]
    ) -> None:
        self.run, self.built, self.say = run, built, say
        self.seed, self.nodes = int(config["seed"]), dict(config["metric"])
        self.metrics = make_metrics(self.nodes)
        if not self.metrics:
            return
        kind, asked = built.hardware.device.type, config["eval"]["n"]
        self.n = SAMPLES.get(kind, SAMPLES["cuda"]) if asked == "auto" else int(asked)
        spec = built.data.spec
        self.name = f"{config['data']['name']} {size_of(spec)}"
        self.subject = of_built(built, self.name, self.n, self.seed)
        node, hardware = config["features"], built.hardware
        self.admitted = admit(self.metrics, node, self.subject, spec, hardware, named=True)
        if self.admitted.features is not None:
            self.say(f"metrics look at {self.n:,} samples by features={self.admitted.chosen}")
        split = "test" if self.subject.of == "reconstructions" else "train"
        self.real = reference(built.data, self.name, split, self.n)
        self.cache = Path(config["outputs"]) / ".cache" / "features"

    def better(self, value: str) -> int:
        """1 where low is good, -1 where high is; 0 for a value without order."""
        for metric in self.metrics.values():
            if value in metric.better:
                return 1 if metric.better[value] == "low" else -1
        return 0

    def check(self, best: str | None) -> None:
        """ConfigError when keep.best names a value of no metric, or one without order."""
        if best is None or not best.startswith("metric/"):
            return
        if not self.better(best.removeprefix("metric/")):
            able = [f"metric/{v}" for m in self.metrics.values() for v in m.better]
            raise ConfigError(
                f"keep.best={best}: metric= gives no such value that is better low or high; "
                + (f"it gives {', '.join(able)}" if able else "add metric=fid or another")
            )

    def __call__(self, images: int) -> dict[str, float]:
        """`metric/<value>` -> value on rank 0, {} on the others.

        images: that were drawn. What a metric cannot judge is NaN, said once a time.
        """
        if not self.metrics:
            return {}
        folder = self.run.path / "eval" / "training"
        streams = folder / ".streams"
        if dist.rank() == 0:
            shutil.rmtree(streams, ignore_errors=True)  # of a moment that was cut off
        dist.barrier()
        evidence = Gathered(
            self.subject,
            self.real,
            self.admitted.features,
            folder=streams,
            cache=self.cache,
            device=self.built.hardware.device,
            seed=self.seed,
            quiet=True,
        )
        found = judge(self.metrics, self.nodes, evidence, self.admitted.chosen, forgive=True)
        dist.barrier()
        if dist.rank():
            return {}
        shutil.rmtree(streams, ignore_errors=True)
        for name, record in found.items():
            if "error" in record:
                self.say(f"metric {name} at image {images:,}: {record['error']}")
        told = {"run": self.run.title, "id": self.run.id, "of": self.subject.of}
        told |= {"checkpoint": images, "weights": "ema", "seed": self.seed}
        write_result(folder, told, found, environment(self.built.hardware, self.built.data))
        return {
            f"metric/{k}": v if math.isfinite(v) else math.nan
            for record in found.values()
            for k, v in record["values"].items()
        }
