"""What `--help` prints; groups, components and defaults are read from the config folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genlab.config import catalog
from genlab.core import registry
from genlab.core.format import table

if TYPE_CHECKING:
    from genlab.cli.verb import Verb

__all__ = ["program_help", "verb_help"]

SCRIPTED = (
    "seed outputs init data.root data.size schedule.images schedule.batch optimizer.lr "
    "model.classes hardware.device hardware.precision hardware.compile hardware.threads "
    "hardware.micro_batch every.log every.sample every.checkpoint every.eval every.seconds"
).split()
"""Keys of a training that people put into scripts; their names are kept."""

USAGE = {
    "compare": (
        "genlab compare [RUN ...], where RUN is a run directory, a folder of runs or of\n"
        "  a sweep, an id, latest, or a part of names (with * ? []); without any: all runs"
    ),
    "list": "genlab list [WHAT] [key=value ...], where WHAT is one of\n  {things}",
}
EPILOGS = {
    "train": "`genlab show` lists every key of a config and who chose it.",
    "eval": "metric=fid,kid measures both; left out, all that the run can serve.",
}

EXAMPLES = {
    "": ["genlab train", "genlab sample", "genlab train model=gan data=mnist optimizer.lr=1e-4"],
    "train": [
        "genlab train experiment=mnist/gan",
        "genlab train model=flow_matching data=fashion_mnist schedule.images=2e6 seed=1",
        "genlab train -m model=flow_matching,gan seed=0,1",
        "genlab train init=latest optimizer.lr=5e-5",
    ],
    "sample": [
        "genlab sample",
        "genlab sample run=a1b2c3 n=64 sampler=heun sampler.steps=30 seed=7",
        "genlab sample run=d4e5f6 from=photos/",
        "genlab sample run=a1b2c3 task=inpaint from=photos/ mask=mask.png",
    ],
    "eval": [
        "genlab eval",
        "genlab eval run=a1b2c3 metric=fid,kid features=inception n=10000",
        "genlab eval run=a1b2c3 sampler.steps=10 checkpoint=best",
        "genlab eval fake=my_samples/ data=cifar10 metric=fid,prdc",
    ],
    "resume": ["genlab resume", "genlab resume run=a1b2c3 schedule.images=4e6"],
    "report": ["genlab report", "genlab report run=a1b2c3"],
    "compare": [
        "genlab compare",
        "genlab compare a1b2c3 d4e5f6 metric=fid sort=fid",
        "genlab compare outputs/sweeps/20250102-030405",
        "genlab compare 'gan-*' page=null",
    ],
    "list": ["genlab list", "genlab list models", "genlab list runs model=gan state=done"],
    "show": ["genlab show model=gan data=mnist"],
    "doctor": ["genlab doctor", "genlab doctor data.root=/data"],
    "completion": [
        'eval "$(genlab completion bash)"      # in ~/.bashrc',
        'eval "$(genlab completion zsh)"       # in ~/.zshrc, after compinit',
    ],
}


def program_help(verbs: Mapping[str, Verb], flags: Mapping[str, str]) -> str:
    """`genlab --help`."""
    return "\n\n".join(
        [
            "genlab: generative image models on one command line",
            "genlab VERB [key=value ...] [flags]",
            table([(name, verb.does) for name, verb in verbs.items()], indent="  "),
            _section("flags", list(flags.items())),
            _examples(""),
            "`genlab VERB --help` says more; `genlab list` shows what there is to choose.",
        ]
    )


def verb_help(name: str, verb: Verb, flags: Mapping[str, str]) -> str:
    """`genlab VERB --help`."""
    parts = [f"genlab {name}: {verb.does}"]
    if name in USAGE:
        parts.append(
            USAGE[name].format(things=", ".join([*catalog.ordered(catalog.groups()), "runs"]))
        )
    groups = catalog.ordered(catalog.groups()) if verb.groups is None else verb.groups
    if groups:
        rows = [(f"{group}=", ", ".join(registry.names(group)) or "-") for group in groups]
        parts.append(_section("choose", rows))
    if keys := [(f"{k.name}=", k.default, k.comment) for k in (*_of_yaml(verb), *verb.keys)]:
        note = f"\n  {EPILOGS[name]}" if name in EPILOGS else ""
        parts.append(_section("keys", keys) + note)
    parts.append(_section("flags", [(flag, flags[flag]) for flag in (*verb.flags, "-v")]))
    return "\n\n".join([*parts, _examples(name)])


def _of_yaml(verb: Verb) -> Sequence[catalog.Key]:
    """The keys of a verb's yaml that its help shows."""
    composed = catalog.keys("train", {})
    match verb.primary:
        case "train" if "-m" in verb.flags:
            return [composed[k] for k in SCRIPTED if k in composed]
        case "sample" | "eval":
            own = catalog.scan(registry.configs_dir() / f"{verb.primary}.yaml")
            steps = [composed["sampler.steps"]] if verb.primary == "sample" else []
            return [*(k for k in own if k.name.partition(".")[0] != "hydra"), *steps]
    return []


def _section(title: str, rows: Sequence[Sequence[str]]) -> str:
    return f"{title}\n" + table(rows, indent="  ")


def _examples(name: str) -> str:
    return "\n".join(["examples", *(f"  {line}" for line in EXAMPLES[name])])
