"""Evaluations on the report: each number with its protocol, beside the expected result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genlab.report.report import write_report
from genlab.run import pictures
from genlab.run.results import results
from tests.helpers.pages import (
    EVIL,
    FEATURES,
    Page,
    evaluate,
    everything,
    expect,
    grid,
    metric,
    result,
    rows,
    section,
    whole,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole(tmp_path)


def test_each_evaluation_is_a_table_and_the_newest_stands_first(run: Path) -> None:
    old = result({"fid": metric({"fid": 21.5}, **FEATURES)}, checkpoint=2000)
    evaluate(run, "zzz", old | {"when": "2026-01-02T03:00:00+00:00"})
    new = result({"fid": metric({"fid": 14.214}, **FEATURES)})
    evaluate(run, "aaa", new)
    first, second = rows(run)
    assert [r[1] for r in (first[2], second[2])] == ["14.21", "21.5"]
    text = section(run, "metrics")
    assert text.index("After 4,000 images") < text.index("After 2,000 images")
    for words in ("weights ema", "sampler heun, steps 18", "NFE 70", "guidance cfg, scale 2"):
        assert words in text


def test_what_belongs_to_a_value_is_no_row_of_its_own(run: Path) -> None:
    found = {
        "fid": metric({"fid": 14.21, "fid_bias": 3.12, "fid_infinity": 11.0}, **FEATURES),
        "kid": metric({"kid": 0.0041, "kid_low": 0.0033, "kid_high": None}, **FEATURES),
        "small": metric({"small": 2.0, "small_bias": 7.0}, **FEATURES),
        "is": metric({"is": None, "is_std": 0.25}, **FEATURES),
        "cover_low": metric({"cover_low": 0.5}, **FEATURES),
    }
    evaluate(run, "a", result(found))
    (table,) = rows(run)
    assert table[0] == ["metric", "value", "took"]
    value = {row[0].split()[0]: row[1] for row in table[2:]}
    assert value == {
        "fid": "14.21 of which about 3.1 is from few samples",
        "fid_infinity": "11",
        "kid": "0.0041 interval 0.0033 to not finite",
        "small": "2 bias by few samples about 7",
        "is": "not finite standard deviation 0.25",
        "cover_low": "0.5",
    }


def test_a_shared_protocol_stands_once_and_what_differs_beside_the_number(run: Path) -> None:
    other = FEATURES | {"features": "small", "features_digest": "0a0a0a0a0a0a"}
    same = FEATURES | {"features_digest": "ffffffffffff"}
    found = {
        "fid": metric({"fid": 1.0}, **FEATURES, infinity=False, split="train"),
        "kid": metric({"kid": 2.0}, **FEATURES, subsets=100, split="train"),
        "mmd": metric({"mmd": 3.0}, **other, subsets=100),
        "swd": metric({"swd": 4.0}, **same),
    }
    evaluate(run, "a", result(found))
    (table,) = rows(run)
    shape = [row[0].split()[0] if len(row) > 1 else "with" for row in table[1:]]
    # a network of another digest is another protocol, even under the same name
    assert shape == ["with", "fid", "kid", "with", "mmd", "with", "swd"]
    assert "images 2,000" in table[1][0] and "split train" in table[1][0]
    assert "infinity" not in table[1][0] and "subsets" not in table[1][0]
    assert table[2][0] == "fid lower is better · infinity false"
    assert table[3][0] == "kid lower is better · subsets 100"
    text = section(run, "metrics")  # and every key is there, the digests too
    for protocol in (FEATURES, other, same):
        for key, value in protocol.items():
            written = f"{value:,}" if isinstance(value, int) else value
            assert f"{key} {written}" in text, key
    assert "code 141dd3a" in text


def test_expected_result_beside_its_metric_and_nowhere_else(run: Path) -> None:
    expect(run)
    found = {"fid": metric({"fid": 11.0}, **FEATURES), "swd": metric({"swd": 13.0}, **FEATURES)}
    evaluate(run, "a", result(found))
    evaluate(run, "b", result({"swd": metric({"swd": 13.0}, **FEATURES)}))
    tables = sorted(rows(run), key=len)
    assert tables[0][0] == ["metric", "value", "took"]
    assert tables[1][0] == ["metric", "value", "expected", "took"]
    beside = "13.0 ± 1.5 after 4,000 images off by -2, which is better"
    assert [row[2] for row in tables[1][2:]] == [beside, ""]


def test_pairs_stand_beside_their_captions_and_the_numbers_in_a_sentence(tmp_path: Path) -> None:
    run = everything(tmp_path)
    page = Page(write_report(run))
    text = section(run, "closest")
    for words in (
        "Of 2,000 samples after 4,000 images: their median distance to the closest training",
        "image is 0.31; that is 0.97 times",
    ):
        assert words in text
    alts = [a["alt"] for a in page.all("img") if str(a["alt"]).startswith("distance")]
    assert alts == [f"distance 0.1{i}: sample {i}" for i in range(5)]
    assert "Not readable" not in page.text


def test_pairs_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    run = everything(tmp_path)
    folder = run / "eval" / "000000004000-a1b2c3" / "nearest"
    (folder / "00.png").unlink()
    (folder / "01.png").write_text("no picture")
    text = section(run, "problems")
    assert "a1b2c3/nearest: 1 of its pictures are not there" in text
    assert "a1b2c3/nearest/01.png" in text
    assert "sample 2" in section(run, "closest")


@pytest.mark.parametrize("name", ["../secret", "..", "n" * 300, "a\0b", ""])
def test_pairs_lead_to_no_other_folder(run: Path, name: str) -> None:
    pictures.save(grid(9), run / "eval" / "secret" / "00.png")
    pictures.save(grid(9), run / "eval" / "00.png")
    evaluate(run, "a", result({name: metric({"x": 1.0}) | {"captions": ["stolen"]}}))
    (found,) = results(run)
    assert found.pairs(name) == []
    Page(write_report(run))


LONG = 10**400


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[" * 5000, '{"format": 1}', '{"format": 2}',
        json.dumps(result({"fid": metric({"fid": LONG})})),
        json.dumps(result({"fid": metric({"fid": EVIL})})),
        json.dumps(result({"fid": metric({"fid": [1]})})),
        json.dumps(result({"fid": {"values": [1], "better": {}, "protocol": {}}})),
        json.dumps(result({"fid": metric({"fid": 1.0}) | {"captions": 7}})),
        json.dumps(result({"fid": metric({"fid": 1.0}) | {"seconds": LONG}})),
        json.dumps({**result({}), "subject": EVIL}),
        json.dumps(result({"fid": metric({"fid": 1.0}, x="y" * 5_000_000)})),
    ],
)  # fmt: skip
def test_a_broken_result_is_named_and_the_others_are_shown(run: Path, text: str) -> None:
    evaluate(run, "good", result({"fid": metric({"fid": 14.21}, **FEATURES)}))
    (evaluate(run, "broken", {}) / "result.json").write_text(text)
    assert "broken/result.json: " in section(run, "problems")
    assert "14.21" in section(run, "metrics")


@pytest.mark.parametrize(
    ("metrics", "subject"),
    [
        ({EVIL: metric({EVIL: 1.0, f"{EVIL}_bias": 0.5}, **{EVIL: EVIL})}, {"weights": EVIL}),
        ({"fid": metric({"fid": float("nan"), "x": float("-inf")})}, {"checkpoint": -1}),
        ({"fid": metric({"fid": 1e308, "fid_low": -1e308}) | {"seconds": -1}}, {}),
        ({"fid": metric({"fid": 1.0}, images=LONG, x=[[[EVIL]]])}, {"checkpoint": LONG}),
        ({"nearest": metric({"nearest": None}, images=EVIL)}, {"sampler": {"name": [EVIL]}}),
        ({"nearest": metric({EVIL: 1.0}) | {"captions": [EVIL] * 3000}}, {"checkpoint": True}),
        ({f"m{i}": metric({f"v{i}": 1.0}, k=i) for i in range(5000)}, {"x": {"y": EVIL}}),
        ({"fid": metric({"fid": 1.0}, **{f"k{i}": EVIL for i in range(5000)})}, {}),
        ({}, {"run": "\ud800"}),
    ],
)
def test_a_foreign_result_is_only_text(run: Path, metrics: dict, subject: dict) -> None:
    expect(run, metric=next(iter(next(iter(metrics.values()))["values"])) if metrics else None)
    folder = evaluate(run, "x", result(metrics, **subject) | {"when": EVIL})
    for i in range(30):
        pictures.save(grid(i), folder / "nearest" / f"{i:02d}.png")
    page = Page(write_report(run))
    page.assert_harmless()
    assert len(page.html) < 400_000
    assert "Metrics" in page.text


def test_many_evaluations_make_no_endless_page(run: Path) -> None:
    for i in range(60):
        found = result({"fid": metric({"fid": float(i)}, **FEATURES)})
        evaluate(run, f"{i:06d}", found | {"when": f"2026-01-02T04:00:{i:02d}+00:00"})
    tables = rows(run)
    assert [t[2][1] for t in tables] == [str(i) for i in range(59, 35, -1)]
    assert "36 older ones are in eval/" in section(run, "metrics")
