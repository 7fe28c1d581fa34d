"""Evaluates a run while it trains, by the same metrics, at every.eval."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genlab.core import dist
from genlab.core.errors import ConfigError
from genlab.evaluation.evaluate import evaluate, make_metrics, select_metrics
from genlab.evaluation.streams import Streams
from genlab.evaluation.target import enlarged, of_built, reference, size_of, told_of
from genlab.run.directory import Run
from genlab.run.environment import environment
from genlab.run.results import write_result
from genlab.sampling.pipeline import Pipeline

__all__ = ["Evaluator"]

SAMPLES = {"cpu": 1_000, "cuda": 10_000}
HIGH = {"psnr", "ssim", "usage", "perplexity"}  # logged values that are better high


class Evaluator:
    """Measures the model of a run as it stands, on all ranks, each time it is called.

    Raises ConfigError for a metric that the model cannot serve, DeviceError or DataError for
    features that are not there: before the training begins.
    """

    def __init__(
        self,
        run: Run,
        config: Mapping[str, Any],
        pipeline: Pipeline,
        say: Callable[[str], None],
        trust: bool,
    ) -> None:
        """trust: whether out-of-tree names of the config may be imported."""
        self.run, self.config, self.pipeline, self.say = run, config, pipeline, say
        self.seed, self.nodes = int(config["seed"]), dict(config["metric"])
        self.metrics = make_metrics(self.nodes, trust)
        if not self.metrics:
            return
        if problem := enlarged(pipeline):
            raise ConfigError(f"metric=: {problem}")
        kind, asked = pipeline.hardware.device.type, config["eval"]["n"]
        self.n = SAMPLES.get(kind, SAMPLES["cuda"]) if asked == "auto" else int(asked)
        spec = pipeline.data.spec
        self.name = f"{config['data']['name']} {size_of(spec)}"
        self.subject = of_built(pipeline, self.name, self.n, self.seed)
        node, hardware = config["features"], pipeline.hardware
        self.selected = select_metrics(
            self.metrics, node, self.subject, spec, hardware, True, trust
        )
        if self.selected.features is not None:
            self.say(f"metrics look at {self.n:,} samples by features={self.selected.chosen}")
        split = "test" if self.subject.of == "reconstructions" else "train"
        self.real = reference(pipeline.data, self.name, split, self.n)
        self.cache = Path(config["outputs"]) / ".cache" / "features"

    def better(self, value: str) -> int:
        """1 where low is good, -1 where high is; 0 for a metric's value without order.

        value: of the journal; what is no metric is better low, but for HIGH.
        """
        kind, _, name = value.rpartition("/")
        if kind != "metric":
            return -1 if name in HIGH else 1
        for metric in self.metrics.values():
            if name in metric.better:
                return 1 if metric.better[name] == "low" else -1
        return 0

    def measure(self, value: str) -> str:
        """What a value of the journal means, as text: values of other texts do not compare."""
        if not value.startswith("metric/") or not self.metrics:
            return value
        by = self.selected.features
        looked = [self.real.digest, self.n, self.seed, by.digest if by else ""]
        return json.dumps([value, *looked, self.nodes], sort_keys=True, default=str)

    def check(self, best: str | None) -> None:
        """ConfigError when keep.best names a value of no metric, or one without order."""
        if best is None or not best.startswith("metric/"):
            return
        if not self.better(best):
            able = [f"metric/{v}" for m in self.metrics.values() for v in m.better]
            raise ConfigError(
                f"keep.best={best}: metric= gives no such value that is better low or high; "
                + (f"it gives {', '.join(able)}" if able else "add metric=fid or another")
            )

    def __call__(self, images: int) -> dict[str, float]:
        """`metric/<value>` -> value on rank 0, {} on the others.

        images: that were drawn. A metric that cannot be computed is NaN, said once a time.
        """
        if not self.metrics:
            return {}
        folder = self.run.path / "eval" / "training"
        streams = folder / f".streams-{images:012d}"  # of this moment alone
        done = streams / "judged"
        if dist.rank() == 0:
            for old in folder.glob(".streams-*"):  # what an earlier moment left, or this one
                shutil.rmtree(old, ignore_errors=True)
        dist.barrier()
        inputs = Streams(
            self.subject,
            self.real,
            self.selected.features,
            folder=streams,
            cache=self.cache,
            device=self.pipeline.hardware.device,
            seed=self.seed,
            quiet=True,
        )
        found = evaluate(self.metrics, self.nodes, inputs, self.selected.chosen, forgive=True)
        if dist.rank():
            while not done.exists():  # longer than a collective waits, if it must be
                time.sleep(0.1)
            return {}
        if dist.world() == 1:
            shutil.rmtree(streams, ignore_errors=True)
        else:
            done.touch()
        for name, record in found.items():
            if "error" in record:
                self.say(f"metric {name} at image {images:,}: {record['error']}")
        pipeline, subject = self.pipeline, self.subject
        told = told_of(self.run, self.config, pipeline, subject, "ema", self.seed, images)
        write_result(folder, told, found, environment(pipeline.hardware, pipeline.data))
        return {
            f"metric/{k}": v if math.isfinite(v) else math.nan
            for record in found.values()
            for k, v in record["values"].items()
        }
