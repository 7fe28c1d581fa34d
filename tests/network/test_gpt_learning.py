"""The Transformer over tokens learns under every mask."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from genlab.kernel.mask import MaskSpec
from tests.network.test_gpt import gpt

# a page of prose and code that stays what it is: README.md once, which changes
TEXT = torch.tensor(list((Path(__file__).parent / "page.txt").read_bytes()))
CUT = len(TEXT) * 7 // 8  # what follows is held out
LONG = 48


def texts(part, rows, seed):
    """[rows, LONG] bytes from random places."""
    g = torch.Generator().manual_seed(seed)
    start = torch.randint(len(part) - LONG + 1, (rows, 1), generator=g)
    return part[start + torch.arange(LONG)]


def bits(net, kind, x, seed):
    """Mean bits for each byte that is asked for: all but the first, or those behind a half."""
    if kind == "streams":
        order = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
        asked = order >= LONG // 2
        logits = net(x, MaskSpec.permuted(order, asked, stream="both"))
    else:  # the logits at a place are of the byte after it
        known = {"causal": 1, "prefix": LONG // 2}[kind]
        logits, x = net(x, MaskSpec.prefix(known, LONG))[:, known - 1 : -1], x[:, known:]
        asked = torch.ones_like(x, dtype=torch.bool)
    return F.cross_entropy(logits[asked], x[asked]) / math.log(2)


@pytest.mark.parametrize("kind", ["causal", "prefix", "streams"])
def test_held_out_bytes_are_predicted_better_than_by_their_frequencies(kind):
    net = gpt(LONG, 256, scale=1.0, width=64, head_width=16)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)

    @torch.no_grad()
    def held_out():
        return bits(net, kind, texts(TEXT[CUT:], 256, -1), -1).item()

    assert held_out() == pytest.approx(8, abs=0.3), "a uniform guess among 256"
    for step in range(200):
        optimizer.zero_grad()
        bits(net, kind, texts(TEXT[:CUT], 16, step), step).backward()
        optimizer.step()
    counts = TEXT[:CUT].bincount(minlength=256) + 1.0
    assert held_out() < -(counts / counts.sum()).log2()[TEXT[CUT:]].mean()
