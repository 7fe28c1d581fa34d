"""The parts of scripts/gpu_check.py; on the machine of a GPU genlab need not be installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
