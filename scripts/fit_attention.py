"""Compiles every shipped configuration of the attention kernels for a Hopper GPU, without one.

    python scripts/fit_attention.py [--mask full causal ranks] [--features] [--jobs 2] [--csv FILE]

Prints what each takes of a multiprocessor: registers of a thread, bytes that spill to memory,
stack, shared memory. A configuration is unfit when it spills or needs more than 227 KB; the exit
code is 1 then. --features compiles segments, window, ALiBi and dropout into the kernels too.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

MASKS = {"full": 0, "causal": 1, "ranks": 2}
SHARED = 227 * 1024
"""Bytes of shared memory that a block of threads may have on sm_90."""
POINTERS = {"side_q_ptr": "*i32", "side_k_ptr": "*i32", "lists_ptr": "*i32", "seed_ptr": "*i64"}
POINTERS |= {n: "*fp32" for n in ("lse_ptr", "delta_ptr", "slopes_ptr", "dlse_ptr")}
FLOATS = ("scale", "natural", "boost")
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Fit:
    """One configuration, and what it takes."""

    kernel: str
    dtype: str
    width: int
    mask: str
    bm: int
    bn: int
    warps: int
    stages: int
    descriptors: bool
    registers: int = 0
    spills: int = 0
    stack: int = 0
    shared: int = 0
    error: str = ""

    @property
    def fits(self) -> bool:
        """No spill, and shared memory that a block may have."""
        return not self.error and self.spills == 0 and self.shared <= SHARED


def shipped(masks: Iterable[str]) -> Iterator[Fit]:
    """Every configuration that may be chosen on a Hopper GPU."""
    from genlab.kernel.triton.tuning import Key, candidates

    for kernel in ("forward", "keys", "queries"):
        for dtype, widths in (("bfloat16", (64, 128, 256)), ("float32", (64, 128))):
            for width in widths:
                for mask in masks:
                    key = Key(dtype, width, MASKS[mask], 16384, 1)
                    for c in candidates(kernel, key, descriptors=True):
                        yield Fit(kernel, dtype, width, mask, *astuple(c))


def fitted(fit: Fit, features: bool) -> Fit:
    """The same with what compiling it for sm_90 says; the worse of lengths tiles divide or not."""
    found = [
        compiled(fit, features, even) for even in ([True, False][: 1 + (fit.kernel == "keys")])
    ]
    return max(found, key=lambda f: (not f.fits, f.spills, f.shared, f.registers))


def compiled(fit: Fit, features: bool, even: bool) -> Fit:
    """One kernel; even: its tiles divide the queries."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from genlab.kernel.triton import backward, forward

    function = {
        "forward": forward.forward,
        "keys": backward.keys_gradient,
        "queries": backward.queries_gradient,
    }[fit.kernel]
    constants = {
        "WIDTH": fit.width, "BLOCK_D": fit.width, "BM": fit.bm, "BN": fit.bn, "BLOCK": 128,
        "MASK": MASKS[fit.mask], "SEGMENTED": features and fit.mask == "ranks",
        "WINDOWED": features and fit.mask == "ranks", "SLOPED": features, "DROPOUT": features,
        "DESCRIPTORS": fit.descriptors, "INTERPRETED": False, "EVEN": even,
    }  # fmt: skip
    signature, fixed, attributes = {}, {}, {}
    for i, name in enumerate(function.arg_names):
        if name in constants:
            signature[name], fixed[(i,)] = "constexpr", constants[name]
        elif name.endswith("_d"):
            signature[name], fixed[(i,)] = "constexpr", 1  # what a stride of 1 becomes in a call
        elif name.endswith("_ptr"):
            signature[name] = POINTERS.get(name, f"*{DTYPES[fit.dtype]}")
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name in FLOATS else "i32"
            if name[-2:] in ("_b", "_h", "_s"):
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, fixed, attributes)
    options = {"num_warps": fit.warps, "num_stages": fit.stages}
    try:
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    except Exception as e:  # Triton's compiler has no root of its errors
        return replace(fit, error=f"{type(e).__name__}: {str(e).splitlines()[0][:80]}")
    registers, stack = _resources(made.asm["cubin"])
    return replace(
        fit,
        registers=registers,
        spills=_spills(made.asm["ptx"]),
        stack=stack,
        shared=made.metadata.shared,
    )


def tools() -> Path:
    """The folder of ptxas and cuobjdump, which come with Triton."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers, bytes of stack) of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tools() / "cuobjdump", "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+)", text), re.search(r"STACK:(\d+)", text)
    assert registers and stack, text
    return int(registers[1]), int(stack[1])


def _spills(ptx: str) -> int:
    """Bytes of spill stores; by the first ptxas that reads this PTX."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        for name in ("ptxas", "ptxas-blackwell"):
            command = [tools() / name, "-v", "--gpu-name=sm_90a", file.name, "-o", os.devnull]
            done = subprocess.run(command, capture_output=True, text=True)
            if found := re.search(r"(\d+) bytes spill stores", done.stderr):
                return int(found[1])
    raise RuntimeError(f"no ptxas reads this PTX: {done.stderr.splitlines()[0]}")


def main() -> int:
    """Compiles, prints, and says whether all fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mask", nargs="+", choices=MASKS, default=list(MASKS))
    parser.add_argument("--features", action="store_true", help="with window, ALiBi and dropout")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    asked = parser.parse_args()
    names = [f.name for f in fields(Fit)]
    widths = [max(len(n), 8) for n in names]
    print("  ".join(n.rjust(w) for n, w in zip(names, widths, strict=True)))
    found = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        all_ = list(shipped(asked.mask))
        for fit in pool.map(fitted, all_, [asked.features] * len(all_)):
            found.append(fit)
            cells = [str(v).rjust(w) for v, w in zip(astuple(fit), widths, strict=True)]
            print("  ".join(cells) + ("" if fit.fits else "  UNFIT"), flush=True)
    if asked.csv:
        with asked.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *map(astuple, found)])
    unfit = sum(not fit.fits for fit in found)
    print(f"{len(found) - unfit} of {len(found)} configurations fit a Hopper GPU")
    return int(unfit > 0)


if __name__ == "__main__":
    sys.exit(main())
