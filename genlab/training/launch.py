"""From a config that is checked to a run that is trained, in one process or several."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genlab.assemble.pretrained import pin
from genlab.core import dist, subprocesses
from genlab.run.directory import Run
from genlab.run.ranks import check_ranks, facts
from genlab.training.run_loop import train_run
from genlab.training.setup import set_up

__all__ = ["launch"]


def launch(
    config: Mapping[str, Any],
    open_run: Callable[[], Run],
    *,
    run: Run | None = None,
    trust: bool = True,
    trust_runs: Sequence[str] = (),
    allow: Sequence[str] = (),
) -> int:
    """Makes and checks all that a config names, then opens its run and trains it.

    In this process, with what was made for the check; or on hardware.devices ranks of this
    machine, which make their own. torchrun has each of its ranks come here, and this is one.

    config: resolved. open_run: makes or changes the run directory; called by rank 0 alone, once
    nothing is wrong. run: that it opens, None for a new one. trust, trust_runs: as `build` takes
    them. allow: as in `genlab resume`. Returns the exit code.
    """
    devices = config["hardware"]["devices"]
    here = devices == 1 or dist.world() > 1
    path = run.path if run else None
    setup = set_up(config, trust=trust, trust_runs=trust_runs, meta=not here, run=path)
    if not here:
        folder = open_run().path
        pin(setup.components.pretrained, folder)  # before a rank asks which checkpoints these are
        words = ["__work", str(folder), *allow, *(["trust"] if trust else [])]
        words += [f"trust={path}" for path in trust_runs]
        words += ["here"] if os.getcwd() in sys.path else []  # where this process looks for code
        return subprocesses.run_ranks(words, devices)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun is our parent; killed, it stops no rank
        subprocesses.terminate_with_parent(os.getppid())
    check_ranks(facts(config), setup.components.hardware.device)
    folder = str(open_run().path) if dist.rank() == 0 else ""
    folder = dist.broadcast_text(folder, setup.components.hardware.device)
    return train_run(Path(folder), setup, allow=allow)
