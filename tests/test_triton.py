"""The Triton kernels in Triton's interpreter, which has to be on before they are read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent


def interpreted(cases):
    """Runs a file of cases in a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", cases]
    done = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


def test_the_kernels_in_the_interpreter():
    interpreted("interpreted_kernels.py")


def test_the_operator_in_the_interpreter():
    interpreted("interpreted_operator.py")


@pytest.mark.slow
def test_every_configuration_fits_a_hopper_gpu():
    """Compiled for sm_90 without a GPU: no spill, at most 227 KB of shared memory."""
    tools = Path(sys.modules["triton"].__file__).parent / "backends" / "nvidia" / "bin"
    if not (tools / "cuobjdump").is_file():
        pytest.skip(f"Triton came without the tools that compile for a GPU: no {tools}")
    script = HERE.parent / "scripts" / "fit_attention.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "configurations fit" in done.stdout
