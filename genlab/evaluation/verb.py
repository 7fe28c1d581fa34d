"""`genlab eval`: what a run, or anybody's images, are worth, each number with its protocol."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlab.config import compose as cfg
from genlab.core import dist, registry
from genlab.core.console import log
from genlab.core.contract import Dataset, Spec
from genlab.core.errors import ConfigError, DataError
from genlab.core.format import count, number, table
from genlab.evaluation.evaluate import SelectedMetrics, evaluate, select_metrics
from genlab.evaluation.reference import Reference, of_data, read_images, size_of, subset
from genlab.evaluation.target import EvalTarget, GivenImages, ModelOutputs, number_of_samples
from genlab.hardware.hardware import Hardware
from genlab.run.directory import find_run
from genlab.run.environment import environment
from genlab.run.results import write_result
from genlab.sampling.pipeline import load

__all__ = ["main"]

OF_RUNS_ALONE = ("run", "checkpoint", "weights", "batch")
OF_RUN = ("sampler", "guidance", "hardware")  # groups whose keys go to the run


def main(words: Sequence[str]) -> int:
    """Evaluates a run, or the images of fake=, and writes result.json; returns 0."""
    options, rest = cfg.options(words)
    given = any(w.startswith("fake=") and w != "fake=null" for w in rest)
    ours: list[str] = []
    others: list[str] = []
    for word in rest:
        group = word.lstrip("+~").partition("=")[0].partition(".")[0]
        of_run_alone = group in OF_RUN or word.startswith("data.root=")
        (others if of_run_alone and not given else ours).append(word)
    named = any(w.partition("=")[0] == "metric" for w in ours)
    if not named:  # all there are; those that cannot be had are left out, and said
        every = [n for n in registry.names("metric") if n != "none"]
        ours.insert(0, f"metric=[{','.join(every)}]")
    asked = cfg.compose(ours, primary="eval")
    idle = [w for w in ours if w.partition("=")[0] in OF_RUNS_ALONE] if given else []
    _check(asked, idle)
    devices = _devices(others, asked)
    if devices > 1 and dist.world() == 1:
        from genlab.core import subprocesses

        return subprocesses.run_ranks(["eval", *words], devices)
    try:
        job = of_images(asked) if given else of_run(asked, others, bool(options.get("trust")))
        selected = select_metrics(
            asked["metric"], asked["features"], job.target, named=named, trust=True
        )
        _run(job, selected, asked, strict=named)
    finally:
        dist.stop()
    return 0


def _devices(others: Sequence[str], asked: Mapping[str, Any]) -> int:
    """Ranks that were asked for here; those a run was trained on do not count."""
    typed = [w.partition("=")[2] for w in others if w.startswith("hardware.devices=")]
    return int(typed[-1]) if typed and typed[-1].isdecimal() else int(asked["hardware"]["devices"])


def _check(asked: Mapping[str, Any], idle: Sequence[str]) -> None:
    """ConfigError with every problem of keys beside each other.

    idle: words that would say nothing beside fake=.
    """
    problems = [f"{word} is of a run; leave it out beside fake=" for word in idle]
    if asked["fake"] is None:
        if asked.get("data") is not None:
            problems.append("data= is the reference of fake= images; a run has its own data")
        if asked["size"] is not None and asked["real"] is None:
            problems.append("size= is of fake= and real= images; a run draws its own size")
    else:
        if asked["of"] != "auto":
            problems.append("of= is of a run; fake= images are taken as they are")
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


# --- what is evaluated -------------------------------------------------------------------------


@dataclass
class Job:
    """What one command evaluates, and where its results go.

    title: of the target, in words. description: of it, for the record. key: what else its samples
    depend on. folder: of its evaluations. run: directory of the run, None for given images.
    """

    title: str
    target: EvalTarget
    reference: Reference
    description: dict[str, Any]
    folder: Path
    key: str = ""
    run: Path | None = None
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def streams(self) -> Path:
        """Where samples and their features are kept: another place for other samples."""
        return self.folder / f".streams-{self.digest()[:12]}"

    def digest(self, *more: Any) -> str:
        """SHA-256 of what its samples depend on, and of more."""
        text = json.dumps([self.description, self.key, *more], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def of_run(asked: Mapping[str, Any], others: Sequence[str], trust: bool) -> Job:
    """A run at one of its checkpoints. others: overrides of its sampler, guidance, hardware."""
    run = find_run(str(asked["run"]), asked["outputs"])
    pipeline = load(run.path, trust=trust, overrides=others, checkpoint=asked["checkpoint"])
    hardware, checkpoint = pipeline.hardware, pipeline.checkpoint
    assert checkpoint is not None
    dist.start(hardware.device)
    average = pipeline.post_hoc_ema(asked["weights"])
    if dist.rank() == 0:
        if not run.status.startswith("done"):
            state = "still training" if run.status == "running" else run.status
            log(f"{run.title} is {state}; taking its checkpoint at image {checkpoint.images:,}")
        if average is not None:
            log(str(average))
    n = number_of_samples(asked["n"], hardware.device, training=False)
    target = ModelOutputs(pipeline, n, asked["seed"], asked["weights"], asked["of"])
    if asked["real"] is None and target.enlarged:
        raise DataError(target.enlarged)
    machine = environment(hardware, pipeline.data)
    key: list[Any] = [checkpoint.digest, target.held_out_set]
    key += [hardware.precision, hardware.device.type]
    key += [machine[name] for name in ("attention", "genlab", "git")]
    if average is not None:  # made of those that are kept, which may change
        key += average.moments
    return Job(
        pipeline.title,
        target,
        _reference(asked, target, n),
        target.describe(run, checkpoint.images) | {"batch": asked["batch"]},
        run.path / "eval",
        " ".join(map(str, key)),
        run.path,
        machine,
    )


def of_images(asked: Mapping[str, Any]) -> Job:
    """The images of fake=, beside those of real= or data=."""
    hardware: Hardware = registry.build("hardware", asked["hardware"])
    hardware.start()
    dist.start(hardware.device)
    node, title = asked.get("data"), str(asked["fake"])
    dataset: Dataset | None = None
    if node is not None:
        dataset = registry.build("data", node, root=node["root"])
        if len(dataset.spec.shape) != 3:
            raise DataError(
                f"data={node['name']} are no images; fake= images need a set of images"
            )
    channels = dataset.spec.shape[0] if dataset else None
    images = read_images(asked["fake"], "fake", asked["size"], channels)
    images = subset(images, None if asked["n"] == "auto" else asked["n"])
    spec = dataset.spec if dataset else Spec(tuple(images.shape[1:]))
    data = f"{node['name'] if node else 'images'} {size_of(spec)}"
    target = GivenImages(images, asked["seed"], hardware.device, data, dataset)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(title).name)[:60] or "images"
    return Job(
        title,
        target,
        _reference(asked, target, target.n),
        target.describe(title),
        Path(asked["outputs"]) / "eval" / name,
        environment=environment(hardware, dataset),
    )


def _reference(asked: Mapping[str, Any], target: EvalTarget, n: int) -> Reference:
    """The images of real=, else of the data set. n: as many of these on a CPU, if not told."""
    many = asked["n_real"]
    if asked["real"] is not None:
        if target.spec.kind != "images":
            raise DataError(
                f"real= is of images; {target.spec.kind} are compared with those of their own set"
            )
        images = read_images(asked["real"], "real", asked["size"], target.spec.shape[0])
        _check_size(target.spec, Spec(tuple(images.shape[1:])), "real=", target.spec)
        chosen = subset(images, None if many in ("auto", "all") else many)
        return Reference(str(asked["real"]), chosen, len(images))
    dataset = target.dataset
    assert dataset is not None
    _check_size(target.spec, dataset.spec, f"data={target.data}", dataset.spec)
    split = target.reference_split if asked["split"] == "auto" else asked["split"]
    if many == "auto":
        many = n if target.device.type == "cpu" else "all"
    return of_data(dataset, target.data, split, None if many == "all" else many)


def _check_size(target: Spec, real: Spec, which: str, kept: Spec) -> None:
    """DataError for images of two sizes: a feature network takes both, the number means nothing.

    kept: the one whose size the other can be resampled to.
    """
    if target.shape != real.shape:
        raise DataError(
            f"the samples are {size_of(target)}, the reference {which} is {size_of(real)}; add "
            f"size={min(kept.shape[1:])} to resample images that are given"
        )


# --- results -----------------------------------------------------------------------------------


def _run(job: Job, selected: SelectedMetrics, asked: Mapping[str, Any], strict: bool) -> None:
    results, seconds = evaluate(
        job.target,
        job.reference,
        selected,
        folder=job.streams,
        cache=Path(asked["outputs"]) / ".cache" / "features",
        batch=asked["batch"],
        strict=strict,
    )
    if dist.rank():
        return
    for name in [n for n, record in results.items() if "error" in record]:
        selected.left_out[name] = results.pop(name)["error"]
    if not results:
        raise DataError("; ".join(selected.left_out.values()))
    stem = f"{job.description['checkpoint']:012d}-" if job.run else ""
    protocols = {n: [r["protocol"], r.get("aside")] for n, r in results.items()}
    folder = job.folder / (asked["name"] or f"{stem}{job.digest(protocols)[:6]}")
    spent = {name: round(s, 2) for name, s in seconds.items()}
    path = write_result(folder, job.description, results, {**job.environment, "seconds": spent})
    _print(job, selected, results)
    print(path)
    if job.run is not None:
        from genlab.report.report import write_report

        print(f"report: {write_report(job.run)}")


def _print(job: Job, selected: SelectedMetrics, results: Mapping[str, Mapping[str, Any]]) -> None:
    """The table of an evaluation, with what every number is of."""
    target, reference, network = job.target, job.reference, selected.network
    print(job.title)
    facts = []
    protocols = [record["protocol"] for record in results.values()]
    if any("images" in p for p in protocols):
        facts.append(f"{count(target.n)} {target.kind}")
    if any("held_out" in p for p in protocols):
        facts.append(f"held out: {target.held_out_set}")
    if any("reference" in p for p in protocols):
        of = f"{count(len(reference.images))} of {count(reference.total)}"
        facts.append(f"reference {reference.name}, {of}")
    if network is not None:
        facts.append(
            f"features {selected.network_name} {network.digest}, resizer {network.resizer}"
        )
    print("; ".join(facts))
    rows = []
    for record in results.values():
        (name, value), *more = record["values"].items()
        rest = ", ".join(f"{k} {number(v)}" for k, v in more)
        rows.append((name, number(value), f"{record['seconds']:.1f} s", rest))
    print(table(rows, indent="  "))
    reasons: dict[str, list[str]] = {}
    for name, reason in selected.left_out.items():
        other = reason.startswith("it ")  # another model or other features would be needed
        reasons.setdefault("" if other else reason, []).append(name)
    for reason, names in sorted(reasons.items(), reverse=True):
        which = ", ".join(sorted(names))
        print(f"  without {which}: {reason}" if reason else f"  not for these: {which}")
