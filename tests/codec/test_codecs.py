"""The codecs: exact round trips, log-determinants by autograd, refusals."""

from __future__ import annotations

import pytest
import torch

from genlab.codec.pixels import Pixels
from genlab.codec.points import Points
from genlab.core.contract import Spec
from genlab.core.errors import ConfigError


def test_every_byte_survives_the_pixels():
    u = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    codec = Pixels(Spec((1, 16, 16)))
    x = codec.encode(u, None)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert codec.logdet(x) is None
    assert torch.equal(codec.decode(x), u)


def test_pixels_round_to_the_nearest_byte_and_clamp():
    x = torch.tensor([-1.2, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.01]).view(1, 1, 2, 2)
    assert Pixels(Spec((1, 2, 2))).decode(x).flatten().tolist() == [0, 0, 1, 255]


def test_pixels_keep_the_layout():
    u = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=torch.channels_last)
    x = Pixels(Spec((3, 4, 4))).encode(u, None)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_decode_leaves_its_input_alone():
    x = torch.rand(1, 1, 2, 2)
    before = x.clone()
    Pixels(Spec((1, 2, 2))).decode(x)
    assert torch.equal(x, before)


def test_points_come_back_and_have_the_density_of_autograd():
    codec = Points(Spec((2,)), scale=2.5)
    u = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    x = codec.encode(u, None)
    torch.testing.assert_close(codec.decode(x), u)
    torch.testing.assert_close(x * 2.5, u)
    jacobian = torch.autograd.functional.jacobian(lambda v: codec.encode(v[None], None)[0], u[0])
    torch.testing.assert_close(codec.logdet(x), torch.linalg.slogdet(jacobian)[1].expand(7))


def test_the_codecs_name_each_other():
    with pytest.raises(ValueError, match="codec=points"):
        Pixels(Spec((2,)))
    with pytest.raises(ValueError, match="codec=pixels"):
        Points(Spec((1, 8, 8)), scale=1.0)
    with pytest.raises(ConfigError, match="codec=points"):
        Pixels(Spec((1, 2, 2))).encode(torch.rand(1, 1, 2, 2), None)
    with pytest.raises(ConfigError, match="codec=pixels"):
        Points(Spec((2,)), scale=1.0).encode(torch.zeros(3, 2, dtype=torch.uint8), None)


@pytest.mark.parametrize("shape", [(1, 8, 8), (12,)])
def test_tokens_are_neither_images_nor_points(shape):
    tokens = Spec(shape, vocabulary=7)
    for codec in (lambda: Pixels(tokens), lambda: Points(tokens, scale=1.0)):
        with pytest.raises(ValueError, match="not tokens of shape"):
            codec()
