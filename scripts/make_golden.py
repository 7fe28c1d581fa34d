"""Writes tests/golden/<model>.json: the losses of the first 20 steps at tiny size.

Run it only when the mathematics of a model changed on purpose, and commit the files alone:

    python scripts/make_golden.py [model ...]
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.helpers.trainers import curve
from tests.model.test_every_model import GOLDEN, MODELS

torch.set_num_threads(1)
GOLDEN.mkdir(exist_ok=True)
for model in sys.argv[1:] or MODELS:
    path = GOLDEN / f"{model}.json"
    losses = {n: [float(f"{v:.7g}") for v in values] for n, values in curve(model).items()}
    path.write_text(json.dumps(losses) + "\n")
    print(path)
