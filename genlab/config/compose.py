"""From what was typed to a checked config: Hydra composes, the registry checks. No torch here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genlab.config import catalog, overrides, trial
from genlab.config.auto_values import resolve_auto
from genlab.config.keys import EXPECTED_RESULT, KEYS, OPTIONS
from genlab.config.named_runs import replace_runs, run_name
from genlab.config.own_yaml import check_folder
from genlab.core import registry, schema
from genlab.core.errors import ConfigError, Refused
from genlab.core.registry import GROUPS, suggest

__all__ = [
    "NEW_KEYS",
    "added_to",
    "compose",
    "config_of",
    "digest",
    "first_line",
    "flatten",
    "parse",
    "provenance",
    "refuse_resolvers",
    "refuse_targets",
    "refuse_typed",
    "split_options",
    "title",
    "validate",
]

NOT_HASHED = {
    "outputs",
    "every",
    "keep",
    "track",
    "metric",
    "features",
    "eval",
    "extra",
    "promise",
}
"""Top-level keys that change nothing of what is computed: how a run is kept, shown and evaluated,
the notes of a person (`extra`, unchecked) and the expected result of an experiment."""

NEW_KEYS: dict[str, Any] = {
    "track": {"name": None},
    "metric": {},
    "features": {"name": None},
    "eval": {"n": "auto", "labels": "even", "held_out": 1024},
    **{f"hardware.{name}.on_spike": "warn" for name in ("auto", "cpu", "cuda")},
    **{
        f"data.{name}.shift": 0.0
        for name in ("celeba", "cifar10", "digits", "fashion_mnist", "folder", "mnist")
    },
    "network.unet.resample_proj": False,
    "network.unet.norm_eps": 1e-5,
    "network.unet_mp.clip": None,
    "network.dit.frequencies": None,
    "network.dit.gelu": "exact",
    "network.glow.edge_bias": False,
    "network.glow.logscale_factor": 1.0,
}
"""Keys that were added after runs had been saved, at the value that means what these runs did.

Of a component it is `group.component.key`: `"model.gan.r1": 0`. A config that has this value has
the digest of one without the key, so that old runs are found when their command is typed again;
a saved config without the key gets it, also one of several under a top-level key. Whatever adds a
key to a hashed group adds it here.
"""

HYDRA = ("hydra/launcher", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper.")
"""What may be set of the hydra node."""


def split_options(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Splits fresh=, allow=, trust= from the overrides: (options, overrides)."""
    found: dict[str, Any] = {}
    rest = []
    for word in words:
        key, _, text = word.partition("=")
        if key not in OPTIONS:
            rest.append(word)
            continue
        try:
            found[key] = schema.coerce(parse(word).value(), OPTIONS[key])
        except ValueError as e:
            raise ConfigError(f"{key} must be {e}, not {text!r}") from None
    return found, rest


