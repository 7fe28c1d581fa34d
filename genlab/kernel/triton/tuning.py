"""Which tiles a kernel runs with: a table that fits the GPU, and what was quickest on it.

The first call with a new key times the candidates of the table on its own tensors. The choice is
kept on disk, so that runs on one machine, and a run that is resumed there, compute with the same
tiles; on another machine they may be others, and sums in another order.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import triton

from genlab.core.console import log_once
from genlab.kernel.backend import interpreted

__all__ = ["CONFIGS", "FEATURES", "INTERPRETED", "Config", "Key", "best", "candidates"]

FEATURES = ("SEGMENTED", "WINDOWED", "SLOPED", "DROPOUT")
"""What takes registers of its own when it is compiled into a kernel."""

Kernel = Literal["forward", "keys", "queries"]
INTERPRETED = interpreted()
WORTH = 512  # tokens, to the next power of two, from which tiles are timed; launching rules below
ROUNDS = 5  # timings of a candidate, of which the median counts


@dataclass(frozen=True)
class Config:
    """Tiles of bm queries and bn keys; warps and pipeline stages; k and v by descriptors (TMA)."""

    bm: int
    bn: int
    warps: int
    stages: int
    descriptors: bool = False


class Key(NamedTuple):
    """What a choice holds for.

    width: of a head, to the next power of two. mask: 0 full, 1 causal, 2 by ranks.
    length: the longer side, to the next power of two, at most 16384. group: query heads a
        key head. features: those of FEATURES that are compiled in, joined by "+".
    """

    dtype: str
    width: int
    mask: int
    length: int
    group: int
    features: str = ""


# (kernel, widest head, bytes of a number) -> candidates, the first for where none can be timed.
# Each fits a Hopper GPU's registers: scripts/fit_attention.py.
CONFIGS: Mapping[tuple[Kernel, int, int], tuple[Config, ...]] = {
    ("forward", 64, 2): (
        Config(128, 64, 4, 3),
        Config(128, 128, 8, 3),
        Config(128, 64, 8, 3),
        Config(64, 64, 4, 3),
        Config(128, 64, 4, 3, True),
        Config(128, 128, 8, 3, True),
    ),
    ("forward", 128, 2): (
        Config(128, 64, 8, 3),
        Config(128, 128, 8, 3),
        Config(64, 64, 4, 3),
        Config(128, 64, 8, 3, True),
        Config(128, 128, 8, 3, True),
    ),
    ("forward", 256, 2): (
        Config(128, 32, 8, 2),
        Config(128, 64, 8, 2, True),
        Config(64, 64, 4, 2, True),
    ),
    ("forward", 64, 4): (
        Config(64, 32, 4, 1),
        Config(32, 32, 4, 1),
    ),
    ("forward", 128, 4): (
        Config(32, 32, 4, 2),
        Config(32, 16, 4, 2),
    ),
    ("keys", 64, 2): (
        Config(64, 64, 8, 2),
        Config(32, 128, 8, 3),
        Config(64, 128, 8, 2, True),
        Config(64, 64, 4, 2, True),
    ),
    ("keys", 128, 2): (
        Config(32, 128, 8, 4),
        Config(32, 64, 8, 2),
        Config(64, 64, 8, 2, True),
    ),
    ("keys", 256, 2): (
        Config(32, 32, 8, 2),
        Config(16, 64, 8, 2, True),
    ),
    ("keys", 64, 4): (
        Config(32, 32, 8, 1),
        Config(16, 32, 4, 1),
    ),
    ("keys", 128, 4): (
        Config(16, 16, 8, 1),
        Config(16, 16, 4, 1),
    ),
    ("queries", 64, 2): (
        Config(128, 64, 8, 2),
        Config(128, 128, 8, 2),
        Config(64, 64, 4, 2),
        Config(128, 64, 8, 2, True),
    ),
    ("queries", 128, 2): (
        Config(128, 64, 8, 2),
        Config(64, 64, 8, 2),
        Config(128, 64, 8, 2, True),
    ),
    ("queries", 256, 2): (
        Config(64, 32, 8, 2),
        Config(32, 32, 4, 1),
    ),
    ("queries", 64, 4): (
        Config(64, 32, 8, 1),
        Config(32, 32, 4, 1),
    ),
    ("queries", 128, 4): (
        Config(16, 32, 8, 1),
        Config(16, 16, 4, 1),
    ),
}

_CHOSEN: dict[tuple[str, int], Config] = {}  # by key and device

INTERPRETER = Config(64, 32, 4, 1)
"""Large enough for speed, small enough for several tiles; nothing is compiled for it."""


def candidates(kernel: Kernel, key: Key, descriptors: bool = False) -> tuple[Config, ...]:
    """The configurations to choose from; descriptors: also those of the memory accelerator."""
    size = 4 if key.dtype == "float32" else 2
    table = CONFIGS[kernel, max(64, key.width), size]
    fit = tuple(c for c in table if descriptors or not c.descriptors)
    return tuple(c for c in fit if max(c.bm, c.bn) <= max(64, key.length)) or fit[:1]


def best(
    kernel: Kernel, key: Key, run: Callable[[Config], None], descriptors: bool = False
) -> Config:
    """The quickest configuration for a key, timed now if it never was; `run` runs one.

    For short calls, and while a graph is captured, the first that runs. One that does not compile
    or fit is passed over; if none does, the last error comes.
    """
    if INTERPRETED:
        return INTERPRETER
    fit = candidates(kernel, key, descriptors)
    name = "-".join([kernel, *map(str, key), "descriptors" * descriptors])
    choice = (name, torch.cuda.current_device())
    if choice in _CHOSEN:
        return _CHOSEN[choice]
    if torch.cuda.is_current_stream_capturing():
        return fit[0]
    if key.length < WORTH:
        found = _first(fit, run)
    elif (kept := _kept(name)) in fit:
        found = kept
    else:
        log_once("attention: tiles are timed now and kept, once for each kind of call on this GPU")
        found = _keep(name, _timed(fit, run), fit)
    _CHOSEN[choice] = found
    return found


def _first(fit: tuple[Config, ...], run: Callable[[Config], None]) -> Config:
    for config in fit[:-1]:
        try:
            run(config)
            return config
        except Exception:  # as in _timed; what is wrong with all of them shows with the last
            continue
    return fit[-1]


def _timed(fit: tuple[Config, ...], run: Callable[[Config], None]) -> Config:
    quickest: dict[Config, float] = {}
    failure: Exception | None = None
    for config in fit:
        try:
            run(config)  # compiles
            quickest[config] = statistics.median(_milliseconds(run, config) for _ in range(ROUNDS))
        except Exception as e:  # Triton's compiler and loader have no common root
            failure = e
    if not quickest:
        assert failure is not None
        raise failure
    return min(quickest, key=quickest.__getitem__)


def _milliseconds(run: Callable[[Config], None], config: Config) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run(config)
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _folder() -> Path:
    """Where the choices for this device, this Triton and these kernels are kept.

    Raises RuntimeError where no home is known.
    """
    digest = hashlib.sha256(f"{torch.cuda.get_device_name()} {triton.__version__}".encode())
    for source in ("score", "forward", "backward", "tuning"):
        digest.update((Path(__file__).parent / f"{source}.py").read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "genlab" / f"attention-{digest.hexdigest()[:16]}"


def _kept(name: str) -> Config | None:
    """What was chosen before; None if nothing was, or if it cannot be read."""
    try:
        return Config(**json.loads((_folder() / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RuntimeError):
        return None


def _keep(name: str, config: Config, fit: tuple[Config, ...]) -> Config:
    """Keeps a choice, a file each; the one that another process has kept meanwhile comes first."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            whole = Path(aside) / path.name
            whole.write_text(json.dumps(asdict(config)), encoding="utf-8")
            try:
                os.link(whole, path)  # fails where there is one, so that the first decides
            except FileExistsError:
                if (other := _kept(name)) in fit:
                    return other
                os.replace(whole, path)
    except (OSError, RuntimeError) as e:
        log_once(f"attention: the tiles chosen cannot be kept: {e}")
    return config
