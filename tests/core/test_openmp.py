"""How threads wait is chosen for a person who has not, and for nobody else."""

import os
import subprocess
import sys

import pytest

from genlab.core.openmp import limit_spinning, waiting


@pytest.mark.parametrize(
    ("given", "platform", "says"),
    [
        ({}, "linux", "GOMP_SPINCOUNT=1000"),
        ({"GOMP_SPINCOUNT": "5"}, "linux", "GOMP_SPINCOUNT=5"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "linux", "OMP_WAIT_POLICY=ACTIVE"),
        ({}, "darwin", "as the library has it"),
    ],
)
def test_a_persons_own_choice_wins(monkeypatch, given, platform, says):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    limit_spinning()
    assert waiting() == says
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)  # which monkeypatch has not set itself


def test_it_is_set_before_a_library_reads_it():
    """Nothing that the command line imports has loaded OpenMP by then."""
    text = (
        "import sys; import genlab.cli.main; "
        "print(any('gomp' in line or 'omp5' in line for line in open('/proc/self/maps')))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
