"""A journal as a report reads it, short or long."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from genlab.report import journal
from genlab.report.curves import chart
from genlab.report.journal import Series, read_journal


def written(folder: Path, text: str) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text(text)
    return path


@pytest.mark.parametrize("block", [30, 1_000_000])
def test_lines_are_read_as_one_by_one(tmp_path: Path, monkeypatch, block: int) -> None:
    """Whatever the blocks: what is no line of numbers is left out, torn or on two lines."""
    monkeypatch.setattr(journal, "BLOCK", block)
    rows = [
        '{"images": 1, "loss/d": 1.5, "text": "x", "on": true}',
        '{"images": 2, "loss/g": null, "loss/d": 2}',
        "[1",
        "2]",
        '{"images": 3, "loss/d": [4]}',
        '{"images": -3, "loss/d": 4}',
        '{"images": 4, "loss/g": NaN, "heldout/loss": 7}',
        '{"images": 5}, {"images": 6}',
        "",
        '{"images": 7, "loss/g": 1e400, "loss/d": 10000000000000000000000}',
        '{"images": 8, "loss/d": 5, "spike/loss/d": 5.0}',
        '{"images": 9, "lo',
    ]
    problems: list[str] = []
    found = read_journal(written(tmp_path, "\n".join(rows)), problems)
    d, g = found.series("loss/d"), found.series("loss/g")
    assert d.images.tolist() == [1, 2, 7, 8] and d.values.tolist() == [1.5, 2, 1e22, 5]
    assert g.images.tolist() == [2, 4, 7] and not np.isfinite(g.values).any()
    assert found.series("heldout/loss").images.tolist() == [4]
    assert {"text", "on"}.isdisjoint(found.names) and found.last("images") == 8
    assert [row["images"] for row in found.spiked] == [8]
    assert list(found.backwards(["loss/g", "loss/d"]))[:2] == [
        (8, "loss/d", 5),
        (7, "loss/d", 1e22),
    ]
    assert problems == ["metrics.jsonl: 5 lines are not readable and were left out"]


def test_a_long_curve_keeps_its_spikes_its_mean_and_its_gaps(tmp_path: Path) -> None:
    n = 60_000
    values = np.random.default_rng(0).exponential(size=n)  # skewed: no mean of low and high
    values[[12_345, 50_001]] = 500.0, -500.0
    values[20_000:20_010] = math.nan
    lines = (f'{{"images": {i}, "loss/net": {json.dumps(v)}}}' for i, v in enumerate(values))
    found = read_journal(written(tmp_path, "\n".join(lines)), []).series("loss/net")
    assert len(found.values) < 0.4 * n and found.not_usable == 10
    kept = dict(zip(found.images.tolist(), found.values.tolist(), strict=True))
    assert kept[12_345] == 500.0 and kept[50_001] == -500.0
    assert kept[0] == values[0] and kept[n - 1] == values[-1]
    assert all(math.isnan(v) or v == values[int(i)] for i, v in kept.items())
    assert found.means is not None
    middle = slice(len(found.means) // 2, None)
    assert np.mean(found.means[middle]) == pytest.approx(1.0, abs=0.03)
    svg = str(chart(found))
    assert "not finite 10 times" in svg and 'class="bad"' in svg


def test_a_journal_takes_the_room_of_its_numbers(tmp_path: Path, monkeypatch) -> None:
    """Eight bytes each, not a dictionary a line; text is there a block at a time."""
    monkeypatch.setattr(journal, "BLOCK", 50_000)
    line = {f"value/{i}": i + 0.123456789012345 for i in range(10)}
    text = "".join(json.dumps({"images": i, **line}) + "\n" for i in range(5_000))
    path = written(tmp_path, text)
    del text
    tracemalloc.start()
    found = read_journal(path, [])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.last("value/9") == line["value/9"]
    assert kept < 1.5 * 8 * 11 * 5_000
    assert peak < kept + 12 * journal.BLOCK


def test_a_single_held_out_value_is_a_dot() -> None:
    images = np.arange(3.0)
    svg = str(
        chart(Series("loss/net", images, images), Series("heldout/loss", images[:1], images[1:2]))
    )
    assert 'class="also point"' in svg
