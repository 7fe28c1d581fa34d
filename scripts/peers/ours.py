"""genlab's side: a composed config, trained by genlab's own trainer on images made up here.

And a step of the peers', written by hand.
"""

from collections.abc import Callable

import torch

from genlab.assemble.components import Components, build
from genlab.config.compose import compose
from genlab.core.contract import Dataset, Spec, Split
from genlab.core.schema import Count
from genlab.training.setup import make_trainer
from genlab.training.trainer import Trainer

__all__ = ["Images", "built", "millions", "step_by_hand", "trainer"]


class Images(Dataset):
    """Random bytes in the shape of a data set, so that nothing has to be downloaded."""

    count = 4096

    def __init__(self, *, channels: Count, side: Count, flip: bool) -> None:
        self.spec, self.flip = Spec((channels, side, side), None), flip

    def load(self, split: str) -> Split:
        """uint8 [N, C, H, W], the same for each split."""
        g = torch.Generator().manual_seed(0)
        return Split(torch.randint(256, (self.count, *self.spec.shape), generator=g).byte())


def built(*words: str, channels: int = 1, side: int = 32) -> tuple[dict, Components]:
    """(config, built) of a composed config whose data are `Images`; hardware=auto has started.

    Threads are those of the process.
    """
    threads = f"hardware.threads={torch.get_num_threads()}"
    config = compose(["schedule=constant", threads, *words])
    config["data"] = {
        "name": "peers.ours:Images", "channels": channels, "side": side, "flip": False
    }  # fmt: skip
    made = build(config)
    made.hardware.start()
    return config, made


def trainer(*words: str, channels: int = 1, side: int = 32) -> tuple[Components, Trainer]:
    """(built, trainer) of such a config."""
    _, made = built(*words, channels=channels, side=side)
    return made, make_trainer(made, made.data.load("train"))


def millions(network: torch.nn.Module) -> str:
    """Parameters."""
    return f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M"


def step_by_hand(
    loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """A step of the optimizer on a loss, gradients clipped at 1, as one writes it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step