def parse(word: str) -> Override:
    """What was typed as Hydra reads it; ConfigError for what it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as e:
        raise ConfigError(_unreadable(word, first_line(e))) from e


def compose(
    words: Sequence[str], config_dirs: Sequence[str] = (), primary: str = "train"
) -> dict[str, Any]:
    """The resolved config of these words, without the hydra node.

    Raises ConfigError with every problem found, Refused for a `_target_`.
    """
    typed = [w for word in words for w in _replaced(_open_players(word))]
    refuse_typed(typed)
    search = [f"hydra.searchpath=[{','.join(_folder(d) for d in config_dirs)}]"]
    for folder in config_dirs:
        check_folder(Path(folder))
    asked = [*typed, *(search if config_dirs else [])]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(registry.configs_dir()), version_base="1.3"):
        try:
            node = hydra_compose(primary, asked)
            refuse_resolvers(OmegaConf.to_container(node, resolve=False))
            config = OmegaConf.to_container(node, resolve=True)
        except HydraException as e:
            raise ConfigError(_explain(e, primary, asked, config_dirs)) from e
        except RecursionError as e:
            raise ConfigError(
                "the config does not resolve: a yaml inherits itself, or a key refers to itself"
            ) from e
        except OmegaConfBaseException as e:
            raise ConfigError(f"the config does not resolve: {first_line(e)}") from e
    assert isinstance(config, dict)
    config.pop("hydra", None)
    refuse_targets(config)
    if primary == "train":
        trial.scale(config, trial.in_small(words, config_dirs))
    if problems := validate(config, primary) or _idle(config, primary):
        raise ConfigError(*problems)
    if primary == "train":
        resolve_auto(config)
    return config


def provenance(words: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, str]:
    """Dotted key -> the file or "command line" that set it last, for words that compose.

    The key of a group itself ("network") says who chose its component.
    """
    folders = tuple(map(Path, config_dirs))
    picks = overrides.picks(words, *folders)
    who = {key.name: key.file for key in catalog.keys("train", picks, *folders).values()}
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key not in GROUPS and not key.startswith("hydra"):
            under = [k for k in who if k.startswith(key + ".")]
            who |= dict.fromkeys([key, *under], "command line")
    small = trial.in_small(words, config_dirs)
    inside = [
        key.rpartition(".")[0] for key in small if key.count(".") > 1
    ]  # model.ema of a decay
    who |= dict.fromkeys([*small, *inside], "schedule.images")
    chosen = catalog.chosen("train", picks, *folders)
    return who | {group: choice.who for group, choice in chosen.items() if group in GROUPS}


def title(words: Sequence[str], config_dirs: Sequence[str] = ()) -> str:
    """<model>-<data> by the names of the YAML that words choose, not of the classes behind it."""
    folders = tuple(map(Path, config_dirs))
    chosen = catalog.chosen("train", overrides.picks(words, *folders), *folders)
    return "-".join(chosen[group].name for group in ("model", "data"))


def config_of(group: str, name: str) -> DictConfig:
    """What the config `name` of a group says of that group, with the keys it inherits.

    Interpolations stay what they are. Raises ConfigError where there is no such config.
    """
    if name not in registry.names(group):
        raise ConfigError(registry.unknown(group, name, registry.names(group)))
    parts = []
    for file in catalog.files(group, name):
        node: Any = OmegaConf.load(file.path)
        node.pop("defaults", None)
        for part in reversed(file.package.split(".") if file.package else []):
            node = {part: node}
        parts.append(node)
    found: DictConfig = OmegaConf.merge(*parts)[group]
    return found


def validate(config: Mapping[str, Any], primary: str = "train") -> list[str]:
    """Every problem of a resolved config as a sentence. primary: the yaml it was composed from."""
    problems = [p for group in GROUPS for p in _check_group(config, group, primary)]
    problems += schema.mistyped(config, KEYS[primary])
    if primary != "train":
        return problems
    if (expected := config.get("promise")) is not None:
        keys = ", ".join(EXPECTED_RESULT)
        problems += (
            registry.mismatches(expected, "promise", "a promise", EXPECTED_RESULT)
            if isinstance(expected, Mapping)
            else [f"promise must be null or a mapping of {keys}, not {expected!r}"]
        )
    known = {*GROUPS, "extra", "promise", *(k.partition(".")[0] for k in KEYS["train"])}
    return problems + [
        f"no key {key!r}. {suggest(key, known)} (your own notes go under extra.)"
        for key in config
        if key not in known
    ]


def _check_group(config: Mapping[str, Any], group: str, primary: str) -> list[str]:
    """What is wrong with what was chosen of a group; a training needs one of each."""
    node = config.get(group)
    if not isinstance(node, Mapping):
        missing = f"{group} is missing; add {group}=<one of `genlab list {group}`>"
        return [missing] if primary == "train" else []
    if group == "network":
        return _check_roles(config, node)
    if group != "metric":
        return [] if node.get("name") is None else registry.check(group, node)
    problems = []
    for name, metric in node.items():
        if not re.fullmatch(r"\w{1,60}", str(name)):  # it names a folder
            problems.append(f"metric.{name}: a metric's name is letters, digits and _")
        problems += registry.check("metric", metric, f"metric.{name}")
    return problems


def _check_roles(config: Mapping[str, Any], networks: Mapping[str, Any]) -> list[str]:
    problems = []
    for role, node in networks.items():
        problems += registry.check("network", node, f"network.{role}")
    model = config.get("model") or {}
    try:
        wanted = registry.signature("model", model.get("name") or "")
    except ConfigError:
        return problems  # reported with the model itself
    given = {"spec", "process", "codec", *registry.COMMON["model"]}
    roles = [g for g in wanted.given if g not in given]
    if set(roles) != set(networks):
        problems.append(
            f"model {model['name']!r} needs {_list(f'network.{r}' for r in roles)}, but the "
            f"chosen network has {_list(f'network.{r}' for r in networks)}; choose another one"
        )
    if "process" in wanted.required and (config.get("process") or {}).get("name") is None:
        problems.append(f"model {model['name']!r} needs a process; add process=linear")
    return problems


def _idle(config: Mapping[str, Any], primary: str) -> list[str]:
    """What was chosen and would do nothing, in a config that is right."""
    if primary != "train" or (path := config["process"]["name"]) is None:
        return []
    model = config["model"]["name"]
    if "process" in registry.signature("model", model).given:
        return []
    return [
        f"process={path}: model {model!r} follows no path, so that it would change nothing; leave "
        "it out, or use a model of a path, like flow_matching"
    ]


def digest(config: Mapping[str, Any], *, places: bool = False) -> str:
    """Six hex digits of what a run computes; places, cadences and trackers do not count.

    The first is a letter: 286e98 or 123456 typed as run= would be read as a number. Of a run that
    the config names its name counts, not where it is; places: True counts that too, as the names
    of runs made by earlier versions do.
    """
    if not places:
        config = replace_runs(config, lambda key, run: run_name(run))
    kept = deepcopy({k: v for k, v in config.items() if k not in NOT_HASHED})
    kept["data"].pop("root", None)
    _drop_new(kept, NEW_KEYS)
    for _, group, node in registry.nodes(kept):
        _drop_new(node, added_to(group, node.get("name")))
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    value = hashlib.sha256(text.encode()).hexdigest()
    return "abcdef"[int(value[6], 16) % 6] + value[:5]


def _drop_new(node: dict[str, Any], added: Mapping[str, Any]) -> None:
    for key, value in added.items():
        if key in node and node[key] == value:
            del node[key]


def added_to(group: str, name: str | None) -> dict[str, Any]:
    """The keys of a component in `NEW_KEYS`."""
    prefix = f"{group}.{name}."
    return {k.removeprefix(prefix): v for k, v in NEW_KEYS.items() if k.startswith(prefix)}


# --- refusals ------------------------------------------------------------------------------------


def _open_players(word: str) -> str:
    """optimizer.players is an open mapping; Hydra's struct mode needs to be told."""
    return f"++{word}" if word.startswith("optimizer.players") else word


