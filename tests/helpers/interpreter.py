"""Triton's interpreter, which has to be on before kernels are read: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[2]


def run(*words, cwd):
    """What `python *words` writes to stdout with the interpreter on; fails with its output."""
    triton = pytest.importorskip("triton")
    version = tuple(int(n) for n in triton.__version__.split(".")[:2])
    if version < (3, 7) and tuple(int(n) for n in numpy.__version__.split(".")[:2]) >= (2, 4):
        pytest.skip(f"the interpreter of Triton {triton.__version__} needs numpy before 2.4")
    paths = {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout
