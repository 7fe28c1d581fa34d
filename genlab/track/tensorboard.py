"""TensorBoard event files."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genlab.core.errors import DeviceError
from genlab.core.registry import register

__all__ = ["TensorBoard"]


@register
class TensorBoard:
    """Curves and sample grids for TensorBoard, over images drawn."""

    def __init__(self) -> None:
        """Raises DeviceError without the tensorboard package."""
        if importlib.util.find_spec("tensorboard") is None:
            raise DeviceError("track=tensorboard needs an extra: pip install 'genlab[track]'")

    def start(self, folder: Path, title: str, config: Mapping[str, Any], images: int) -> str:
        """Opens `folder`/tensorboard; what an earlier start wrote after `images` vanishes."""
        import yaml

        # the switch of tensorboard.compat: where TensorFlow is installed it would be imported
        # for its file system, which takes seconds
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=images + 1)
        text = yaml.safe_dump(dict(config), sort_keys=False)
        self.writer.add_text("config", f"```yaml\n{text}```", images)
        return f"to look at it: tensorboard --logdir {shlex.quote(str(folder / 'tensorboard'))}"

    def line(self, values: Mapping[str, float]) -> None:
        """A scalar a value; its step is the number of images."""
        for name, value in values.items():
            if name != "images":
                self.writer.add_scalar(name, value, values["images"])
        self.writer.flush()  # what the journal has, a kill must not take from here

    def picture(self, name: str, path: Path, images: int) -> None:
        """The pixels of a PNG."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(name, pixels, images, dataformats="HWC")
        self.writer.flush()

    def finish(self, code: int) -> None:
        """Closes the file."""
        self.writer.close()
