"""What the ranks of a run must have in common: words and versions before anything is made, data
once they are loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from genlab import __version__
from genlab.core import dist
from genlab.core.errors import ConfigError, DataError, DeviceError, GenlabError

__all__ = ["check_ranks", "data_facts", "facts"]

OWN = ("outputs", "data.root", "data.path", "track", "extra", "promise", "hardware.threads")
"""Keys of a config that each machine may have otherwise."""

MOST = 5  # differences that an error names

KINDS: dict[str, tuple[type[GenlabError], str]] = {
    "genlab": (DeviceError, "versions"),
    "torch": (DeviceError, "versions"),
    "data": (DataError, "data"),
}
"""First word of a fact -> the error for another one, and what was to be the same; all others are
keys of a config, hence ConfigError and words. The error is that of the first fact that differs."""


def facts(config: Mapping[str, Any]) -> dict[str, str]:
    """What is exchanged, by the name that an error gives a difference; equal on all ranks."""
    keys = dict(_leaves(config))
    return {
        "genlab": __version__,
        "torch": torch.__version__,
        **{k: v for k, v in keys.items() if not any(k == o or k.startswith(f"{o}.") for o in OWN)},
    }


def data_facts(identity: Mapping[str, Any]) -> dict[str, str]:
    """The same of data, whose `Dataset.identity` this is."""
    return {f"data {k}": json.dumps(v) for k, v in identity.items()}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as JSON) of a nested mapping."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, default=str)


def check_ranks(mine: Mapping[str, str], device: torch.device) -> None:
    """Raises the same error on all ranks where their facts differ.

    mine: the facts of this rank. Does nothing for a process that is alone. The error is that of
    `KINDS`.
    """
    all_facts = [json.loads(text) for text in dist.gather_texts(json.dumps(mine), device)]
    if problem := difference(all_facts):
        raise problem


def difference(ranks: Sequence[Mapping[str, str]]) -> GenlabError | None:
    """The error for facts that are not those of rank 0; None where all are."""
    found: list[str] = []
    kinds: dict[str, type[GenlabError]] = {}
    for name in dict.fromkeys(name for rank in ranks for name in rank):
        values = [rank.get(name, "not there") for rank in ranks]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            found.append(f"{name} is {values[0]} on rank 0, {values[other]} on rank {other}")
            error, what = KINDS.get(name.partition(" ")[0], (ConfigError, "words"))
            kinds.setdefault(what, error)
    if not found:
        return None
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return next(iter(kinds.values()))(
        f"ranks differ: {', '.join(found[:MOST])}{more}; start all with the same "
        f"{' and '.join(kinds)}"
    )
