"""How images reach a network of others: resampled, normalized, grey ones repeated."""

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.nn.preprocess import IMAGENET, Preprocess


def images(n, c, h=20, w=20):
    g = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, c, h, w), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("h", "w", "size"), [(20, 20, 45), (64, 64, 30), (250, 250, 224), (48, 64, 30)]
)
def test_resizing_is_that_of_pillow_to_rounding(h, w, size):
    u = images(2, 3, h, w)
    preprocess = Preprocess(size, (0, 0, 0), (1, 1, 1))
    found = preprocess(u) * 255
    assert torch.equal(found, found.round())
    for x, y in zip(u, found, strict=True):
        picture = Image.fromarray(x.permute(1, 2, 0).numpy())
        theirs = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
        gap = np.abs(theirs.astype(int) - y.permute(1, 2, 0).numpy())
        assert gap.max() <= 2
        assert gap.mean() < 0.1


def test_colours_are_normalized_and_grey_is_repeated():
    mean, std = IMAGENET
    preprocess = Preprocess(20, mean, std)
    u = images(2, 1)
    wanted = torch.stack([(u[:, 0] / 255 - m) / s for m, s in zip(mean, std, strict=True)], 1)
    torch.testing.assert_close(preprocess(u), wanted)
    torch.testing.assert_close(preprocess(u.expand(-1, 3, -1, -1)), wanted)
