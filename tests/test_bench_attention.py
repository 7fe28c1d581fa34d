"""The timing of attention: the work it counts, what it holds against a target, its picture."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from attending import cases, cuda, picture

N = 1536  # more than the rows counted at a time
SEEN = {
    "full": N * N,
    "causal": N * N / 2,
    "prefix": (N // 4) ** 2 + sum(range(N // 4 + 1, N + 1)),
    "permuted": N * (N + 1) / 2,
    "window": sum(min(i, cases.WINDOW + 1) for i in range(1, N + 1)),
    "packed": sum(n * (n + 1) / 2 for n in (N // 2, N // 4, N // 8, N // 8)),
    "padded": sum(min(i, N * 7 // 8) for i in range(1, N + 1)),
}


@pytest.mark.parametrize("kind", cases.KINDS)
def test_work_is_that_of_the_pairs_that_see_each_other(kind):
    mask = cases.mask(kind, N)
    assert cases.live(mask) * N * N == pytest.approx(SEEN[kind])
    # q k^T and P v, a multiplication and an addition each
    forward = 2 * 2 * 3 * 5 * SEEN[kind] * 64
    assert cases.operations(3, 5, mask, 64) == pytest.approx(forward)
    assert cases.operations(3, 5, mask, 64, backward=True) == pytest.approx(2.5 * forward)


def row(mask, length, ours, way="forward", **others):
    rates = others if ours is None else {cuda.OURS: ours, **others}
    return {"mask": mask, "length": length, "width": 64, "pass": way, "tflops": rates}


def test_a_target_is_judged_where_it_is_missed_most():
    rows = [
        row("full", 512, 10.0, flash=500.0),  # short sequences do not count
        row("full", 4096, 360.0, flash=300.0, cudnn=400.0),
        row("full", 8192, 340.0, flash=300.0),
        row("causal", 4096, 300.0, flash=250.0),  # 0.833 of full
        row("causal", 8192, 255.0, flash=250.0),  # 0.75 of full, though faster than 0.8 of 4096's
        row("prefix", 4096, 250.0, flex=200.0, sdpa=100.0),
        row("packed", 4096, 250.0),
        row("permuted", 4096, None, flex=200.0),
    ]
    found = {line[0]: line[1:] for line in cuda.judged(rows)}
    assert found.keys() == {
        "forward, D 64",
        "causal forward, D 64",
        "prefix forward, D 64",
        "packed forward, D 64",
    }
    assert found["forward, D 64"] == (
        8192,
        ">= 350 TFLOP/s",
        "flash",
        300.0,
        340.0,
        340 / 300,
        False,
    )
    length, *_, met = found["causal forward, D 64"]
    assert (length, met) == (8192, False)
    assert found["prefix forward, D 64"][2:] == ("flex", 200.0, 250.0, 1.25, True)
    assert found["packed forward, D 64"][2:] == ("none", None, 250.0, None, None)


def test_masks_of_the_default_run_are_those_asked_for():
    from bench_attention import MASKS

    assert set(MASKS["cuda"]) | set(MASKS["cpu"]) == set(cases.KINDS)
    order = cases.mask("permuted", 64)
    assert torch.equal(order.rank_q, cases.mask("permuted", 64).rank_q)


def test_the_picture_has_a_line_for_each_side():
    panels = {
        "a < b": {"x": {512: 1.0, 1024: 2.0}, "y": {512: 4.0}},
        "other": {"x": {512: 3.0}},
    }
    drawn = ElementTree.fromstring(picture.draw(panels, "TFLOP/s"))
    name = "{http://www.w3.org/2000/svg}"
    texts = [t.text for t in drawn.iter(f"{name}text")]
    assert {"a < b", "other", "x", "y", "512", "1k", "TFLOP/s"} <= set(texts)
    assert len(list(drawn.iter(f"{name}circle"))) == 4
    first = next(iter(drawn.iter(f"{name}g")))
    places = {float(c.get("cx")): float(c.get("cy")) for c in first.iter(f"{name}circle")}
    ours, theirs = (
        [float(c.get("cy")) for c in first.iter(f"{name}circle") if float(c.get("cx")) == x]
        for x in (min(places), max(places))
    )
    zero = picture.FOOT
    # heights over the foot are as the values are: 1, 4 and 2
    assert [(zero - y) / (zero - ours[0]) for y in ours + theirs] == pytest.approx(
        [1, 4, 2], rel=0.02
    )
