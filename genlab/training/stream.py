"""The endless stream of draws a run trains on, as a pure function of (seed, position)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from genlab.core.contract import Batch, Codec, Split
from genlab.core.random import DrawNoise, hash64

__all__ = ["Stream"]

ORDER = 1  # keys that keep the random numbers of different uses apart
NOISE = 2


class Stream:
    """Training data as they are stored, in the memory of the device, indexed by the batch.

    They stay in the layout they come in, [N, C, H, W] or its channels_last, so that a memory map
    on a CPU is never copied; a batch is brought into the layout that is asked for. A datum is one
    row here: gathering rows is a copy of memory, gathering planes or pixels is not.

    Position p of the stream is image permutation(seed, epoch)[p mod N] with epoch = p div N; a
    batch may cross the edge of an epoch. A draw is one global batch; micro-batch m of rank r gets
    its own rows of it, so neither worker nor rank nor resume changes what is seen when.
    """

    def __init__(
        self,
        data: Split,
        codec: Codec,
        *,
        seed: int,
        batch: int,
        rank: int,
        micro: tuple[int, int],
        flip: bool,
        device: torch.device,
        channels_last: bool,
        shift: float = 0.0,
    ) -> None:
        """micro: (micro-batches, samples in each); flip: mirror half of the images; shift: move
        them by up to this share of their sides."""
        stored = data.x
        self._n, self._images = len(stored), stored.dtype == torch.uint8 and stored.dim() == 4
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._pixels_last = self._images and not stored.is_contiguous()
        stored = stored.permute(0, 2, 3, 1) if self._pixels_last else stored
        self._stored = stored.shape[1:]
        self._rows = stored.contiguous().flatten(1).to(device)
        self._labels = None if data.y is None else data.y.to(device)
        self._paired = None if data.z is None else data.z.to(device)
        self._codec, self._flip = codec, flip and self._images
        self._shift = shift if self._images else 0.0
        self._seed, self.batch, self._device = seed, batch, device
        self._noise_seed = hash64(seed, NOISE)
        self._count, self._size = micro
        self._first = rank * self._count * self._size
        self._orders: dict[int, Tensor] = {}
        self._generator = torch.Generator(device)
        self._shared: dict[object, Tensor] | None = {} if self._count > 1 else None
        self.draws = 0

    def open(self, start: int) -> list[Iterator[Batch]]:
        """One iterator per micro-batch of the step that begins at position `start`."""
        self.draws = 0
        if self._shared:
            self._shared.clear()
        return [self._micro(start, m) for m in range(self._count)]

    def whole(self) -> Iterator[Batch]:
        """The global batches from position 0 on, undivided, the same on every rank."""
        start = 0
        while True:
            yield self._batch(start, slice(0, self.batch))
            start += self.batch

    def _micro(self, start: int, m: int) -> Iterator[Batch]:
        first = self._first + m * self._size
        rows = slice(first, first + self._size)
        draw = 0
        while True:
            draw += 1
            self.draws = max(self.draws, draw)
            yield self._batch(start, rows)
            start += self.batch

    def _batch(self, start: int, rows: slice) -> Batch:
        noise = DrawNoise(self._noise_seed, start, self.batch, rows, self._generator, self._shared)
        picked = self._picked(start + rows.start, start + rows.stop)
        u = self._rows.index_select(0, picked)
        if self._flip:
            u = self._mirrored(u, noise.uniform() < 0.5)
        u = u.view(-1, *self._stored)
        if self._images:
            u = u.permute(0, 3, 1, 2) if self._pixels_last else u
            u = self._moved(u, noise) if self._shift else u
            u = u.contiguous(memory_format=self._format)
        x = self._codec.encode(u, noise)
        y = None if self._labels is None else self._labels.index_select(0, picked)
        z = None if self._paired is None else self._paired.index_select(0, picked)
        if z is not None and z.dim() == 4:
            z = z.contiguous(memory_format=self._format)
        every = slice(0, self.batch)
        if rows == every:
            return Batch(x, y, noise, z)
        whole = lambda: (self._batch(start, every)._replace(noise=noise.whole()), rows)  # noqa: E731
        return Batch(x, y, noise, z, whole)

    def _mirrored(self, rows: Tensor, which: Tensor) -> Tensor:
        """Rows with the images of `which` mirrored; each is picked from both, a copy of memory."""
        n = len(rows)
        across = 2 if self._pixels_last else 3
        both = torch.cat([rows, rows.view(-1, *self._stored).flip(across).flatten(1)])
        return both.index_select(0, torch.arange(n, device=rows.device) + n * which)

    def _moved(self, u: Tensor, noise: DrawNoise) -> Tensor:
        """u [B, C, H, W] uint8 -> each image moved by up to `shift` H and W pixels.

        Between pixels by linear interpolation, rounded down; what comes in is the edge repeated.
        So the official code of Glow has it of Keras 2.2 (data_loaders/get_mnist_cifar.py).
        """
        x = u.float()
        for axis in (2, 3):
            side = u.shape[axis]
            by = (2 * noise.uniform() - 1) * self._shift * side
            at = (torch.arange(side, device=u.device) + by[:, None]).clamp_(0, side - 1)
            low = at.long()
            shape = [len(u), 1, 1, 1]
            shape[axis] = side
            a, b = (
                x.gather(axis, i.view(shape).expand_as(x))
                for i in (low, (low + 1).clamp_(max=side - 1))
            )
            x = torch.lerp(a, b, (at - low).view(shape))  # of equal numbers it is that number
        return x.byte()

    def _picked(self, low: int, high: int) -> Tensor:
        """Indices of the images at stream positions [low, high)."""
        n = self._n
        parts = []
        while low < high:
            epoch, offset = divmod(low, n)
            length = min(high - low, n - offset)
            parts.append(self._order(epoch)[offset : offset + length])
            low += length
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            for old in [e for e in self._orders if e < epoch - 1]:
                del self._orders[old]
            # on the CPU: the order must not depend on the device
            generator = torch.Generator().manual_seed(hash64(self._seed, ORDER, epoch))
            order = torch.randperm(self._n, generator=generator)
            if self._device.type == "cuda":
                order = order.pin_memory()  # a copy of pageable memory would wait for the device
            self._orders[epoch] = order.to(self._device, non_blocking=True)
        return self._orders[epoch]
