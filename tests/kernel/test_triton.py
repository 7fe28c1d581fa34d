"""The Triton kernels in Triton's interpreter, which has to be on before they are read."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


def interpreted(cases, mark):
    """Runs tests/helpers/CASES in a process of its own; fails with what it wrote."""
    version = tuple(int(n) for n in triton.__version__.split(".")[:2])
    if version < (3, 7) and tuple(int(n) for n in numpy.__version__.split(".")[:2]) >= (2, 4):
        pytest.skip(f"the interpreter of Triton {triton.__version__} needs numpy before 2.4")
    more = {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    words = ["-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", mark, f"tests/helpers/{cases}"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env={**os.environ, **more},
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


@pytest.mark.parametrize("cases", ["interpreted_kernels.py", "interpreted_operator.py"])
def test_in_the_interpreter(cases):
    interpreted(cases, "not slow")


@pytest.mark.slow
def test_more_masks_and_widths_in_the_interpreter():
    interpreted("interpreted_kernels.py", "slow")


@pytest.mark.slow
def test_every_configuration_fits_a_hopper_gpu():
    """Compiled for sm_90 without a GPU: no spill, at most 227 KB of shared memory."""
    tools = Path(sys.modules["triton"].__file__).parent / "backends" / "nvidia" / "bin"
    if not (tools / "cuobjdump").is_file():
        pytest.skip(f"Triton came without the tools that compile for a GPU: no {tools}")
    script = ROOT / "scripts" / "fit_attention.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "configurations fit" in done.stdout