def _replaced(word: str) -> list[str]:
    """A mapping typed for model.ema takes the place of another; Hydra would merge the two."""
    return ["model.ema=null", word] if word.startswith("model.ema={") else [word]


def refuse_typed(words: Iterable[str]) -> None:
    """Refused for a `_target_`, ConfigError for what words may not set."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if ("_target_" in key or re.search(r"_target_['\"]?\s*:", value)) and not key.startswith(
            "hydra"
        ):
            raise Refused(f"{key}: genlab builds by name, never by _target_; use name=")
        if key.startswith("hydra") and not key.startswith(HYDRA):
            raise ConfigError(
                f"{key}: of hydra: only the launcher and the sweeper of a sweep can be chosen "
                "(hydra/launcher=joblib, hydra.launcher.n_jobs=2); runs go under outputs="
            )
        if word.startswith("+") and not key.startswith(
            ("extra.", "extra=", "hydra", "optimizer.players", "experiment")
        ):
            raise ConfigError(
                f"{word}: a new key would be ignored; drop the + to set an existing key, "
                "or put your own notes under +extra."
            )


def refuse_resolvers(node: Any, where: str = "") -> None:
    """ConfigError for what a value would compute, like the environment it would then publish.

    A value may be that of another key, `${network.encoder.width}`; the environment says only where
    data and runs are.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            if where or key != "hydra":
                refuse_resolvers(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            refuse_resolvers(value, f"{where}.{i}")
    elif isinstance(node, str):
        left = _OF_A_KEY.sub("", node)
        if where in ("data.root", "outputs"):
            left = _OF_THE_ENVIRONMENT.sub("", left)
        if "${" in left:
            found = re.search(r"\$\{\s*([\w.]+)\s*:", left)
            name = found[1] if found else ""
            raise ConfigError(
                f"{where}={node}: ${{{name}:...}} is for data.root and outputs alone, since a "
                "config is kept with its run and shown in reports; write the value"
                if name == "oc.env"
                else f"{where}={node}: no resolver {name!r}; write the value"
            )


_OF_A_KEY = re.compile(r"\$\{[\w.\[\]\s-]*\}")
_OF_THE_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:[^${}]*\}")


