"""The stream of draws: every image once an epoch, the same for every rank, batch and resume."""

import pytest
import torch
from scipy import ndimage

from genlab.codec.points import Points
from genlab.core.contract import Spec, Split
from genlab.core.random import DrawNoise, SampleNoise, hash64
from genlab.training.stream import Stream

N = 10
DATA = torch.arange(N, dtype=torch.float32)[:, None].expand(N, 2).contiguous()


def stream(
    batch=4, rank=0, micro=(1, 4), seed=0, data=DATA, labels=None, flip=False, codec=None, **keys
):
    return Stream(
        Split(data, labels),
        codec or Points(Spec((2,)), scale=1.0),
        seed=seed,
        batch=batch,
        rank=rank,
        micro=micro,
        flip=flip,
        device=torch.device("cpu"),
        channels_last=False,
        **keys,
    )


def drawn(s, start, draws=1):
    """Images of `draws` draws of one step, micro-batches side by side."""
    out = []
    micros = s.open(start)
    for _ in range(draws):
        out += [next(m).x[:, 0] for m in micros]
    return torch.cat(out).int().tolist()


def test_every_image_once_an_epoch_and_another_order_in_the_next():
    s = stream(batch=5, micro=(1, 5))
    first, second = drawn(s, 0) + drawn(s, 5), drawn(s, 10) + drawn(s, 15)
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second
    assert first != drawn(stream(batch=5, micro=(1, 5), seed=1), 0, 2)


def test_a_batch_may_cross_epochs_and_position_is_all_that_counts():
    one_by_one = [drawn(stream(batch=1, micro=(1, 1)), p)[0] for p in range(24)]
    s = stream()
    assert [i for start in range(0, 24, 4) for i in drawn(s, start)] == one_by_one
    assert drawn(stream(), 16) == one_by_one[16:20], "a resumed stream goes on where it was"


def test_ranks_and_micro_batches_cut_the_same_batch():
    whole = drawn(stream(batch=8, micro=(1, 8)), 8)
    assert drawn(stream(batch=8, micro=(4, 2)), 8) == whole
    parts = [drawn(stream(batch=8, rank=r, micro=(2, 2)), 8) for r in (0, 1)]
    assert parts[0] + parts[1] == whole


def test_several_draws_of_a_step_are_fresh_and_counted():
    s = stream()
    assert drawn(s, 0, draws=2) == drawn(stream(), 0) + drawn(stream(), 4)
    assert s.draws == 2
    s.open(8)
    assert s.draws == 0


def test_labels_stay_with_their_images():
    s = stream(labels=torch.arange(N))
    (micro,) = s.open(0)
    batch = next(micro)
    assert torch.equal(batch.y, batch.x[:, 0].long())


def test_flips_belong_to_a_position():
    image = torch.arange(4, dtype=torch.uint8).view(1, 1, 1, 4).expand(64, 1, 1, 4)

    class Raw:
        spec = Spec((1, 1, 4))

        def encode(self, u, noise):
            return u.float()

    def run(micro, rank=0):
        s = stream(batch=64, rank=rank, micro=micro, data=image, flip=True, codec=Raw())
        return torch.cat([next(m).x for m in s.open(64)])

    whole = run((1, 64))
    flipped = whole[:, 0, 0, 0] == 3
    assert 15 < flipped.sum() < 49
    assert torch.equal(whole[flipped], image[flipped].flip(-1).float())
    assert torch.equal(run((4, 16)), whole)
    assert torch.equal(torch.cat([run((2, 16), 0), run((2, 16), 1)]), whole)


class Bytes:
    """A codec that leaves what it is given."""

    spec = Spec((3, 20, 30))

    def encode(self, u, noise):
        return u


