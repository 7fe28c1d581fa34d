"""What the tests share: one thread, and runs small enough to train in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genlab.config import auto_values
from genlab.core import console
from genlab.training import preview
from tests.helpers.runs import Config, small, trained

# every run looks at itself at its end; in tests at less than is worth looking at
preview.SAMPLES, auto_values.FEWEST, auto_values.MOST = 16, 20, 20


@pytest.fixture(autouse=True)
def alike() -> None:
    """One thread, whose sums are not those of two, and weights that no earlier test changes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """tiny(model, data="digits", **overrides) -> config whose runs go to tmp_path."""

    def make(model: str, data: str = "digits", **overrides: Any) -> Config:
        return small(model, data, **{"outputs": str(tmp_path), **overrides})

    return make


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that go to stderr from here on, each said for the first time."""
    lines: list[str] = []
    monkeypatch.setattr(console, "_LOGGED", set())
    monkeypatch.setattr(console, "log", lines.append)
    return lines


@pytest.fixture(scope="session")
def gan(tmp_path_factory):
    """A finished tiny run; tests add evaluations to it."""
    return trained(tmp_path_factory, "gan")


@pytest.fixture(scope="session")
def glow(tmp_path_factory):
    return trained(tmp_path_factory, "glow", **{"network.net.levels": 1, "network.net.depth": 1})


@pytest.fixture(scope="session")
def vqvae(tmp_path_factory):
    return trained(tmp_path_factory, "vqvae")


@pytest.fixture
def digits():
    from sklearn.datasets import load_digits

    return (load_digits().images * 255 / 16).round().astype(np.uint8)