def refuse_targets(node: Any, where: str = "") -> None:
    """Refused for a `_target_` anywhere in a nested config."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if str(key).startswith("_target_"):
                raise Refused(
                    f"{where}{key}={value}: genlab builds by name, never by _target_; "
                    "remove it and use name:"
                )
            refuse_targets(value, f"{where}{key}.")
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            refuse_targets(value, f"{where}{i}.")


def _folder(path: str) -> str:
    if not Path(path).is_dir():
        raise ConfigError(f"--config-dir {path}: no such folder")
    return f"file://{Path(path).resolve()}"


# --- errors --------------------------------------------------------------------------------------


def first_line(e: BaseException) -> str:
    """The first line of an error, or its class when it says nothing."""
    text = str(e).strip()
    return text.splitlines()[0] if text else type(e).__name__


def _list(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"


def _explain(
    e: HydraException, primary: str, words: Sequence[str], config_dirs: Sequence[str]
) -> str:
    """Hydra's error with the nearest names; its own words where nothing better is known."""
    text = str(e)
    if missing := re.search(r"Could not override '([^']+)'", text):
        key = missing[1]
        folders = tuple(map(Path, config_dirs))
        keys = list(catalog.keys(primary, overrides.picks(words, *folders), *folders))
        leaf = key.rpartition(".")
        beside = [k for k in keys if k.startswith(leaf[0] + ".")] if leaf[0] else keys
        hint = registry.owners(leaf[0], leaf[2]) if leaf[0] in GROUPS else ""
        hint = hint or suggest(key, keys)
        if beside and not hint:
            hint = f"{leaf[0]} has: {_list(k[len(leaf[0]) + 1 :] for k in beside)}."
        return f"no key {key!r}. {hint} (`genlab show` lists every key)"
    if missing := re.search(
        r"(?:Could not find|In '[^']*': Could not find) '([^']+)/([^'/]+)'", text
    ):
        group, name = missing[1], missing[2]
        while "/" in group and group not in GROUPS:
            group, _, rest = group.partition("/")
            name = f"{rest}/{name}"
        return registry.unknown(group, name, registry.names(group, *map(Path, config_dirs)))
    if missing := re.search(r"In '([^']+)': Could not load '([^']+)/([^'/]+)'", text):
        there = registry.names(missing[2], *map(Path, config_dirs))
        near = suggest(missing[3], there) or f"There are: {_list(there)}."
        return f"{missing[1]}.yaml inherits {missing[2]}/{missing[3]}, and there is none. {near}"
    line = first_line(e)
    if type(e).__name__ == "OverrideParseException":
        word = getattr(e, "override", None) or "an override"
        return _unreadable(word, line)
    return line


def _unreadable(word: str, line: str) -> str:
    return f"cannot read {word!r}: {line} (key=value; quote values with special characters)"


def flatten(node: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a nested mapping, inner ones after their outer."""
    if not isinstance(node, Mapping):
        return []
    out = []
    for k, v in node.items():
        out.append(f"{prefix}{k}")
        out += flatten(v, f"{prefix}{k}.")
    return out
