"""Attention between the pixels of a feature map."""

import torch

from genlab.nn.attention import SelfAttention2d
from tests.network.test_sizes_and_starts import awake


def test_attention_against_plain_arithmetic():
    layer = awake(SelfAttention2d(8, head_width=4))
    x = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    qkv = layer.qkv(layer.norm(x).flatten(2).transpose(1, 2))  # [B, T, 3 C]
    mixed = []
    for head in range(2):
        q, k, v = (qkv[..., 8 * i + 4 * head :][..., :4] for i in range(3))
        mixed.append(torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v)
    out = layer.out(torch.cat(mixed, -1)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), x + out, rtol=1e-4, atol=1e-5)


def test_attention_over_pixels_copies_no_map_and_keeps_the_order_of_its_weights():
    layer, seen = awake(SelfAttention2d(8, head_width=4)), []
    layer.norm.register_forward_hook(lambda *of: seen.append(of[-1]))
    layer.qkv.register_forward_pre_hook(lambda *of: seen.append(of[-1][0]))
    x = torch.randn(2, 8, 3, 5).to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    assert seen[0].data_ptr() == seen[1].data_ptr()
    # optimizers of checkpoints know parameters by their place in this list
    kinds = [f"{name}.{kind}" for name in ("norm", "qkv", "out") for kind in ("weight", "bias")]
    assert [name for name, _ in layer.named_parameters()] == kinds
