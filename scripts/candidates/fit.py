"""What a kernel takes of an H100, found without one: registers, spills, shared memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from candidates import adaln, group_norm_silu, nearest_code

__all__ = ["SHARED", "Fit", "every", "fit"]

SHARED = 227 * 1024
"""Bytes of shared memory that a block can have on compute capability 9.0."""

OPTIONS = ("num_warps", "num_stages")


class Fit(NamedTuple):
    """Of a thread: registers, bytes spilled; of a block: bytes of shared memory."""

    registers: int
    spilled: int
    shared: int


def fit(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> Fit:
    """The kernel compiled for compute capability 9.0, as for sizes that are multiples of 16.

    types: of the arguments, as "*bf16" or "fp32"; those not named are int32. constants: of the
    constexpr ones, and num_warps, num_stages.
    """
    names = kernel.arg_names
    constexprs = {(names.index(k),): v for k, v in constants.items() if k not in OPTIONS}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    whole = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if signature[n].startswith(("*", "i"))
    }
    source = ASTSource(kernel, signature=signature, constexprs=constexprs, attrs=whole)
    options = {k: v for k, v in constants.items() if k in OPTIONS}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernel.ptx")
        ptx.write_text(built.asm["ptx"])
        said = subprocess.run(
            [knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", ptx, "-o", ptx.with_suffix(".o")],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    (registers,) = re.findall(r"Used (\d+) registers", said)
    spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    return Fit(int(registers), max(map(int, spilled)), built.metadata.shared)


def every() -> Iterator[tuple[str, Any, str, Fit]]:
    """(candidate, configuration, kernel, what it takes), of every configuration there is."""
    for module in (group_norm_silu, adaln):
        for config in module.CONFIGS:
            for name, kernel in module.kernels(config).items():
                yield module.__name__.split(".")[1], config, name, fit(*kernel)
    for product in nearest_code.PRODUCTS:
        for config in nearest_code.configs(product):
            for name, kernel in nearest_code.kernels(product, config).items():
                yield "nearest_code", config, name, fit(*kernel)
