"""From 20,000 stored images to batches of floats, half of them mirrored."""

import torch

from peers.compare import Side, Target, Work

__all__ = ["TARGETS"]

COUNT, SIDE, BATCH = 20_000, 32, 64


def stored() -> torch.Tensor:
    """uint8 [N, 1, H, W]."""
    return torch.randint(256, (COUNT, 1, SIDE, SIDE)).byte()


def genlab() -> Work:
    """Its stream, with the codec that gives [-1, 1]."""
    from genlab.codec.pixels import Pixels
    from genlab.core.contract import Spec, Split
    from genlab.training.stream import Stream

    stream = Stream(
        Split(stored()),
        Pixels(Spec((1, SIDE, SIDE))),
        seed=0,
        batch=BATCH,
        rank=0,
        micro=(1, BATCH),
        flip=True,
        device=torch.device("cpu"),
        channels_last=True,
    )
    position = 0

    def step() -> None:
        nonlocal position
        next(stream.open(position)[0])
        position += BATCH

    return Work(step, BATCH, "in memory, one process")


def endless(loader, finish=None) -> Work:
    """Batch after batch of a DataLoader, a new pass when one ends."""
    passes = iter(loader)

    def step() -> None:
        nonlocal passes
        batch = next(passes, None)
        if batch is None:
            passes = iter(loader)
            batch = next(passes)
        if finish is not None:
            finish(*batch)

    return Work(step, BATCH, f"workers {loader.num_workers}")


class Pictures(torch.utils.data.Dataset):
    """As torchvision's data sets: an image of PIL an item, transformed by itself."""

    def __init__(self) -> None:
        from torchvision import transforms

        self.images = stored()[:, 0].numpy()
        half = transforms.Normalize(0.5, 0.5)
        flip = transforms.RandomHorizontalFlip()
        self.transform = transforms.Compose([flip, transforms.ToTensor(), half])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index]))


def torchvision() -> Work:
    """Transforms of single images, a DataLoader without workers."""
    return endless(torch.utils.data.DataLoader(Pictures(), BATCH, shuffle=True, drop_last=True))


def tensors() -> Work:
    """A TensorDataset in a DataLoader; mirrored and scaled as a batch."""
    data = torch.utils.data.TensorDataset(stored())
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, drop_last=True)

    def finish(u: torch.Tensor) -> torch.Tensor:
        u = torch.where(torch.rand(len(u), 1, 1, 1) < 0.5, u.flip(-1), u)
        return u.float().div_(127.5).sub_(1)

    return endless(loader, finish)


TARGETS = (
    Target(
        key="data",
        unit="images/s",
        protocol=f"{COUNT:,} grey images of {SIDE}x{SIDE} bytes in memory, shuffled, half of them "
        f"mirrored, as floats in [-1, 1], batch {BATCH}",
        ours=Side("genlab", genlab),
        peers=(
            Side("torchvision, DataLoader", torchvision, "torchvision", "torchvision"),
            Side("TensorDataset, DataLoader", tensors, package="torch"),
        ),
        floor=150_000,
    ),
)
