"""The Transformer over tokens learns under every mask, and goes on under another."""

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


def texts(step, rows=16, part=TEXT[:CUT]):
    """[rows, LONG] bytes from random places."""
    g = torch.Generator().manual_seed(step)
    start = torch.randint(len(part) - LONG + 1, (rows, 1), generator=g)
    return part[start + torch.arange(LONG)]


def shown(kind, rows, step):
    """(mask, places that are predicted, bool [rows, LONG] of what is asked for)."""
    g = torch.Generator().manual_seed(1000 + step)
    if kind == "streams":
        order = torch.rand(rows, LONG, generator=g).argsort(1)
        targets = order >= LONG // 2
        return MaskSpec.permuted(order, targets, stream="both"), targets
    known = {"causal": 1, "prefix": LONG // 2}.get(kind)
    if known:
        asked = torch.arange(LONG).expand(rows, -1) >= known
        return MaskSpec.prefix(known, LONG), asked
    asked = torch.rand(rows, LONG, generator=g) < 0.3
    asked[:, 0] = False
    return MaskSpec.bidirectional(LONG), asked


def bits(net, kind, x, step):
    """Mean bits for each byte that is asked for."""
    mask, asked = shown(kind, len(x), step)
    given = x.masked_fill(asked, net.mask_token) if kind == "masked" else x
    logits = net(given, mask)
    if kind != "streams":  # there the logits at a place are of the byte after it
        logits, x, asked = logits[:, :-1], x[:, 1:], asked[:, 1:]
    nats = F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none")
    return (nats * asked.flatten()).sum() / asked.sum() / math.log(2)


def trained(net, kind, steps, start=0, part=TEXT[:CUT]):
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for step in range(start, start + steps):
        optimizer.zero_grad()
        bits(net, kind, texts(step, part=part), step).backward()
        optimizer.step()
    return net


@torch.no_grad()
def held_out(net, kind):
    return bits(net, kind, texts(-1, 256, TEXT[CUT:]), -1).item()


def fresh():
    return gpt(LONG, 256, scale=1.0, width=64, head_width=16)


def bits_of_frequencies():
    """Bits for each held-out byte by who knows how often each occurs, and nothing before it."""
    counts = TEXT[:CUT].bincount(minlength=256) + 1.0
    return -(counts / counts.sum()).log2()[TEXT[CUT:]].mean().item()


@pytest.mark.parametrize("kind", ["causal", "prefix", "streams"])
def test_held_out_bytes_are_predicted_better_under_every_mask(kind):
    net = fresh()
    layout = {n: t.shape for n, t in net.state_dict().items()}
    assert held_out(net, kind) == pytest.approx(8, abs=0.3), "a uniform guess among 256"
    assert held_out(trained(net, kind, 200), kind) < bits_of_frequencies()
    assert {n: t.shape for n, t in net.state_dict().items()} == layout


def test_what_masked_tokens_taught_is_there_under_a_prefix_mask():
    """Against one that was taught as long the same bytes in a random order, and one untaught."""
    steps, more = 300, 50
    order = torch.randperm(CUT, generator=torch.Generator().manual_seed(0))
    taught = trained(fresh(), "masked", steps)
    control = trained(fresh(), "masked", steps, part=TEXT[:CUT][order])
    assert held_out(taught, "prefix") < bits_of_frequencies()
    after = [
        held_out(trained(net, "prefix", more, start=steps), "prefix")
        for net in (taught, control, fresh())
    ]
    assert after[0] < min(after[1:])
