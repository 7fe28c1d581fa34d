"""`genlab eval`: what a run, or anybody's images, are worth, each number with its protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from genlab.config.compose import compose, split_options
from genlab.core import dist, registry
from genlab.core.console import log
from genlab.core.contract import Dataset, Spec
from genlab.core.errors import ConfigError, DataError
from genlab.core.files import read_json
from genlab.core.format import clean, count, number, table
from genlab.evaluation.evaluate import Evaluator, select_metrics
from genlab.evaluation.reference import Reference, of_data, read_images, size_of, subset
from genlab.evaluation.target import EvalTarget, GivenImages, ModelOutputs, number_of_samples
from genlab.hardware.hardware import Hardware
from genlab.run.results import write_result
from genlab.sampling.pipeline import load
from genlab.sampling.trained_run import find_trained, say_state

__all__ = ["evaluate", "main"]

OF_RUNS_ALONE = ("run", "checkpoint", "weights", "labels", "batch")
OF_RUN = ("sampler", "guidance", "hardware")  # groups whose keys go to the run


def main(
    words: Sequence[str], answer: dict[str, Any] | None = None, *, as_json: bool = False
) -> int:
    """Evaluates a run, or the images of fake=, writes result.json and prints it; returns 0.

    answer: gets what was found. as_json: hand this wish on to ranks that do the work.
    """
    asked = _Asked(words)
    if asked.devices > 1 and dist.world() == 1:
        from genlab.core import subprocesses

        return subprocesses.run_ranks(["eval", *words, *["--json"] * as_json], asked.devices)
    _evaluate(asked, partial(_show, answer))
    return 0


def evaluate(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`genlab eval` in Python: value -> {value, better, metric, protocol}.

    value: None where it is not finite; better: low, high, or "" without order. The result is
    written as by the command; metrics that are left out are said on stderr. Raises a GenlabError.
    """
    asked = _Asked(words)
    if asked.devices > 1:
        raise ConfigError("hardware.devices= is of the command line: genlab eval ...")
    results = _evaluate(asked, _log_left_out)
    return {
        name: {"value": value, "better": record["better"].get(name, ""), "metric": metric,
               "protocol": record["protocol"]}
        for metric, record in results.items()
        for name, value in record["values"].items()
    }  # fmt: skip


class _Asked:
    """What was typed: keys of the evaluation, those of the run, how to run."""

    def __init__(self, words: Sequence[str]) -> None:
        """Raises ConfigError with every problem of the keys beside each other."""
        options, rest = split_options(words)
        self.given = any(w.startswith("fake=") and w != "fake=null" for w in rest)
        ours: list[str] = []
        self.others: list[str] = []
        for word in rest:
            group = word.lstrip("+~").partition("=")[0].partition(".")[0]
            of_run_alone = group in OF_RUN or word.startswith("data.root=")
            (self.others if of_run_alone and not self.given else ours).append(word)
        self.named = any(w.partition("=")[0] == "metric" for w in ours)
        if not self.named:  # all there are; those that cannot be had are left out, and said
            every = [n for n in registry.names("metric") if n != "none"]
            ours.insert(0, f"metric=[{','.join(every)}]")
        self.config = compose(ours, primary="eval")
        _check(self.config, [w for w in ours if self.given and _of_run_alone(w)])
        self.devices = _devices(self.others, self.config)
        links = "links" in options.get("allow", [])
        self.how = {"trust": options.get("trust", False), "links": links}


def _of_run_alone(word: str) -> bool:
    return word.partition("=")[0] in OF_RUNS_ALONE


Results = dict[str, dict[str, Any]]  # metric -> its record, see run/results.py
Show = Callable[[Evaluator, Mapping[str, Any], Path], None]


def _evaluate(asked: _Asked, show: Show) -> Results:
    """Measures and writes what was asked; empty on ranks that write nothing."""
    config = asked.config
    try:
        target = of_images(config) if asked.given else of_run(config, asked.others, asked.how)
        reference, features = _reference(config, target), config["features"]
        evaluator = select_metrics(
            config["metric"], features, target, reference, named=asked.named, trust=True
        )
        return _run(evaluator, config, asked.named, show)
    finally:
        dist.stop()


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


def of_run(
    asked: Mapping[str, Any], others: Sequence[str], how: Mapping[str, Any]
) -> ModelOutputs:
    """A run at one of its checkpoints.

    others: overrides of its sampler, guidance, hardware; how: `trust` and `links` as `load` takes
    them.
    """
    run = find_trained(str(asked["run"]), asked["outputs"])
    pipeline = load(run.path, overrides=others, checkpoint=asked["checkpoint"], **how)
    device, checkpoint = pipeline.hardware.device, pipeline.checkpoint
    assert checkpoint is not None
    dist.start(device)
    average = pipeline.post_hoc_ema(asked["weights"])
    if dist.rank() == 0:
        say_state(run, checkpoint.images)
        if average is not None:
            log(str(average))
    n = number_of_samples(asked["n"], device, training=False)
    how = {key: asked[key] for key in ("seed", "weights", "labels", "batch")}
    target = ModelOutputs(pipeline, n, **how, kind=asked["of"])
    if asked["real"] is None and target.enlarged:
        raise DataError(target.enlarged)
    return target


