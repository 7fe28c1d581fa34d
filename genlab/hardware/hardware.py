"""Device, precision, layout, threads: chosen once, said once, recorded in the run."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from genlab.core.contract import Model
from genlab.core.cores import allowed, busy_elsewhere
from genlab.core.dist import world
from genlab.core.errors import DeviceError
from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.kernel.dispatch import available, check_backward
from genlab.kernel.self_test import resolve_backend
from genlab.nn.attention import AttentionLayer

__all__ = ["Hardware", "choose"]

AVX512 = "_is_avx512_bf16_supported"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def bf16_unit() -> str:
    """What multiplies bf16 on this CPU: "AMX", "AVX-512 bf16" or nothing ("").

    Both pay for networks of convolutions; docs/speed.md has the measurements.
    """
    for name, words in (("_is_amx_tile_supported", "AMX"), (AVX512, "AVX-512 bf16")):
        supported = getattr(torch.cpu, name, None)
        if supported and supported():
            return words
    return ""


def choose(device: str = "auto", precision: str = "auto") -> tuple[str, str]:
    """What `auto` means here: bf16 where there is a unit for it, fp16 on older GPUs, else fp32.

    Raises DeviceError for a device or precision that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "hardware.device=cuda, but torch sees no CUDA device "
            f"(torch {torch.__version__}, CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}); use hardware.device=cpu"
        )
    if device == "cuda":
        ampere = torch.cuda.get_device_capability()[0] >= 8
        if precision == "bf16" and not ampere:
            raise DeviceError(
                "hardware.precision=bf16 needs a GPU of compute capability 8.0 or newer; "
                "use hardware.precision=fp16 or fp32"
            )
        return device, ("bf16" if ampere else "fp16") if precision == "auto" else precision
    if precision == "fp16":
        raise DeviceError(
            "hardware.precision=fp16 is for GPUs; on the CPU use hardware.precision=bf16 or fp32"
        )
    return device, ("bf16" if bf16_unit() else "fp32") if precision == "auto" else precision


