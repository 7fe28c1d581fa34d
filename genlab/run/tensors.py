"""The tensors of a checkpoint: weights and moments, compared before anything is copied.

Fused optimizers pair raw memory, so a moment of another shape would be read beyond its end; and a
moment that is missing would start again at zero without a word. So names, shapes and dtypes are
compared first, and what differs is a CheckpointError.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from genlab.core.errors import CheckpointError

__all__ = [
    "load_model",
    "load_optimizers",
    "model_tensors",
    "optimizer_tensors",
    "without_moments",
]

TOLD = 5  # problems that an error names
Layout = tuple[tuple[int, ...], str]  # shape, and the code of safetensors for the dtype

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """state_dict on the CPU, contiguous, tied tensors once."""
    out: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...], int]] = set()
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.storage_offset())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        out[name] = tensor.detach().cpu().contiguous()
    return out


def optimizer_tensors(model: nn.Module, optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """player/parameter/moment -> tensor on the CPU."""
    return {
        f"{key}/{moment}": value.detach().cpu().contiguous()
        for key, optimizer, _, p in _trained(model, optimizers)
        for moment, value in optimizer.state.get(p, {}).items()
        if isinstance(value, Tensor)
    }


def without_moments(model: nn.Module, optimizers: Mapping[str, Optimizer]) -> list[str]:
    """player/parameter of those that no step has reached: a checkpoint holds no moment of them."""
    trained = _trained(model, optimizers)
    return [key for key, optimizer, _, p in trained if not optimizer.state.get(p)]


def _trained(
    model: nn.Module, optimizers: Mapping[str, Optimizer]
) -> Iterator[tuple[str, Optimizer, Mapping[str, Any], nn.Parameter]]:
    """player/parameter, its optimizer, its group there, the parameter."""
    names = {id(p): n for n, p in model.named_parameters()}
    for player, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            for p in group["params"]:
                yield f"{player}/{names[id(p)]}", optimizer, group, p


def load_model(model: nn.Module, file: Path) -> None:
    """Copies saved tensors into a built model; CheckpointError on another architecture."""
    own = model.state_dict()
    with _opened(file) as saved:
        there = _layouts(saved)
        loaded = {own[name].data_ptr() for name in there if name in own}
        here = {
            name: _layout(tensor)
            for name, tensor in own.items()
            if name in there or (tensor.numel() and tensor.data_ptr() not in loaded)  # not tied
        }
        if problems := _differences(there, here):
            raise CheckpointError(
                f"{file} holds another architecture: {_first(problems)}; "
                "use the model and network keys it was trained with"
            )
        with torch.no_grad():
            for name in there:
                own[name].copy_(saved.get_tensor(name))


def load_optimizers(
    model: nn.Module,
    optimizers: Mapping[str, Optimizer],
    file: Path,
    without: Sequence[str] | None = None,
    *,
    restart: bool = False,
) -> str:
    """Restores the moments of every player; returns which start at zero, in words, "" for none.

    A moment takes the strides of its parameter: fused optimizers pair raw memory.

    without: what `without_moments` gave when the checkpoint was made; None for one that is older
    than this record: a parameter of which it holds nothing may have been without moments then.
    restart: let every moment that cannot be restored start at zero; else CheckpointError names it.
    """
    slots = {
        f"{key}/{moment}": (key, optimizer, p, moment, layout)
        for key, optimizer, group, p in _trained(model, optimizers)
        for moment, layout in _moments(optimizer, group, p).items()
    }
    with _opened(file) as saved:
        there = _layouts(saved)
        held = {name.rpartition("/")[0] for name in there}
        absent = list(dict.fromkeys(slot[0] for slot in slots.values() if slot[0] not in held))
        excused = (absent if held else []) if without is None else without
        here = {
            n: slot[-1] for n, slot in slots.items() if not (n not in there and slot[0] in excused)
        }
        problems = _differences(there, here)
        if problems and not restart:
            raise CheckpointError(
                f"{file} holds other moments than this optimizer has: {_first(problems)}; add "
                "allow=[moments] to let those start at zero"
            )
        # of a parameter all moments or none: a mean that is kept beside a count of zero is worse
        bad = {n.rpartition("/")[0] for n, layout in here.items() if there.get(n) != layout}
        for name, (key, optimizer, p, moment, _) in slots.items():
            if name in there and key not in bad:
                value = saved.get_tensor(name)
                like = p if value.shape == p.shape else value.to(p.device)
                slot = torch.empty_like(like, dtype=value.dtype, requires_grad=False)
                optimizer.state[p][moment] = slot.copy_(value)
    if lost := _not_numbers(optimizers, model):
        raise CheckpointError(
            f"{file} or the weights beside it hold what is no number (NaN): {_first(lost)}; "
            f"delete {file.parent.name} to go on from the checkpoint before"
        )
    unsaid = [f"{key} has none" for key in absent if without is None]
    return _first(problems + unsaid)


def _not_numbers(optimizers: Mapping[str, Optimizer], model: nn.Module) -> list[str]:
    """Which weights, averages and moments have a NaN, of which every later step would be one."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    for player, optimizer in optimizers.items():
        for k, state in enumerate(optimizer.state.values()):
            named |= {f"{player}/{k}/{m}": t for m, t in state.items() if isinstance(t, Tensor)}
    return [n for n, t in named.items() if t.is_floating_point() and t.isnan().any()]


def _moments(optimizer: Optimizer, group: Mapping[str, Any], p: Tensor) -> dict[str, Layout]:
    """moment -> shape and dtype, of what a first step makes for a parameter: one on a copy."""
    like = torch.zeros_like(p).requires_grad_()
    like.grad = torch.zeros_like(p)
    probe = copy.copy(optimizer)
    probe.param_groups, probe.state = [{**group, "params": [like]}], defaultdict(dict)
    probe.step()
    made: Mapping[str, Any] = probe.state[like]
    return {name: _layout(v) for name, v in made.items() if isinstance(v, Tensor)}


# --- comparing -----------------------------------------------------------------------------------


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "pt") as saved:
            yield saved
    except SafetensorError as e:
        raise CheckpointError(f"{file} is not a safetensors file: {e}") from e


def _layout(tensor: Tensor) -> Layout:
    return tuple(tensor.shape), _CODES.get(tensor.dtype, str(tensor.dtype))


def _layouts(saved: Any) -> dict[str, Layout]:
    """name -> shape and dtype of a file's tensors; of their values nothing is read."""
    slices = ((name, saved.get_slice(name)) for name in saved.keys())
    return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices}


def _differences(there: Mapping[str, Layout], here: Mapping[str, Layout]) -> list[str]:
    out = [f"{name} is in the file only" for name in there if name not in here]
    for name, layout in here.items():
        if name not in there:
            out.append(f"{name} is not in the file")
        elif there[name] != layout:
            (shape, dtype), (own_shape, own_dtype) = there[name], layout
            what = (shape, own_shape) if shape != own_shape else (dtype, own_dtype)
            out.append(f"{name} is {what[0]} there, {what[1]} here")
    return out


def _first(problems: Sequence[str]) -> str:
    more = f" and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
    return "; ".join(problems[:TOLD]) + more