def of_images(asked: Mapping[str, Any]) -> GivenImages:
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
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(title).name)[:60] or "images"
    folder = Path(asked["outputs"]) / "eval" / name
    return GivenImages(title, folder, images, asked["seed"], hardware, data, dataset)


def _reference(asked: Mapping[str, Any], target: EvalTarget) -> Reference:
    """The images of real=, else of the data set; with n_real=auto on a CPU as many as samples."""
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
    if many == "auto" and target.device.type != "cpu":
        many = "all"
    elif many == "auto":
        given = target.images is not None
        many = target.n if given else number_of_samples(asked["n"], target.device, training=False)
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


def _run(evaluator: Evaluator, asked: Mapping[str, Any], strict: bool, show: Show) -> Results:
    target, left_out = evaluator.target, evaluator.left_out
    streams = target.folder / f".streams-{target.digest()[:12]}"  # others of other samples
    cache = Path(asked["outputs"]) / ".cache" / "features"
    results, seconds = evaluator(streams, cache, strict=strict)
    if dist.rank():
        return {}
    for name in [n for n, record in results.items() if "error" in record]:
        left_out[name] = results.pop(name)["error"]
    if not results:
        raise DataError("; ".join(left_out.values()))
    of_a_run = isinstance(target, ModelOutputs)
    stem = f"{target.description['checkpoint']:012d}-" if of_a_run else ""
    protocols = {n: [r["protocol"], r.get("aside")] for n, r in results.items()}
    folder = target.folder / (asked["name"] or f"{stem}{target.digest(protocols)[:6]}")
    spent = {name: round(s, 2) for name, s in seconds.items()}
    machine = {**target.environment, "seconds": spent}
    show(evaluator, results, write_result(folder, target.description, results, machine))
    return dict(results)


def _show(
    answer: dict[str, Any] | None, evaluator: Evaluator, results: Mapping[str, Any], path: Path
) -> None:
    """Prints the table, where it is kept, and the page of the run, which has it now.

    answer: gets the same, for a script.
    """
    _print(evaluator, results)
    print(clean(str(path)))
    target, found = evaluator.target, {"run": None, "path": str(path)}
    if isinstance(target, ModelOutputs):
        from genlab.report.report import write_report

        report = write_report(target.folder.parent)
        print(f"report: {clean(str(report))}")
        found |= {"run": target.pipeline.run.id, "report": str(report)}
    if answer is not None:
        answer |= found | read_json(path) | {"without": evaluator.left_out}


def _log_left_out(evaluator: Evaluator, results: Mapping[str, Any], path: Path) -> None:
    for reason, names in _reasons(evaluator):
        if reason:
            log(f"without {', '.join(names)}: {reason}")


def _print(evaluator: Evaluator, results: Mapping[str, Mapping[str, Any]]) -> None:
    """The table of an evaluation, with what every number is of."""
    target, reference, network = evaluator.target, evaluator.reference, evaluator.network
    print(target.title)
    parts = []
    protocols = [record["protocol"] for record in results.values()]
    if any("images" in p for p in protocols):
        parts.append(f"{count(target.n)} {target.kind}")
        if target.labels in ("data", "even"):
            parts.append(f"labels {'as in the data' if target.labels == 'data' else 'even'}")
    if any("held_out" in p for p in protocols):
        parts.append(f"held out: {target.held_out_set}")
    if any("reference" in p for p in protocols):
        of = f"{count(len(reference.images))} of {count(reference.total)}"
        parts.append(f"reference {reference.name}, {of}")
    if network is not None:
        parts.append(
            f"features {evaluator.network_name} {network.digest}, resizer {network.resizer}"
        )
    print("; ".join(parts))
    rows = []
    for record in results.values():
        (name, value), *more = record["values"].items()
        rest = ", ".join(f"{k} {number(v)}" for k, v in more)
        rows.append((name, number(value), f"{record['seconds']:.1f} s", rest))
    print(table(rows, indent="  "))
    for reason, names in _reasons(evaluator):
        which = ", ".join(names)
        print(f"  without {which}: {reason}" if reason else f"  not for these: {which}")


def _reasons(evaluator: Evaluator) -> list[tuple[str, list[str]]]:
    """Why metrics were left out, and which; "" where another model or features would be needed."""
    reasons: dict[str, list[str]] = {}
    for name, reason in evaluator.left_out.items():
        reasons.setdefault("" if reason.startswith("it ") else reason, []).append(name)
    return [(reason, sorted(names)) for reason, names in sorted(reasons.items(), reverse=True)]
