"""What a config asks of its components that they cannot do together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from genlab.assemble.bound_sampler import PathSampler
from genlab.core import registry
from genlab.core.contract import Dataset, Denoises, Guidance, Model, Spec, Spreads
from genlab.core.errors import ConfigError

__all__ = ["classes_of", "misfits", "unguided"]


def classes_of(asked: int | str, data: Dataset, problems: list[str]) -> int | None:
    """Labels a model uses, of those the data have; adds a sentence where it cannot."""
    have = data.spec.classes
    if asked == "none":
        return None
    if asked == "auto":
        return have
    if have is None:
        problems.append(f"model.classes={asked}, but the data have no labels; use none or auto")
    elif int(asked) < have:
        problems.append(f"model.classes={asked}, but the data have {have} classes; use auto")
    return int(asked)


def misfits(config: Mapping[str, Any], model: Model, solver: PathSampler, spec: Spec) -> list[str]:
    """What the sampler and guidance cannot do with this model."""
    name, denoises = config["sampler"]["name"], isinstance(model, Denoises)
    which, problems = config["model"]["name"], []
    if denoises and name == "one_step":
        problems.append(
            f"sampler=one_step cannot follow the path of model {which!r}; use sampler=heun or "
            f"another of {', '.join(n for n in registry.names('sampler') if n != name)}"
        )
    if denoises and name != "one_step":
        try:
            solver.check(spec)
        except ConfigError as e:
            problems += e.problems
    if denoises and solver.spread:
        problems += _unspread(config, model, solver)
    if not denoises and name != "one_step":
        problems.append(
            f"sampler={name} needs a model that denoises; {which!r} draws its "
            "samples in one step: use sampler=one_step"
        )
    if not denoises and config["guidance"].get("name") is not None:
        problems.append(
            f"guidance={config['guidance']['name']} needs a model that denoises; with "
            f"{which!r} use guidance=none"
        )
    return problems


def _unspread(config: Mapping[str, Any], model: Model, solver: PathSampler) -> list[str]:
    """What keeps a learned variance from a sampler that asks for it."""
    which, guidance = config["model"]["name"], solver.guidance
    if not isinstance(model, Spreads) or not model.spreads:
        fixed = " with model.variance=fixed" if isinstance(model, Spreads) else ""
        return [
            f"sampler.variance=learned is of model=ddpm with model.variance=learned, and {which!r}"
            f"{fixed} learns none; use sampler.variance=small"
        ]
    problems = []
    if solver.through is not None:
        problems.append(
            "sampler.variance=learned is of steps on the path of training; use "
            "sampler.through=null, or sampler.variance=small"
        )
    resized = hasattr(guidance, "canvas")
    if guidance is not None and (resized or getattr(guidance, "scale", None) != 1):
        problems.append(
            "sampler.variance=learned is of the estimate that the network gives, and guidance="
            f"{config['guidance']['name']} makes another; use "
            f"{'guidance=none' if resized else 'guidance.scale=1'}, or sampler.variance=small"
        )
    return problems


def unguided(
    guidance: Guidance | None, model: Model, spec: Spec, networks: Mapping[str, nn.Module]
) -> list[str]:
    """What guidance asks that a model never learned, as sentences."""
    problems = []
    if getattr(guidance, "unlabelled", False):
        if spec.classes is None:
            problems.append(
                "guidance.scale other than 1 is the distance from estimates without a label, and "
                "this model has no labels; use guidance.scale=1, or guidance=autoguidance"
            )
        elif getattr(model, "label_dropout", None) == 0:
            problems.append(
                "guidance.scale other than 1 needs estimates without a label, which nothing "
                "teaches with model.label_dropout=0; use guidance.scale=1, or train with 0.1"
            )
    fixed = [n for n in networks.values() if not getattr(n, "any_size", False)]
    if hasattr(guidance, "canvas") and fixed:
        problems.append(
            f"guidance draws at another size than that of training, and {type(fixed[0]).__name__} "
            "takes no other; use network=unet, which is made of convolutions"
        )
    return problems
