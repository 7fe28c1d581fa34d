"""`genlab eval`: what a run, or anybody's images, are worth, each number with its protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genlab.config import compose as cfg
from genlab.core import dist, registry, schema
from genlab.core.errors import ConfigError, DataError
from genlab.core.format import count, number, table
from genlab.core.metric import Metric
from genlab.evaluation.evaluate import (
    SelectedMetrics,
    evaluate,
    make_metrics,
    missing_inputs,
    select_metrics,
)
from genlab.evaluation.streams import Streams
from genlab.evaluation.target import Case, of_folder, of_run
from genlab.run.results import write_result

__all__ = ["main"]

SCHEMA = {
    "checkpoint": "Literal['latest', 'best'] | Natural",
    "fake": "str | None",
    "real": "str | None",
    "size": "Count | None",
    "of": "Literal['auto', 'samples', 'reconstructions']",
    "split": "Literal['auto', 'train', 'test']",
    "n": "Count | Literal['auto']",
    "n_real": "Count | Literal['auto', 'all']",
    "batch": "Count",
    "seed": "Natural",
    "weights": schema.WEIGHTS,
    "name": "str | None",
}
OF_RUNS_ALONE = ("run", "checkpoint", "weights", "batch")
OF_RUN = ("sampler", "guidance", "hardware")  # groups whose keys go to the run


def main(words: Sequence[str]) -> int:
    """Judges a run, or the images of fake=, and writes result.json; returns 0."""
    options, rest = cfg.options(words)
    foreign = any(w.startswith("fake=") and w != "fake=null" for w in rest)
    ours, others = [], []
    for word in rest:
        group = word.lstrip("+~").partition("=")[0].partition(".")[0]
        of_run_alone = group in OF_RUN or word.startswith("data.root=")
        (others if of_run_alone and not foreign else ours).append(word)
    named = any(w.partition("=")[0] == "metric" for w in ours)
    if not named:  # all there are; those that cannot be had are left out, and said
        every = [n for n in registry.names("metric") if n != "none"]
        ours.insert(0, f"metric=[{','.join(every)}]")
    asked, _ = cfg.compose(ours, primary="eval")
    idle = [w for w in ours if w.partition("=")[0] in OF_RUNS_ALONE] if foreign else []
    _check(asked, idle)
    left: dict[str, str] = {}
    metrics = make_metrics(asked["metric"], True, None if named else left)
    devices = _devices(others, asked)
    if devices > 1 and dist.world() == 1:
        from genlab.core import subprocesses

        return subprocesses.run_ranks(["eval", *words], devices)
    try:
        if foreign:
            case = of_folder(asked)
        else:
            case = of_run(asked, others, bool(options.get("trust")))
        _finish(case, asked, metrics, named, left)
    finally:
        dist.stop()
    return 0


def _devices(others: Sequence[str], asked: Mapping[str, Any]) -> int:
    """Ranks that were asked for here; those a run was trained on do not count."""
    typed = [w.partition("=")[2] for w in others if w.startswith("hardware.devices=")]
    return int(typed[-1]) if typed and typed[-1].isdecimal() else int(asked["hardware"]["devices"])


def _check(asked: Mapping[str, Any], idle: Sequence[str]) -> None:
    """ConfigError with every problem that needs no data to be seen.

    idle: words that would say nothing beside fake=.
    """
    problems = [f"{word} is of a run; leave it out beside fake=" for word in idle]
    for name, node in asked["metric"].items():
        problems += registry.check("metric", node, f"metric.{name}")
    if asked["features"].get("name") is not None:
        problems += registry.check("features", asked["features"])
    for key, annotation in SCHEMA.items():
        try:
            schema.coerce(asked[key], annotation)
        except ValueError as e:
            problems.append(f"{key} must be {e}, not {asked[key]!r}")
    if asked["fake"] is None:
        if asked.get("data") is not None:
            problems.append("data= is the reference of fake= images; a run has its own data")
        if asked["size"] is not None and asked["real"] is None:
            problems.append("size= is of fake= and real= images; a run draws its own size")
    else:
        if asked["of"] != "auto":
            problems.append("of= is of a run; fake= images are judged as they are")
        if asked["real"] is None and asked.get("data") is None:
            problems.append("fake= needs a reference: real=<folder> or data=<a data set>")
    name = asked["name"]
    if name is not None and (not name or name.startswith(".") or set(name) & set("/\\\0")):
        problems.append(f"name={name!r} must be a plain folder name")
    if name == "training":
        problems.append("name=training is where a run keeps what it measured while training")
    if not asked["metric"]:
        problems.append("metric=none leaves nothing to do; name some, or leave it out for all")
    if problems:
        raise ConfigError(*problems)


def _finish(
    case: Case,
    asked: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    named: bool,
    left: Mapping[str, str],
) -> None:
    selected = select_metrics(
        metrics, asked["features"], case.subject, case.spec, case.hardware, named, True
    )
    for name, reason in left.items():  # weights that are not there matter to few models
        needs = registry.find("metric", asked["metric"][name]["name"]).needs
        selected.left[name] = missing_inputs(needs, case.subject, case.spec) or reason
    inputs = Streams(
        case.subject,
        case.real,
        selected.features,
        folder=case.streams,
        cache=Path(asked["outputs"]) / ".cache" / "features",
        device=case.hardware.device,
        batch=asked["batch"],
        seed=asked["seed"],
    )
    found = evaluate(selected.metrics, asked["metric"], inputs, selected.chosen, forgive=not named)
    if dist.rank():
        return
    for name in [n for n, record in found.items() if "error" in record]:
        selected.left[name] = found.pop(name)["error"]
    if not found:
        raise DataError("; ".join(selected.left.values()))
    protocols = {n: [r["protocol"], r.get("aside")] for n, r in found.items()}
    text = json.dumps([case.told, case.key, protocols], sort_keys=True, default=str)
    made = hashlib.sha256(text.encode()).hexdigest()[:6]
    stem = f"{case.told['checkpoint']:012d}-" if "checkpoint" in case.told else ""
    folder = case.home / (asked["name"] or f"{stem}{made}")
    spent = {k: round(v, 2) for k, v in inputs.seconds.items()}
    path = write_result(folder, case.told, found, {**case.environment, "seconds": spent})
    _say(case, selected, found)
    print(path)
    if case.run is not None:
        from genlab.report.report import write_report

        print(f"report: {write_report(case.run)}")


def _say(case: Case, selected: SelectedMetrics, found: Mapping[str, Mapping[str, Any]]) -> None:
    """The table of an evaluation, with what every number is of."""
    print(f"{case.title}")
    by = selected.features
    facts = []
    protocols = [record["protocol"] for record in found.values()]
    if any("images" in p for p in protocols):
        facts.append(f"{count(case.subject.n)} {case.subject.of}")
    if any("held_out" in p for p in protocols):
        facts.append(f"held out: {case.subject.held_out_set}")
    if any("reference" in p for p in protocols):
        real = case.real
        facts.append(f"reference {real.name}, {count(len(real.images))} of {count(real.of)}")
    if by is not None:
        facts.append(f"features {selected.chosen} {by.digest}, resizer {by.resizer}")
    print("; ".join(facts))
    rows = []
    for record in found.values():
        (name, value), *more = record["values"].items()
        rest = ", ".join(f"{k} {number(v)}" for k, v in more)
        rows.append((name, number(value), f"{record['seconds']:.1f} s", rest))
    print(table(rows, indent="  "))
    reasons: dict[str, list[str]] = {}
    for name, reason in selected.left.items():
        alien = reason.startswith("it ")  # another model or other features would be needed
        reasons.setdefault("" if alien else reason, []).append(name)
    for reason, names in sorted(reasons.items(), reverse=True):
        told = ", ".join(sorted(names))
        print(f"  without {told}: {reason}" if reason else f"  not for these: {told}")
