"""Keys that belong to no config group, with what they take: those of the yamls of verbs, and more.

Tab and the check of values read them without Hydra and without torch; an annotation is that of a
constructor, see core/schema.
"""

from __future__ import annotations

from genlab.core.schema import WEIGHTS

__all__ = ["EXPECTED_RESULT", "KEYS", "OPTIONS"]

RUN = "str | int | float"  # an id of digits alone is read as a number
CHECKPOINT = "Literal['latest', 'best'] | Natural"

KEYS = {
    "train": {
        "seed": "Natural",
        "outputs": "str",
        "init": "Init | None",
        "every.log": "Count | Literal['auto']",
        "every.sample": "Count | Literal['auto']",
        "every.checkpoint": "Count | Literal['auto']",
        "every.eval": "Count | Literal['auto']",
        "every.seconds": "Positive",
        "eval.n": "Count | Literal['auto']",
        "eval.labels": "Literal['data', 'even']",
        "eval.held_out": "Count | Literal['auto']",
        "keep.last": "Count",
        "keep.best": "str | None",
    },
    "sample": {
        "run": RUN,
        "outputs": "str",
        "checkpoint": CHECKPOINT,
        "n": "Count | None",
        "batch": "Count",
        "seed": "Natural",
        "labels": "int | list[int] | None",
        "weights": WEIGHTS,
        "save": "Literal['png', 'npy', 'none']",
        "interpolate": "bool",
        "animate": "bool",
        "from": "str | None",
        "task": "Literal['inpaint', 'colourise', 'edit'] | None",
        "mask": "str | None",
        "strength": "Part | None",
        "variants": "Count",
        "name": "str | None",
    },
    "eval": {
        "run": RUN,
        "outputs": "str",
        "checkpoint": CHECKPOINT,
        "fake": "str | None",
        "real": "str | None",
        "size": "Count | None",
        "of": "Literal['auto', 'samples', 'reconstructions']",
        "split": "Literal['auto', 'train', 'test']",
        "n": "Count | Literal['auto']",
        "n_real": "Count | Literal['auto', 'all']",
        "batch": "Count",
        "seed": "Natural",
        "weights": WEIGHTS,
        "labels": "Literal['data', 'even']",
        "name": "str | None",
    },
}
"""Name of a yaml -> its keys that belong to no group, but `promise`."""

ALLOWED = ("config", "data", "world", "moments", "links")
"""What `allow=[...]` may name: that a run goes on although it changed, is lost or leads away."""

OPTIONS = {
    "fresh": "bool",
    "trust": "bool | list[str]",
    "allow": f"list[Literal[{', '.join(map(repr, ALLOWED))}]]",
}
"""What a command takes beside config keys: how to run, not what."""

EXPECTED_RESULT = {
    "metric": "str",
    "value": "float",
    "tolerance": "NonNegative",
    "images": "Count",
    "protocol": "str",
    "source": "str",
}
"""Keys of `promise`: a value of the journal, when, how it is measured, its source."""
