"""What `--help` prints; groups, members and defaults are read from the config folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genlab.cli.list import ordered
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

RUN = ("run", "latest", "path, id (`genlab list runs`) or latest")
OUTPUTS = ("outputs", "outputs", "root of the run directories")
FRESH = ("fresh", "false", "true: a new run, although one of this very config exists")
TRUST = ("trust", "false", "true: let a foreign run name code from outside genlab")
ALLOW = ("allow", "[]", "[config,world]: go on although these changed")
COMPARE = [
    ("metric", "losses, evaluations", "values or metrics to show: fid, 'kid,heldout/*', '*'"),
    ("sort", "as they began", "a value, a key or images; best first, -KEY the other way"),
    ("page", "<outputs>/compare.html", "the .html file to write; null for none"),
]

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
    "list": ["genlab list", "genlab list models", "genlab list runs --json"],
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
            table([(name, v.does) for name, v in verbs.items()], indent="  "),
            "flags\n" + table(list(flags.items()), indent="  "),
            _examples(""),
            "`genlab VERB --help` says more; `genlab list` shows what there is to choose.",
        ]
    )


def verb_help(name: str, verbs: Mapping[str, Verb], flags: Mapping[str, str]) -> str:
    """`genlab VERB --help`."""
    v = verbs[name]
    takes = {f: flags[f] for f in (*v.flags, "-v")}
    parts = [f"genlab {name}: {v.does}", *_body(name)]
    parts += ["flags\n" + table(list(takes.items()), indent="  "), _examples(name)]
    return "\n\n".join(parts)


def _body(name: str) -> list[str]:
    match name:
        case "train":
            found = catalog.keys("train", {})
            keys = [found[k] for k in SCRIPTED if k in found]
            return [
                _groups(ordered(catalog.groups())),
                _keys([*keys, FRESH, TRUST])
                + "\n  `genlab show` lists every key of a config and who chose it.",
            ]
        case "show":
            return [_groups(ordered(catalog.groups()))]
        case "sample":
            own = catalog.scan(registry.configs_dir() / "sample.yaml")
            own += [k for k in catalog.keys("train", {}).values() if k.name == "sampler.steps"]
            own = [k for k in own if k.name.partition(".")[0] != "hydra"]
            return [_groups(["sampler", "guidance", "hardware"]), _keys([*own, TRUST])]
        case "eval":
            own = catalog.scan(registry.configs_dir() / "eval.yaml")
            own = [k for k in own if k.name.partition(".")[0] != "hydra"]
            groups = ["metric", "features", "data", "sampler", "guidance", "hardware"]
            return [
                _groups(groups),
                _keys([*own, TRUST])
                + "\n  metric=fid,kid measures both; left out, all that the run can serve.",
            ]
        case "resume":
            more = ("schedule.images", "as it was", "a larger number goes on with a finished run")
            return [_keys([RUN, more, ALLOW, TRUST, OUTPUTS])]
        case "report":
            return [_keys([RUN, OUTPUTS])]
        case "compare":
            words = (
                "genlab compare [RUN ...], where RUN is a run directory, a folder of runs or of\n"
            )
            words += (
                "  a sweep, an id, latest, or a part of names (with * ? []); without any: all runs"
            )
            return [words, _keys([*COMPARE, OUTPUTS])]
        case "list":
            names = ", ".join([*ordered(catalog.groups()), "runs"])
            return [f"genlab list [WHAT], where WHAT is one of\n  {names}", _keys([OUTPUTS])]
        case "doctor":
            return [_keys([("data.root", "$GENLAB_DATA or data", "where data sets lie"), OUTPUTS])]
    return []


def _groups(groups: list[str]) -> str:
    rows = [(f"{g}=", ", ".join(registry.names(g)) or "-") for g in groups]
    return "choose\n" + table(rows, indent="  ")


def _keys(rows: Sequence[tuple[str, str, str]]) -> str:
    return "keys\n" + table([(f"{k}=", default, doc) for k, default, doc in rows], indent="  ")


def _examples(name: str) -> str:
    return "\n".join(["examples", *(f"  {line}" for line in EXAMPLES[name])])
