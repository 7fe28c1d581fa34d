"""A promise beside what was measured: which number is held against it, and when by a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlab.report.report import write_report
from tests.helpers.pages import (
    FEATURES,
    evaluate,
    expect,
    metric,
    result,
    rows,
    section,
    whole,
    write_journal,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole(tmp_path)


def test_promise_takes_an_evaluation_at_the_promised_images_first(run: Path) -> None:
    expect(run)
    write_journal(run, [{"images": 4000, "metric/fid": 30.0}])
    off = "30 after 4,000 images: +17 from the expected value, but measured by a protocol that is"
    assert off in section(run, "expected")
    late = result({"fid": metric({"fid": 9.0}, **FEATURES)}, checkpoint=9000)
    evaluate(run, "late", late | {"when": "2026-02-02T03:00:00+00:00"})
    assert "30 after 4,000 images" in section(run, "expected")  # it is at the promised number
    for name, checkpoint, value, day in (
        ("older", 4000, 15.0, 1), ("near", 4030, 14.0, 3), ("far", 4100, 8.0, 4)
    ):  # fmt: skip
        found = result({"fid": metric({"fid": value}, **FEATURES)}, checkpoint=checkpoint)
        evaluate(run, name, found | {"when": f"2026-01-0{day}T03:00:00+00:00"})
    text = section(run, "expected")
    assert "14 after 4,030 images: as expected found in evaluation near" in text
    for words in ("FID of 2,000 samples", "features inception", "sampler heun, steps 18"):
        assert words in text  # both protocols, for a reader to compare


def test_promise_takes_the_newest_where_none_is_at_its_images(run: Path) -> None:
    expect(run, images=90_000)
    write_journal(run, [{"images": 40, "metric/fid": 30.0}])
    evaluate(run, "a", result({"fid": metric({"fid": None}, **FEATURES)}))
    assert "not finite after 4,000 images found in evaluation a" in section(run, "expected")


def test_promise_of_the_journal_has_the_protocol_of_evaluations_while_training(run: Path) -> None:
    expect(run, images=80)
    write_journal(run, [{"images": 80, "metric/fid": 10.0}, {"images": 120, "metric/fid": 9.0}])
    evaluate(run, "training", result({"fid": metric({"fid": 9.0}, **FEATURES)}, checkpoint=120))
    text = section(run, "expected")
    assert "10 after 80 images: off by -3, which is better found in journal" in text
    assert "features inception" in text


INCEPTION = "FID of {} samples by Inception features against the train split"


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        (INCEPTION.format("50,000"), True),
        (INCEPTION.format("50000"), True),
        (INCEPTION.format("50_000"), True),
        (INCEPTION.format("50k"), True),
        (INCEPTION.format("150,000"), False),
        (INCEPTION.format("50"), False),
        ("FID of 50,000 samples", False),
        ("FID of 50,000 samples by features=small", False),
        (None, False),
    ],
)
def test_a_verdict_on_samples_asks_that_the_promise_names_how(
    run: Path, text: str | None, judged: bool
) -> None:
    expect(run, protocol=text)
    how = FEATURES | {"images": 50_000}
    evaluate(run, "a", result({"fid": metric({"fid": 13.5}, **how)}))
    (table,) = rows(run)
    html = write_report(run).read_text()
    apart = "+0.5 from the expected value, but measured by another protocol"
    for words in (section(run, "expected"), table[2][2]):
        assert ("as expected" in words) == judged
        assert (apart in words) == (not judged)
    assert ('class="met"' in html) == judged and 'class="off"' not in html


def test_two_thousand_samples_by_other_features_keep_no_promise(run: Path) -> None:
    """Nor while training; and of two evaluations the one by the promised protocol counts."""
    expect(run, protocol=INCEPTION.format("50,000"))
    write_journal(run, [{"images": 4000, "metric/fid": 13.0}])
    other = FEATURES | {"features": "small"}
    evaluate(run, "training", result({"fid": metric({"fid": 13.0}, **other)}))
    for name, value, how, day in (
        ("a", 14.0, FEATURES | {"images": 50_000}, 1),
        ("b", 13.0, other, 2),
    ):
        found = result({"fid": metric({"fid": value}, **how)})
        evaluate(run, name, found | {"when": f"2026-01-0{day}T03:00:00+00:00"})
    assert "14 after 4,000 images: as expected found in evaluation a" in section(run, "expected")
    (run / "eval/a/result.json").unlink()
    (run / "eval/b/result.json").unlink()
    assert "as expected" not in section(run, "expected")
    (run / "eval/training/result.json").unlink()
    text = section(run, "expected")
    assert "+0 from the expected value, but measured by a protocol that is not known" in text


def test_likelihoods_need_no_samples_to_keep_a_promise(run: Path) -> None:
    expect(run, metric="bpd", protocol=None)
    evaluate(
        run, "a", result({"bpd": metric({"bpd": 13.5}, held_out=10_000, held_out_set="test")})
    )
    assert "13.5 after 4,000 images: as expected" in section(run, "expected")
