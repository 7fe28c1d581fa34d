"""Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from genlab.core.errors import DeviceError
from genlab.core.registry import register

__all__ = ["WandB"]

PATIENCE = 30  # seconds that W&B gets to answer at the start, and to send the rest at the end


@register
class WandB:
    """Curves and sample grids on Weights & Biases, or in files for later.

    The id of the W&B run lies in the run directory (`wandb-id`), so that a resumed run goes on in
    the same place. Charts are over images drawn, which W&B gets as a value: its own step can only
    grow, while the journal of a killed run goes back to its last checkpoint.
    """

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        group: str | None,
        tags: list[str],
        mode: Literal["auto", "offline"],
    ) -> None:
        """Raises DeviceError without the wandb package."""
        found = importlib.util.find_spec("wandb")
        if found is None or found.origin is None:  # a folder that W&B has left here is no package
            raise DeviceError("track=wandb needs an extra: pip install 'genlab[track]'")
        self.options = {"project": project, "entity": entity, "group": group, "tags": tags}
        self.offline = mode == "offline"

    def start(self, folder: Path, title: str, config: Mapping[str, Any], images: int) -> str:
        """Begins or continues the W&B run of a run directory; never asks anybody for a key."""
        import wandb

        quiet = wandb.Settings(
            silent=True, console="off", init_timeout=PATIENCE, finish_timeout=PATIENCE
        )
        given = {
            **self.options,
            "dir": str(folder),
            "id": _identity(folder / "wandb-id"),
            "name": title,
            "config": dict(config),
            "resume": "allow",
            "allow_val_change": True,
            "settings": quiet,
        }
        why = ""
        with _nobody_to_ask():
            wandb.setup(settings=quiet)
            try:
                self.run = wandb.init(mode="offline" if self.offline else None, **given)
            except Exception as e:  # no key, no network, a project that is not ours
                wandb.teardown()
                why = str(e).splitlines()[0].rstrip(".") if str(e) else type(e).__name__
                why = f" ({why})"
                self.run = wandb.init(mode="offline", **given)
        self.run.define_metric("images")
        self.run.define_metric("*", step_metric="images")
        if self.run.disabled:
            return "W&B is disabled by its own settings"
        if self.run.offline:
            place = shlex.quote(str(folder))
            return f"W&B is offline{why}; to send it: wandb sync {place}/wandb/offline-run-*"
        return f"W&B: {self.run.url}"

    def line(self, values: Mapping[str, float]) -> None:
        """One row of the history."""
        self.run.log(dict(values))

    def picture(self, name: str, path: Path, images: int) -> None:
        """A copy of a PNG."""
        import wandb

        self.run.log({"images": images, name: wandb.Image(str(path))})

    def finish(self, code: int) -> None:
        """Sends what is left; after 30 s without an answer it stays on the disk."""
        self.run.finish(exit_code=code)


def _identity(path: Path) -> str:
    """The id in a file; a new one where there is none, or none of W&B's form."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not re.fullmatch(r"[A-Za-z0-9_-]{4,64}", text):
        text = secrets.token_hex(4)
        path.write_text(f"{text}\n", encoding="utf-8")
    return text


@contextmanager
def _nobody_to_ask() -> Iterator[None]:
    """Standard input that is no terminal: W&B then fails where it would ask for a key."""
    before = sys.stdin
    with open(os.devnull, encoding="utf-8") as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = before
