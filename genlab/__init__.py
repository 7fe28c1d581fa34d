"""genlab: generative image models on one command line."""

import importlib

__version__ = "0.1.0"


def __getattr__(name: str):  # noqa: ANN202 - lazy, so that `genlab --help` never imports torch
    if name == "load":
        return importlib.import_module("genlab.sampling.pipeline").load
    raise AttributeError(f"module 'genlab' has no attribute {name!r}")