def test_shifts_are_those_of_keras():
    """As its ImageDataGenerator makes them with scipy, rounded down; edges repeat."""
    u = torch.randint(0, 256, (16, 3, 20, 30), generator=torch.Generator().manual_seed(0)).byte()
    u[0] = 77
    pixels_last = u.contiguous(memory_format=torch.channels_last)
    (micro,) = stream(16, 0, (1, 16), 3, u, torch.arange(16), codec=Bytes(), shift=0.1).open(16)
    moved = next(micro)
    noise = DrawNoise(hash64(3, 2), 16, 16, slice(0, 16), torch.Generator(), None)
    down, right = (side * (0.2 * noise.uniform().double() - 0.1) for side in (20, 30))
    assert 1.5 < down.abs().max() < 2
    assert 2 < right.abs().max() < 3
    differ = 0
    for i, image in enumerate(u[moved.y]):
        offset = [down[i], right[i]]
        for c, plane in enumerate(image.numpy().astype("float32")):
            theirs = ndimage.affine_transform(plane, [1, 1], offset, order=1, mode="nearest")
            gap = moved.x[i, c].int() - torch.from_numpy(theirs.astype("uint8")).int()
            assert gap.abs().max() <= 1, "a whole number may be missed by a rounding"
            differ += int((gap != 0).sum())
    assert differ < 20
    assert (moved.x[moved.y == 0] == 77).all()
    other = stream(16, 0, (1, 16), 3, pixels_last, codec=Bytes(), shift=0.1).open(16)
    assert torch.equal(next(other[0]).x, moved.x)
    parts = [stream(16, r, (2, 4), 3, u, codec=Bytes(), shift=0.1).open(16) for r in (0, 1)]
    assert torch.equal(torch.cat([next(m).x for both in parts for m in both]), moved.x)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_is_the_same_whatever_layout_the_data_lie_in(channels_last):
    planes = torch.randint(0, 256, (20, 3, 4, 5), dtype=torch.uint8)
    pixels = planes.contiguous(memory_format=torch.channels_last)

    class Raw:
        spec = Spec((3, 4, 5))

        def encode(self, u, noise):
            return u.float()

    def run(data, flip):
        s = Stream(
            Split(data, torch.arange(20)),
            Raw(),
            seed=3,
            batch=16,
            rank=0,
            micro=(1, 16),
            flip=flip,
            device=torch.device("cpu"),
            channels_last=channels_last,
        )
        return next(s.open(16)[0])

    wanted = torch.channels_last if channels_last else torch.contiguous_format
    for data in (planes, pixels):
        plain, flipped = run(data, False), run(data, True)
        assert torch.equal(plain.x, planes[plain.y].float())
        mirrored = DrawNoise(hash64(3, 2), 16, 16, slice(0, 16), torch.Generator(), None)
        which = mirrored.uniform(1, 1, 1) < 0.5
        assert torch.equal(flipped.x, torch.where(which, plain.x.flip(-1), plain.x))
        assert flipped.x.is_contiguous(memory_format=wanted)


def noise(rows, start=0, total=6, shared=None, seed=0):
    return DrawNoise(seed, start, total, slice(*rows), torch.Generator(), shared)


def test_noise_is_cut_from_one_draw():
    whole = noise((0, 6))
    a, b = whole.normal(2), whole.uniform()
    shared = {}
    parts = [noise((0, 4), shared=shared), noise((4, 6), shared=shared)]
    assert torch.equal(torch.cat([p.normal(2) for p in parts]), a)
    assert torch.equal(torch.cat([p.uniform() for p in parts]), b)
    assert len(shared) == 2, "micro-batches draw once for all"


def test_noise_differs_by_call_position_and_seed():
    a = noise((0, 6))
    first, second = a.normal(3), a.normal(3)
    others = [noise((0, 6), start=6).normal(3), noise((0, 6), seed=1).normal(3)]
    for other in (second, *others):
        assert not torch.isclose(first, other).any()


def test_sample_noise_is_a_function_of_the_index():
    whole = SampleNoise(7, range(5), "cpu").normal(3)
    part = SampleNoise(7, range(2, 4), "cpu").normal(3)
    assert torch.equal(whole[2:4], part)
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("width", [1, 2, 3])
def test_hash_tells_neighbours_apart(width):
    grid = range(-8, 24) if width < 3 else range(12)
    keys = [()]
    for _ in range(width):
        keys = [(*k, i) for k in keys for i in grid]
    values = {hash64(*k) for k in keys}
    assert len(values) == len(keys)
    assert all(0 <= v < 1 << 63 for v in values)
    ones = sum(v.bit_count() for v in values) / len(values)
    assert abs(ones - 31.5) < 0.8, "bits are even"


def test_the_look_before_the_first_step_is_at_the_first_batches():
    for rank, micro in ((0, (1, 8)), (1, (2, 2))):
        s = stream(batch=8, rank=rank, micro=micro)
        look = s.whole()
        seen = [next(look).x[:, 0].int().tolist() for _ in range(2)]
        assert seen == [drawn(stream(batch=8, micro=(1, 8)), p) for p in (0, 8)]
