"""The shipped network for small grey images: whole, as good as it says, and in order."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from genlab.core.contract import Spec
from genlab.core.errors import DataError
from genlab.data.mnist import FashionMNIST
from genlab.features import small
from genlab.features.small import FILE, Classifier, Small, canvas
from genlab.metric.fid import Moments, frechet

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import train_features

SPEC = Spec((1, 28, 28), 10)


def fashion(split, n=None):
    try:
        data = FashionMNIST("data", size=None, flip=False, shift=0.0, download=False)
    except DataError as e:
        pytest.skip(str(e))
    u, y, _ = data.load(split)
    return u[:n], y[:n]


def pool(u, network=None):
    network = network or Small(SPEC)
    return torch.cat([network(part)["pool"] for part in u.split(500)])


def test_the_shipped_file_is_the_one_that_was_trained():
    network = Small(SPEC)
    assert network.digest == "3f6c93bfb83b"
    assert FILE.stat().st_size < 2**20
    assert dict(network.outputs) == {"pool": 128, "logits": 10}
    out = network(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    assert {n: (t.dtype, tuple(t.shape)) for n, t in out.items()} == {
        "pool": (torch.float32, (2, 128)),
        "logits": (torch.float32, (2, 10)),
    }


def test_its_accuracy_is_the_one_in_its_metadata():
    images, labels = fashion("test")
    with safe_open(FILE, "pt") as f:
        said = float(f.metadata()["accuracy"])
    assert said >= 0.92
    network = Small(SPEC)
    right = torch.cat([network(part)["logits"].argmax(1) for part in images.split(500)]) == labels
    # another order of sums may tip the one image in 10,000 that lies between two classes
    assert float(right.float().mean()) == pytest.approx(said, abs=2e-4)


def test_distances_order_what_a_person_would_order():
    images, _ = fashion("test", 2000)
    halves = [Moments(pool(half)) for half in images.chunk(2)]
    x = images[1000:].float()
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(256, images[1000:].shape, generator=g, dtype=torch.uint8)
    worse = {
        "blurred": F.avg_pool2d(x, 3, 1, 1).round().byte(),
        "twice": F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1), 3, 1, 1).round().byte(),
        "noise": noise,
    }
    found = [frechet(*halves)] + [frechet(halves[0], Moments(pool(u))) for u in worse.values()]
    assert found == sorted(found)
    assert found[1] > 2 * found[0]


def test_two_thousand_images_have_a_covariance_of_full_rank():
    images, _ = fashion("test", 2000)
    for u in (images, 255 - images, images // 4):
        eigenvalues = torch.linalg.eigvalsh(torch.cov(pool(u).T.double()))
        assert eigenvalues[0] > 1e-10 * eigenvalues[-1]


@pytest.mark.parametrize(
    ("h", "w", "place"),
    [(28, 28, (2, 30, 2, 30)), (32, 32, (0, 32, 0, 32)), (30, 29, (1, 31, 1, 30))],
)
def test_images_lie_in_the_middle_of_zeros(h, w, place):
    u = torch.randint(1, 256, (2, 1, h, w), dtype=torch.uint8)
    top, bottom, left, right = place
    wanted = torch.zeros(2, 1, 32, 32)
    wanted[..., top:bottom, left:right] = u / 255
    assert torch.equal(canvas(u), wanted)


def test_smaller_images_are_enlarged():
    u = torch.full((1, 1, 8, 4), 200, dtype=torch.uint8)
    wanted = torch.zeros(1, 1, 32, 32)
    wanted[..., 2:30, 9:23] = 200 / 255
    torch.testing.assert_close(canvas(u), wanted)


def test_rows_of_a_batch_do_not_influence_each_other():
    g = torch.Generator().manual_seed(0)
    u = torch.randint(256, (7, 1, 28, 28), generator=g, dtype=torch.uint8)
    network = Small(SPEC, torch.device("cpu"))
    parts = torch.cat([network(part)["pool"] for part in u.flip(0).split(2)]).flip(0)
    torch.testing.assert_close(network(u)["pool"], parts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 28, 33), (1, 64, 64), (2,)])
def test_other_data_are_sent_elsewhere(shape):
    with pytest.raises(ValueError, match=r"one-channel images of at most 32.*features=inception"):
        Small(Spec(shape))


def test_a_damaged_file_is_said(tmp_path, monkeypatch):
    bad = tmp_path / "small.safetensors"
    bad.write_bytes(FILE.read_bytes()[:-5000])
    monkeypatch.setattr(small, "FILE", bad)
    with pytest.raises(DataError, match="cannot be read"):
        Small(SPEC)


def test_equal_seeds_train_equal_networks():
    images, labels = fashion("train", 600)
    twice = []
    for _ in range(2):
        torch.manual_seed(3)
        twice.append(train_features.train(images, labels, 1))
    a, b = (net.state_dict() for net in twice)
    assert all(torch.equal(a[n], b[n]) for n in a)
    torch.manual_seed(3)
    assert not torch.equal(a["head.weight"], Classifier().state_dict()["head.weight"])
    assert not twice[0].training


def test_shifts_keep_the_image_and_reach_every_place():
    torch.manual_seed(0)
    image = torch.randint(1, 256, (1, 1, 28, 28), dtype=torch.uint8)
    wide = F.pad(canvas(image), (train_features.SHIFT,) * 4).expand(200, -1, -1, -1)
    found = {tuple(x.flatten().tolist()) for x in train_features.shifted(wide)}
    s = train_features.SHIFT
    wanted = {
        tuple(torch.roll(canvas(image)[0], (i, j), (1, 2)).flatten().tolist())
        for i in range(-s, s + 1)
        for j in range(-s, s + 1)
    }
    assert found == wanted