def keep_freed_memory() -> None:
    """Has glibc keep what a step frees for the next one, which asks for the same again.

    Otherwise every large tensor is given back to the kernel and faulted in anew, page by page: a
    tenth to a quarter of a step. Nothing is done where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names of malloc.h
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 << 20)
    mallopt(mmap_threshold, 32 << 20)  # the most that glibc takes


@register("auto", "cpu", "cuda")
class Hardware:
    """The machine a run computes on.

    device: torch.device; precision: fp32 | bf16 | fp16 of the networks (weights stay fp32).
    attention_backend: of a model with attention, once it is placed; else None. threads: of this
    process; busy: cores that others kept busy when their number was chosen.
    """

    attention_backend: str | None = None

    def __init__(
        self,
        *,
        device: Literal["auto", "cpu", "cuda"],
        precision: Literal["auto", "fp32", "bf16", "fp16"],
        compile: bool,
        deterministic: bool,
        channels_last: bool,
        attention: Literal["auto", "triton", "flex", "sdpa", "plain"],
        threads: Count | Literal["auto"],
        micro_batch: Count | Literal["auto"],
        devices: Count,
        on_spike: Literal["warn", "skip", "stop"],
    ) -> None:
        kind, self.precision = choose(device, precision)
        self._cpu_asked = device == "cpu"
        index = int(os.environ.get("LOCAL_RANK", "0")) if kind == "cuda" else None
        if index is not None and index >= torch.cuda.device_count():
            raise DeviceError(
                f"rank {index} has no GPU: torch sees {torch.cuda.device_count()}; "
                "lower hardware.devices"
            )
        self.device = torch.device(kind, index) if index is not None else torch.device(kind)
        self.dtype = DTYPES[self.precision]
        self.compile, self.channels_last = compile, channels_last
        self.deterministic, self.attention = deterministic, attention
        if attention != "auto":
            available(attention, self.device)  # raises now rather than at the first step
        if deterministic and kind == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        self.busy = 0.0
        self._threads_given = threads != "auto"
        self.threads = self._idle_cores() if threads == "auto" else threads
        self.micro_batch, self.devices, self.on_spike = micro_batch, devices, on_spike

    def _idle_cores(self) -> int:
        """Those of this rank: a thread that shares its core makes all the others wait for it.

        Ranks share the cores out, as each is busy work to the others; on a GPU the threads only
        prepare what it computes.
        """
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if ranks_here == 1 and self.device.type == "cpu":
            self.busy = busy_elsewhere()
        return max(1, round(allowed() - self.busy) // ranks_here)

    def keep_threads(self, threads: int | None) -> None:
        """Takes the number that a run began with: its sums are in that order to the bit.

        Unless the config gives one, or there are not that many cores; None: it is not known.
        """
        if threads is not None and not self._threads_given and threads <= allowed():
            self.threads, self.busy = threads, 0.0

    def start(self) -> None:
        """Applies what is global to the process: threads, current device, fp32 product mode."""
        torch.set_num_threads(self.threads)
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            # TF32 halves fp32's mantissa but is what every peer trains with; results stay recorded
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            if self.deterministic:
                torch.backends.cudnn.deterministic = True
                torch.use_deterministic_algorithms(True, warn_only=True)
                # only what is read before it is written would profit, and nothing here does that
                torch.utils.deterministic.fill_uninitialized_memory = False

    def autocast(self) -> AbstractContextManager[object]:
        """The precision context of a training or sampling step."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def place(self, module: nn.Module) -> nn.Module:
        """Moves a model here, convolution weights in the layout the device prefers.

        Sets the backend of its layers with attention; DeviceError where that of the config does
        not work.
        """
        module.to(self.device)
        if self.channels_last:
            for p in module.parameters():
                if p.dim() == 4:
                    p.data = p.data.contiguous(memory_format=torch.channels_last)
        if layers := _attention_layers(module):
            double_backward = isinstance(module, Model) and module.double_backward
            widths = sorted({layer.head_width for layer in layers})
            dropout = any(layer.dropout for layer in layers)
            backend, self.attention_backend = resolve_backend(
                self.attention, self.device, self.dtype, double_backward, widths, dropout
            )
            for layer in layers:
                layer.backend, layer.double_backward = backend, double_backward
        return module

    def check_training(self, model: Model) -> None:
        """Raises DeviceError when this model could be drawn from here, but not trained.

        Or not on as many devices as the config asks for: on a CPU ranks share its cores, which
        nobody gets who did not ask for a CPU.
        """
        there = torch.cuda.device_count() if self.device.type == "cuda" else 0
        if self.devices > max(1, there) and not self._cpu_asked:
            raise DeviceError(
                f"hardware.devices={self.devices}, but torch sees {there or 'no'} "
                f"GPU{'s' * (there > 1)}; use hardware.devices={max(1, there)}, or "
                f"hardware.device=cpu for {self.devices} ranks that share the cores"
            )
        if _attention_layers(model) and not model.double_backward:
            check_backward(self.attention, self.device)

    def accumulation(self, batch: int) -> tuple[int, int]:
        """(micro-batches per rank, samples in each) of a global batch.

        Raises ValueError when the batch cannot be shared out evenly.
        """
        share, rest = divmod(batch, world())
        if rest or not share:
            raise ValueError(
                f"schedule.batch={batch} does not divide among {world()} ranks; "
                f"use a multiple of {world()}"
            )
        micro = share if self.micro_batch == "auto" else min(self.micro_batch, share)
        if share % micro:
            raise ValueError(
                f"hardware.micro_batch={micro} does not divide the rank's {share} samples"
            )
        return share // micro, micro

    def describe(self) -> str:
        """One line for the start of a run."""
        if self.device.type == "cuda":
            what = torch.cuda.get_device_name(self.device)
        else:
            what = f"cpu, {self.threads} thread{'s' if self.threads > 1 else ''}"
            if self.threads < allowed() and self.busy:
                what += f" (of {allowed()} cores others keep {self.busy:.1f} busy)"
            what += f", {bf16_unit()}" if bf16_unit() else ""
        layout = ", channels_last" if self.channels_last else ""
        layout += f", attention by {self.attention_backend}" if self.attention_backend else ""
        ranks = f", {world()} ranks" if world() > 1 else ""
        return f"{what}, {self.precision}{layout}{', compiled' if self.compile else ''}{ranks}"


def _attention_layers(model: nn.Module) -> list[AttentionLayer]:
    """The layers of a model with attention."""
    return [m for m in model.modules() if isinstance(m, AttentionLayer)]
