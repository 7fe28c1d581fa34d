"""Where a test marked gpu runs: on one, or in a rehearsal of scripts/gpu_check.py on the CPU."""

import os
from contextlib import contextmanager

import pytest
import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not CUDA and "GENLAB_REHEARSE" not in os.environ, reason="needs a CUDA device"
    ),
]


@contextmanager
def without_a_sync():
    """Whatever waits for the GPU raises; on the CPU nothing waits."""
    if not CUDA:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
