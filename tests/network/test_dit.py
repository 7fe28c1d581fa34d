"""The diffusion Transformer: patches, starts, positions, backends, and one step of training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genlab.core.contract import Spec
from genlab.nn.patch import patchify, unpatchify
from genlab.sampling.pipeline import Pipeline
from tests.helpers.trainers import run, tiny_config
from tests.network.test_sizes_and_starts import awake, inputs
from tests.network.test_sizes_and_starts import tiny_dit as tiny

KINDS = [
    {},
    {"position": "learned"},
    {"position": "rope", "qk_norm": True},
    {"patch": 1},
    {"patch": 4, "width": 24},
]
SMALL = ["network=dit_small", "network.net.depth=2", "network.net.mlp=2"]


# --- patches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_patches_put_together_are_the_image(patch, layout):
    x = torch.randn(2, 3, 8, 12).to(memory_format=layout)
    tokens = patchify(x, patch)
    assert tokens.shape == (2, (8 // patch) * (12 // patch), 3 * patch**2)
    assert torch.equal(unpatchify(tokens, patch, 8, 12), x)


def test_a_token_is_a_patch_row_by_row():
    x = torch.randn(2, 3, 8, 12)
    tokens = patchify(x, 4)
    for token, (row, column) in enumerate((r, c) for r in (0, 4) for c in (0, 4, 8)):
        patch = x[:, :, row : row + 4, column : column + 4]
        assert torch.equal(tokens[:, token], patch.permute(0, 2, 3, 1).flatten(1))


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS[1:], ids=str)
def test_every_kind_starts_at_zero_and_every_weight_learns(options):
    net = tiny(Spec((3, 8, 8), 3), **options)
    x, t, y = inputs((3, 8, 8))
    assert not net(x, t, y).any()
    awake(net)(x, t, y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (3, 64, 64)], ids=str)
def test_images_of_any_shape(options, shape):
    net = awake(tiny(Spec(shape), **options, depth=1)).eval()
    x, t, _ = inputs(shape, 2)
    out = net(x, t, None)
    assert (out.shape, out.dtype) == (x.shape, torch.float32)
    torch.testing.assert_close(out[:1], net(x[:1], t[:1], None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["sincos", "learned", "rope"])
def test_a_token_knows_its_row_and_its_column(position):
    """Two lit patches that change places, or that lie one above the other, are another image."""
    net = awake(tiny(Spec((1, 8, 8)), position=position)).eval()
    t = torch.tensor([0.5])

    def response(lit: list[tuple[int, int]]) -> Tensor:
        """What comes out at the lit patches, the brighter one first."""
        x = torch.zeros(1, 1, 8, 8)
        for value, (row, column) in enumerate(lit):
            x[0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 2.0 - value
        out = patchify(net(x, t, None), 2)[0]
        return torch.stack([out[4 * row + column] for row, column in lit])

    beside = response([(1, 1), (1, 2)])
    assert not torch.allclose(beside, response([(1, 2), (1, 1)]), atol=1e-3)
    assert not torch.allclose(beside, response([(1, 1), (2, 1)]), atol=1e-3)


def test_times_and_labels_start_as_in_the_paper():
    net = tiny(Spec((1, 8, 8), 200), embedding=128)
    condition = net.condition
    for weight in (condition.time[0].weight, condition.time[2].weight, condition.label.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not condition.time[0].bias.any()
    assert not condition.time[2].bias.any()


def test_what_is_fixed_is_in_no_checkpoint():
    kinds = (tiny(Spec((1, 8, 8)), position=p) for p in ("sincos", "rope"))
    for net in kinds:
        assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


@pytest.mark.parametrize("options", KINDS[:3:2], ids=str)
def test_compiled_whole_and_block_by_block(options):
    net = awake(tiny(Spec((1, 8, 8), 3), **options))
    x, t, y = inputs((1, 8, 8))
    expected = net(x, t, y)
    torch._dynamo.reset()
    whole = torch.compile(net, backend="eager", fullgraph=True)(x, t, y)
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    assert net.compiled_regions() == list(net.blocks)
    for block in net.compiled_regions():
        block.compile(backend="aot_eager", fullgraph=True)
    out = net(x, t, y)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


# --- training it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", ["auto", "none"])
def test_samples_with_and_without_labels(classes):
    words = [*SMALL, f"model.classes={classes}", "sampler.steps=2"]
    built, _ = run(tiny_config("flow_matching", *words), 2)
    y = [0, 1] if classes == "auto" else None
    images = Pipeline(built).draw(y, 0, range(2))
    assert (images.shape, images.dtype) == ((2, 1, 8, 8), torch.uint8)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape", "says"),
    [
        ({}, (2,), "network=mlp and codec=points"),
        ({"patch": 3}, (1, 28, 28), r"patches of 3x3; patch may be 1, 2, 4, 7, 14, 28"),
        ({"patch": 8}, (1, 8, 12), "patch may be 1, 2, 4"),
        ({"head_width": 5}, (1, 8, 8), "head_width that divides them, and 5 does not"),
        ({"position": "rope", "head_width": 2}, (1, 8, 8), "multiple of 4, and 2 is not"),
        ({"width": 6, "head_width": 3}, (1, 8, 8), "multiple of 4, and 6 is not"),
        ({"embedding": 7}, (1, 8, 8), "even, not 7"),
    ],
)
def test_refusals_name_the_fix(options, shape, says):
    with pytest.raises(ValueError, match=says):
        tiny(Spec(shape), **options)
