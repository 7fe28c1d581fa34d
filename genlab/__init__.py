"""genlab: generative image models on one command line, and in Python."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["GenlabError", "Pipeline", "compare", "evaluate", "load", "train"]

if TYPE_CHECKING:
    from genlab.cli.python import compare, evaluate, train
    from genlab.core.errors import GenlabError
    from genlab.sampling.pipeline import Pipeline, load

_WHERE = {
    "GenlabError": "genlab.core.errors",
    "Pipeline": "genlab.sampling.pipeline",
    "compare": "genlab.cli.python",
    "evaluate": "genlab.cli.python",
    "load": "genlab.sampling.pipeline",
    "train": "genlab.cli.python",
}
"""Public name -> the module it is looked up in, so that `genlab --help` never imports torch."""


def __getattr__(name: str):  # noqa: ANN202 - of the kind of what is asked for
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'genlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
