"""What a config asks of its components that they cannot do together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genlab.assemble.bound_sampler import PathSampler
from genlab.core import registry
from genlab.core.contract import Dataset, Denoises, Guidance, Model, Network, Spec
from genlab.core.errors import ConfigError

__all__ = ["check_classes", "check_compatibility"]


def check_classes(asked: int | str, data: Dataset) -> tuple[int | None, list[str]]:
    """(labels a model uses, of those the data have; what is wrong with them)."""
    have = data.spec.classes
    if asked == "none":
        return None, []
    if asked == "auto":
        return have, []
    problems = []
    if have is None:
        problems.append(f"model.classes={asked}, but the data have no labels; use none or auto")
    elif int(asked) < have:
        problems.append(f"model.classes={asked}, but the data have {have} classes; use auto")
    return have if problems else int(asked), problems  # what goes on finds other problems


def check_compatibility(
    config: Mapping[str, Any],
    model: Model,
    networks: Mapping[str, Network],
    bound: PathSampler,
    spec: Spec,
) -> list[str]:
    """All that sampler and guidance cannot do with this model, as sentences."""
    names = {group: config[group].get("name") for group in ("model", "sampler", "guidance")}
    which, sampler, guidance = names.values()
    denoises, follows, problems = isinstance(model, Denoises), bound.follows_path, []
    if denoises and follows:
        try:
            bound.check(spec)
        except ConfigError as e:
            problems += e.problems
        own_path = bound.through is None
        problems += bound.sampler.check_model(model, bound.guidance, own_path, names)
    elif follows:
        problems.append(
            f"sampler={sampler} needs a model that denoises; {which!r} draws its "
            "samples in one step: use sampler=one_step"
        )
    elif not model.one_step:
        problems.append(
            f"sampler={sampler} cannot follow the path of model {which!r}; use sampler=heun or "
            f"another of {', '.join(n for n in registry.names('sampler') if n != sampler)}"
        )
    if bound.guidance is None:
        return problems
    if not denoises:
        problems.append(
            f"guidance={guidance} needs a model that denoises; with {which!r} use guidance=none"
        )
    elif not follows:
        problems.append(
            f"guidance={guidance} acts along a path, and sampler={sampler} follows none; use "
            "guidance=none, or another sampler"
        )
    return problems + _guidance(bound.guidance, model, networks, spec)


def _guidance(
    guidance: Guidance, model: Model, networks: Mapping[str, Network], spec: Spec
) -> list[str]:
    """What guidance asks that the model never learned."""
    problems = []
    if guidance.unconditional and spec.classes is None:
        problems.append(
            "guidance.scale other than 1 is the distance from estimates without a label, and "
            "this model has no labels; use guidance.scale=1, or guidance=autoguidance"
        )
    elif guidance.unconditional and model.label_dropout == 0:
        problems.append(
            "guidance.scale other than 1 needs estimates without a label, which nothing "
            "teaches with model.label_dropout=0; use guidance.scale=1, or train with 0.1"
        )
    fixed = [n for n in networks.values() if not n.any_size]
    if guidance.factor != 1 and fixed:
        problems.append(
            f"guidance draws at another size than that of training, and {type(fixed[0]).__name__} "
            "takes no other; use network=unet, which is made of convolutions"
        )
    return problems
