"""Computes metrics of one target, each number with its protocol."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch

from genlab.core import dist, registry
from genlab.core.contract import Spec
from genlab.core.errors import ConfigError, DataError, DeviceError
from genlab.core.metric import STREAMS, Features, Metric, MetricResult
from genlab.evaluation.cache import digest
from genlab.evaluation.streams import Streams, Subject
from genlab.hardware.hardware import Hardware

__all__ = ["SelectedMetrics", "evaluate", "make_metrics", "missing_inputs", "select_metrics"]

LOCAL = ("name", "file", "backbone", "heads")  # keys that say nothing about a number
PASSED = {"features", "logits"}  # what a feature network makes of images
SMALL = 32  # side up to which one-channel images go to the small network


def _features_for(node: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """The node of features=, with `auto` resolved by what the data look like."""
    if node.get("name") is not None:
        return dict(node)
    from genlab.config.compose import member

    name = "inception"
    if len(spec.shape) == 1:
        name = "raw"
    elif spec.shape[0] == 1 and max(spec.shape[1:]) <= SMALL:
        name = "small"
    return {str(k): v for k, v in member("features", name).items()}


def _make_features(
    node: Mapping[str, Any], spec: Spec, hardware: Hardware, trust: bool
) -> Features:
    """The feature network of a node; DeviceError or DataError for weights that are not there."""
    features: Features = registry.build(
        "features", node, trust=trust, spec=spec, device=hardware.device
    )
    return features


def make_metrics(
    nodes: Mapping[str, Any], trust: bool, left: dict[str, str] | None = None
) -> dict[str, Metric]:
    """Name -> metric; ConfigError with every problem at once.

    left: takes metric -> reason of those whose weights or packages are not there; without it
    that is the DeviceError or DataError of the first.
    """
    found, problems = {}, []
    for name, node in nodes.items():
        try:
            found[name] = registry.build("metric", node, f"metric.{name}", trust)
        except ConfigError as e:
            problems.extend(e.problems)
        except (DeviceError, DataError) as e:
            if left is None:
                raise
            left[name] = str(e)
    if problems:
        raise ConfigError(*problems)
    return found


class SelectedMetrics(NamedTuple):
    """The metrics that can be had, by which features, and why the others cannot."""

    metrics: dict[str, Metric]
    features: Features | None
    chosen: str  # name of the features, "" for none
    left: dict[str, str]


def select_metrics(
    metrics: Mapping[str, Metric],
    node: Mapping[str, Any],
    subject: Subject,
    spec: Spec,
    hardware: Hardware,
    named: bool,
    trust: bool,
) -> SelectedMetrics:
    """Sorts metrics into those this subject can serve and the others.

    node: of features=; the network is made only if a metric asks for it. named: a person asked
    for just these, so one that cannot be had is a ConfigError that names those that can, and
    missing weights are an error too, as they are of features that were named.
    """
    left = {n: why for n, m in metrics.items() if (why := missing_inputs(m.needs, subject, spec))}
    able = {n: m for n, m in metrics.items() if n not in left}
    features: Features | None = None
    chosen = ""
    looking = [n for n, m in able.items() if PASSED & set(m.needs)]
    if looking and not (named and left):
        try:
            resolved = _features_for(node, spec)
            chosen = str(resolved["name"])
            features = _make_features(resolved, spec, hardware, trust)
        except (ConfigError, DeviceError, DataError) as e:
            if named or node.get("name") is not None:
                raise
            left |= dict.fromkeys(looking, str(e))
        else:
            for name in looking:
                wanted = able[name].features
                if wanted not in (None, chosen):
                    left[name] = f"it is defined on features={wanted}, these are {chosen}"
                elif "logits" in able[name].needs and "logits" not in features.outputs:
                    left[name] = f"these weights of features={chosen} give no class logits"
        able = {n: m for n, m in able.items() if n not in left}
    if left and (named or not able):
        name, reason = next(iter(left.items()))
        can = ", ".join(_serves(subject, spec))
        raise ConfigError(f"metric={name}: {reason}; it can serve {can}")
    return SelectedMetrics(able, features, chosen, left)


def _has(subject: Subject, spec: Spec) -> dict[str, bool]:
    """Stream -> whether this subject has it."""
    return {
        "real": True,
        "fake": any(x is not None for x in (subject.draw, subject.pairs, subject.given)),
        "training": subject.training is not None,
        "pairs": subject.pairs is not None,
        "codes": subject.codes is not None,
        "bits": subject.bits is not None,
        "points": len(spec.shape) == 1,
        "images": len(spec.shape) == 3,
    }


def _serves(subject: Subject, spec: Spec) -> list[str]:
    """All metrics there are that a subject has the streams for."""
    needs = {n: registry.find("metric", n).needs for n in sorted(registry.components("metric"))}
    return [name for name, need in needs.items() if not missing_inputs(need, subject, spec)]


def missing_inputs(needs: Collection[str], subject: Subject, spec: Spec) -> str:
    """Which streams a subject cannot give, in words; "" if it has all of them."""
    streams = {name for name, has in _has(subject, spec).items() if has} | PASSED
    absent = [STREAMS[need] for need in needs if need not in streams]
    if absent and "bits" in needs and subject.silent:
        return subject.silent
    return f"it needs {' and '.join(absent)}" if absent else ""


def evaluate(
    metrics: Mapping[str, Metric],
    nodes: Mapping[str, Mapping[str, Any]],
    inputs: Streams,
    features: str,
    forgive: bool = False,
) -> dict[str, dict[str, Any]]:
    """Metric -> values, better, protocol, seconds (and pairs), on rank 0; {} on the others.

    nodes: config of each metric, part of its protocol. features: name of the feature network.
    forgive: a metric that cannot be computed gives NaN, with the reason under "error", for a
    training that must go on; else DataError.
    """
    refused = {name: why for name, m in metrics.items() if (why := _too_few(name, m, inputs))}
    if refused and not forgive:
        raise DataError(next(iter(refused.values())))
    able = {name: m for name, m in metrics.items() if name not in refused}
    inputs.gather({need for m in able.values() for need in m.needs})
    found: dict[str, dict[str, Any]] = {}
    if dist.rank():
        return found
    for name, metric in metrics.items():
        start = time.perf_counter()
        record: dict[str, Any] = {"better": metric.better}
        if metric.ignored_keys:
            record["aside"] = {key: nodes[name][key] for key in metric.ignored_keys}
        if name in able:
            record["protocol"] = protocol(metric, nodes[name], inputs, features)
        try:
            if name in refused:
                raise DataError(refused[name])
            result = _compute(name, metric, inputs)
            record["values"] = {k: float(v) for k, v in result.values.items()}
            if result.pairs is not None:
                record["pairs"] = result.pairs
        except DataError as e:
            if not forgive:
                raise
            record["values"] = dict.fromkeys(metric.better or (name,), math.nan)
            record |= {"error": str(e), "protocol": record.get("protocol", {})}
        record["seconds"] = round(time.perf_counter() - start, 3)
        found[name] = record
    return found


def _compute(name: str, metric: Metric, inputs: Streams) -> MetricResult:
    """The numbers of a metric; DataError where one is not finite."""
    try:
        result = metric(inputs)
    except torch.linalg.LinAlgError as e:
        raise DataError(f"metric {name}: its matrices have no decomposition ({e})") from e
    for value in metric.better:
        if not math.isfinite(result.values.get(value, math.nan)):
            raise DataError(
                f"metric {name}: {value} is not finite; look at the samples, or whether the "
                "model computes finite numbers"
            )
    return result


def _too_few(name: str, metric: Metric, inputs: Streams) -> str:
    """Why a stream has fewer images than a metric takes, before any is made; "" if it has not."""
    subject, needs = inputs.subject, set(metric.needs)
    have = {}
    if needs & {"fake", "features", "logits", "points"}:
        have[f"{subject.of} (n)"] = subject.n
    if needs & {"real", "features"} and inputs.reference is not None:
        have["reference images (n_real)"] = len(inputs.reference.images)
    if needs & {"pairs", "bits", "codes"}:
        have["held-out images"] = subject.held_out
    few = [
        f"{metric.min_images} {what} or more, here are {n}"
        for what, n in have.items()
        if n < metric.min_images
    ]
    return f"metric {name} needs {few[0]}" if few else ""


def protocol(
    metric: Metric, node: Mapping[str, Any], inputs: Streams, features: str
) -> dict[str, Any]:
    """All that must be equal for two numbers of a metric to be ranked."""
    needs, subject = set(metric.needs), inputs.subject
    told: dict[str, Any] = {}
    if needs & {"fake", "features", "logits", "points"}:
        told |= {"of": subject.of, "images": subject.n}
    if needs & {"pairs", "bits", "codes"}:
        told |= {"held_out": subject.held_out, "held_out_set": subject.held_out_set}
    if "bits" in needs:
        told["density"] = subject.density
    if "logits" in needs:
        told["data"] = subject.data
    if "training" in needs:
        told["training"] = f"{subject.data} train {digest(inputs.training())[:12]}"
    if needs & {"real", "features"} and inputs.reference is not None:
        reference = inputs.reference
        told |= {
            "reference": reference.name,
            "reference_images": f"{len(reference.images)} of {reference.of}",
            "reference_digest": reference.digest,
        }
    if needs & PASSED and inputs.features_by is not None:
        by = inputs.features_by
        told |= {"features": features, "features_digest": by.digest, "resizer": by.resizer}
    if metric.digest is not None:
        told["weights_digest"] = metric.digest
    skip = {*LOCAL, *metric.ignored_keys}
    return told | {k: v for k, v in node.items() if k not in skip}
