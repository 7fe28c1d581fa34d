"""Evaluates a run while it trains, by the same metrics, at every.eval."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

from genlab.config.auto_values import held_out
from genlab.core import dist
from genlab.core.console import log
from genlab.core.errors import ConfigError
from genlab.core.metric import Metric
from genlab.evaluation.evaluate import select_metrics
from genlab.evaluation.reference import of_data
from genlab.evaluation.target import ModelOutputs, number_of_samples
from genlab.run.directory import Run
from genlab.run.results import write_result
from genlab.sampling.pipeline import Pipeline

__all__ = ["TrainingMetrics"]


class TrainingMetrics:
    """Metrics of the model of a pipeline as it stands, on all ranks, at each call.

    description: a line for a person, "" where no feature network is used.
    """

    description = ""

    def __init__(self, pipeline: Pipeline, *, trust: bool) -> None:
        """trust: whether out-of-tree names of the config may be imported.

        Raises ConfigError for a metric that the model cannot serve and for a keep.best that is
        none of its values, DeviceError or DataError for features that are not there.
        """
        self.pipeline, config = pipeline, pipeline.config
        self.metrics: dict[str, Metric] = {}
        if nodes := config["metric"]:
            self.cache = Path(config["outputs"]) / ".cache" / "features"
            self.n = number_of_samples(
                config["eval"]["n"], pipeline.hardware.device, training=True
            )
            self.target = target = ModelOutputs(
                pipeline, self.n, int(config["seed"]), labels=config["eval"]["labels"]
            )
            if target.enlarged:
                raise ConfigError(f"metric=: {target.enlarged}")
            reference = of_data(pipeline.data, target.data, target.reference_split, self.n)
            self.evaluate = select_metrics(
                nodes, config["features"], target, reference, named=True, trust=trust
            )
            self.metrics, name = self.evaluate.metrics, self.evaluate.network_name
            if name:
                self.description = f"metrics look at {self.n:,} samples by features={name}"
        best = str(config["keep"]["best"])
        if best.startswith("metric/") and not self.better(best):
            able = [f"metric/{v}" for metric in self.metrics.values() for v in metric.better]
            raise ConfigError(
                f"keep.best={best}: metric= gives no such value that is better low or high; "
                + (f"it gives {', '.join(able)}" if able else "add metric=fid or another")
            )

    def better(self, value: str) -> int:
        """1 where low is good, -1 where high is; 0 for a metric's value without order.

        value: of the journal.
        """
        kind, _, name = value.rpartition("/")
        if kind != "metric":
            return -1 if name in self.pipeline.model.higher_is_better else 1
        orders = [metric.better[name] for metric in self.metrics.values() if name in metric.better]
        return {"low": 1, "high": -1}[orders[0]] if orders else 0

    def measure(self, value: str) -> str:
        """What a value of the journal means, as text: values of other texts do not compare."""
        if not value.startswith("metric/") or not self.metrics:
            n = held_out(self.pipeline.config)
            # earlier versions had as many always, and said nothing
            few = value.startswith("heldout/") and n != 1024
            return f"{value} of {n} data" if few else value
        network, reference = self.evaluate.network, self.evaluate.reference
        how = [value, reference.digest, self.n, self.target.seed]
        how += [network.digest if network else "", dict(self.evaluate.nodes)]
        if self.target.labels == "data":  # earlier versions drew the others, and said nothing
            how.append("labels data")
        return json.dumps(how, sort_keys=True, default=str)

    def __call__(self, run: Run, images: int) -> dict[str, float]:
        """`metric/<value>` -> value on rank 0, {} on the others; writes <run>/eval/training.

        images: that the run has drawn. A metric that cannot be computed is NaN, said each time.
        """
        if not self.metrics:
            return {}
        folder = run.path / "eval" / "training"
        streams = folder / f".streams-{images:012d}"  # of this moment alone
        done = streams / "evaluated"
        if dist.rank() == 0:
            for old in folder.glob(".streams-*"):  # what an earlier moment left, or this one
                shutil.rmtree(old, ignore_errors=True)
        dist.barrier()
        results, _ = self.evaluate(streams, self.cache, quiet=True, strict=False)
        if dist.rank():
            while not done.exists():  # longer than a collective waits, if it must be
                time.sleep(0.1)
            return {}
        if dist.world() == 1:
            shutil.rmtree(streams, ignore_errors=True)
        else:
            done.touch()
        for name, record in results.items():
            if "error" in record:
                log(f"metric {name} at image {images:,}: {record['error']}")
        described = self.target.describe(run, images)
        write_result(folder, described, results, self.target.environment)
        return {
            f"metric/{name}": value if math.isfinite(value) else math.nan
            for record in results.values()
            for name, value in record["values"].items()
        }
