"""Metrics of a target: those it can serve, their values, and the protocol of each number."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genlab.config.compose import config_of
from genlab.core import dist, registry
from genlab.core.digest import tensor_digest
from genlab.core.errors import ConfigError, DataError, DeviceError
from genlab.core.metric import STREAMS, Features, Metric, MetricResult
from genlab.evaluation.reference import Reference
from genlab.evaluation.streams import BY_NETWORK, OF_HELD_OUT, OF_REFERENCE, OF_SAMPLES, Streams
from genlab.evaluation.target import EvalTarget
from genlab.features.auto import name_for

__all__ = [
    "Evaluation",
    "Evaluator",
    "missing_inputs",
    "select_metrics",
]

Record = dict[str, Any]


# --- which metrics -----------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """results: metric -> record, as `run.results` writes them, on rank 0 and empty on others.

    seconds: stream -> time it took.
    """

    results: dict[str, Record]
    seconds: dict[str, float]


@dataclass
class Evaluator:
    """The metrics of a target beside a reference that it can serve.

    nodes: name -> config, which is part of its protocol. network: of features, None where no
    metric takes them; network_name: as registered. left_out: name -> reason of the other metrics.
    """

    target: EvalTarget
    reference: Reference
    metrics: dict[str, Metric]
    nodes: Mapping[str, Mapping[str, Any]]
    network: Features | None
    network_name: str
    left_out: dict[str, str]

    def __call__(
        self, folder: Path, cache: Path, *, quiet: bool = False, strict: bool = True
    ) -> Evaluation:
        """Computes them on all ranks together.

        folder, cache, quiet: see `Streams`. strict: a metric that cannot be computed is a
        DataError; else its values are NaN, with the reason under "error", and the others go on.
        """
        streams = Streams(
            self.target,
            self.reference,
            self.network,
            folder=folder,
            cache=cache,
            batch=self.target.batch,
            quiet=quiet,
        )
        few = {n: why for n, m in self.metrics.items() if (why := _too_few(n, m, streams))}
        if few and strict:
            raise DataError(next(iter(few.values())))
        able = [m for n, m in self.metrics.items() if n not in few]
        streams.compute({need for metric in able for need in metric.needs})
        results: dict[str, Record] = {}
        for name, metric in self.metrics.items() if dist.rank() == 0 else ():
            start = time.perf_counter()
            node = self.nodes[name]
            record: Record = {"better": metric.better}
            if metric.ignored_keys:
                record["aside"] = {key: node[key] for key in metric.ignored_keys}
            if name not in few:
                record["protocol"] = _protocol(metric, node, streams, self.network_name)
            try:
                if name in few:
                    raise DataError(few[name])
                result = _compute(name, metric, streams)
                record["values"] = {k: float(v) for k, v in result.values.items()}
                if result.pairs is not None:
                    record["pairs"] = result.pairs
            except DataError as e:
                if strict:
                    raise
                record["values"] = dict.fromkeys(metric.better or (name,), math.nan)
                record |= {"error": str(e), "protocol": record.get("protocol", {})}
            record["seconds"] = round(time.perf_counter() - start, 3)
            results[name] = record
        return Evaluation(results, streams.seconds)


def select_metrics(
    nodes: Mapping[str, Mapping[str, Any]],
    features: Mapping[str, Any],
    target: EvalTarget,
    reference: Reference,
    *,
    named: bool,
    trust: bool,
) -> Evaluator:
    """Builds the metrics that a target can serve, and the feature network if one takes it.

    nodes, features: their configs. named: whether a person asked for just these. Then one that
    cannot be computed is a ConfigError that names those that can, and weights that are not there
    are a DeviceError or DataError, as they are of a network that was named.
    """
    metrics: dict[str, Metric] = {}
    left_out: dict[str, str] = {}
    problems: list[str] = []
    for name, node in nodes.items():
        needs = registry.find("metric", node["name"], trust=trust).needs
        if reason := missing_inputs(needs, target):
            left_out[name] = reason
            continue
        try:
            metrics[name] = registry.build("metric", node, f"metric.{name}", trust)
        except ConfigError as e:
            problems.extend(e.problems)
        except (DeviceError, DataError) as e:
            if named:
                raise
            left_out[name] = str(e)
    if problems:
        raise ConfigError(*problems)
    network, network_name = None, ""
    takers = [name for name, metric in metrics.items() if BY_NETWORK & set(metric.needs)]
    if takers and not (named and left_out):
        node = features
        if node.get("name") is None:
            node = {str(k): v for k, v in config_of("features", name_for(target.spec)).items()}
        network_name = str(node["name"])
        try:
            network = registry.build(
                "features", node, trust=trust, spec=target.spec, device=target.device
            )
        except (ConfigError, DeviceError, DataError) as e:
            if named or features.get("name") is not None:
                raise
            left_out |= dict.fromkeys(takers, str(e))
        else:
            reasons = {n: _unsuited(metrics[n], network, network_name) for n in takers}
            left_out |= {name: why for name, why in reasons.items() if why}
    able = {name: metric for name, metric in metrics.items() if name not in left_out}
    if left_out and (named or not able):
        name, reason = next(iter(left_out.items()))
        names = sorted(registry.components("metric"))
        can = [n for n in names if not missing_inputs(registry.find("metric", n).needs, target)]
        raise ConfigError(f"metric={name}: {reason}; it can serve {', '.join(can)}")
    return Evaluator(target, reference, able, nodes, network, network_name, left_out)


def missing_inputs(needs: Collection[str], target: EvalTarget) -> str:
    """Which streams a target lacks, in words; "" if it has all of them."""
    absent = [STREAMS[need] for need in needs if need not in target.streams | BY_NETWORK]
    if absent and "bits" in needs and target.no_likelihood:
        return target.no_likelihood
    return f"it needs {' and '.join(absent)}" if absent else ""


def _unsuited(metric: Metric, network: Features, name: str) -> str:
    """Why a metric is not of these features, in words; "" if it is."""
    if metric.features not in (None, name):
        return f"it is defined on features={metric.features}, these are {name}"
    if "logits" in metric.needs and "logits" not in network.outputs:
        return f"these weights of features={name} give no class logits"
    return ""


# --- their values ------------------------------------------------------------------------------


def _compute(name: str, metric: Metric, streams: Streams) -> MetricResult:
    """The numbers of a metric; DataError where one that has an order is not finite."""
    try:
        result = metric(streams)
    except torch.linalg.LinAlgError as e:
        raise DataError(f"metric {name}: its matrices have no decomposition ({e})") from e
    for value in metric.better:
        if not math.isfinite(result.values.get(value, math.nan)):
            raise DataError(
                f"metric {name}: {value} is not finite; look at the samples, or whether the "
                "model computes finite numbers"
            )
    return result


def _too_few(name: str, metric: Metric, streams: Streams) -> str:
    """Which stream has fewer rows than a metric takes, before any is computed; "" if none has."""
    target, needs, have = streams.target, set(metric.needs), {}
    if needs & OF_SAMPLES:
        have[f"{target.kind} (n)"] = target.n
    if needs & OF_REFERENCE:
        have["reference images (n_real)"] = len(streams.reference.images)
    if needs & OF_HELD_OUT:
        have["held-out images"] = target.held_out
    for what, n in have.items():
        if n < metric.min_images:
            return f"metric {name} needs {metric.min_images} {what} or more, here are {n}"
    return ""


def _protocol(
    metric: Metric, node: Mapping[str, Any], streams: Streams, network_name: str
) -> dict[str, Any]:
    """All that must be equal for two numbers of a metric to be ranked."""
    target, reference, network = streams.target, streams.reference, streams.network
    needs = set(metric.needs)
    found: dict[str, Any] = {}
    if needs & OF_SAMPLES:
        found |= {"of": target.kind, "images": target.n}
        if target.labels:
            found["labels"] = target.labels
    if needs & OF_HELD_OUT:
        found |= {"held_out": target.held_out, "held_out_set": target.held_out_set}
    if "bits" in needs:
        found["density"] = target.density
    if "logits" in needs:
        found["data"] = target.data
    if "training" in needs:
        found["training"] = f"{target.data} train {tensor_digest(streams.training())[:12]}"
    if needs & OF_REFERENCE:
        found |= {
            "reference": reference.name,
            "reference_images": f"{len(reference.images)} of {reference.total}",
            "reference_digest": reference.digest,
        }
    if needs & BY_NETWORK and network is not None:
        found |= {
            "features": network_name,
            "features_digest": network.digest,
            "resizer": network.resizer,
        }
    if metric.digest is not None:
        found["weights_digest"] = metric.digest
    skip = {"name", *metric.file_keys, *metric.ignored_keys}
    return found | {k: v for k, v in node.items() if k not in skip}
