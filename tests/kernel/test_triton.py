"""The Triton kernels in Triton's interpreter, which has to be on before they are read."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import interpreter

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("cases", ["interpreted_kernels.py", "interpreted_operator.py"])
def test_in_the_interpreter(cases):
    words = ["-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/helpers/{cases}"]
    assert "passed" in interpreter.run(*words, cwd=ROOT)


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
