"""The expected result beside what was measured: which number, and when the two compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genlab.assemble.bound_sampler import PathSampler
from genlab.core import registry
from genlab.core.gaussian_path import usable_part
from genlab.core.random import SampleNoise
from genlab.core.registry import names
from genlab.report.expected_result import ExpectedResult
from genlab.report.report import write_report
from tests.helpers.configs import composed
from tests.helpers.pages import (
    EVIL,
    EXPECTED,
    FEATURES,
    Page,
    evaluate,
    expect,
    metric,
    result,
    rows,
    section,
    whole,
    write_journal,
)
from tests.helpers.paths import SPEC


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole(tmp_path)


def test_a_loss_of_the_journal_needs_no_named_protocol(run: Path) -> None:
    expect(run, metric="heldout/loss", value=3.35, tolerance=0.1, protocol="over the test split")
    assert "3.35 ± 0.1 after 4,000 images" in section(run, "expected")
    assert "not measured yet" in section(run, "expected")
    for value, words in ((3.27, "as expected"), (3.5, "off by +0.15")):
        lines = [{"images": 8, "heldout/loss": value}, {"images": 16, "heldout/loss": None}]
        write_journal(run, lines)
        assert f"{value} after 8 images: {words}" in section(run, "expected")


@pytest.mark.parametrize(
    "node",
    [
        dict.fromkeys(EXPECTED, EVIL),
        {EVIL: 1},
        {"metric": [EVIL], "value": {"a": EVIL}, "images": 10**400, "tolerance": 10**400},
        [EVIL],
        EVIL,
        {"metric": "loss/g", "value": True, "tolerance": "0"},
    ],
)
def test_a_foreign_expected_result_is_only_text(run: Path, node: Any) -> None:
    (run / "config.yaml").write_text(json.dumps({"promise": node}))
    Page(write_report(run)).assert_harmless()


def test_an_evaluation_at_the_expected_images_comes_first(run: Path) -> None:
    expect(run)
    write_journal(run, [{"images": 4000, "metric/fid": 30.0}])
    off = "30 after 4,000 images: +17 from the expected value, but measured by a protocol that is"
    assert off in section(run, "expected")
    late = result({"fid": metric({"fid": 9.0}, **FEATURES)}, checkpoint=9000)
    evaluate(run, "late", late | {"when": "2026-02-02T03:00:00+00:00"})
    assert "30 after 4,000 images" in section(run, "expected")  # it is at the expected number
    for name, checkpoint, value, day in (
        ("older", 4000, 15.0, 1), ("near", 4030, 14.0, 3), ("far", 4100, 8.0, 4)
    ):  # fmt: skip
        found = result({"fid": metric({"fid": value}, **FEATURES)}, checkpoint=checkpoint)
        evaluate(run, name, found | {"when": f"2026-01-0{day}T03:00:00+00:00"})
    text = section(run, "expected")
    assert "14 after 4,030 images: as expected found in evaluation near" in text
    for words in ("FID of 2,000 samples", "features inception", "sampler heun, steps 18"):
        assert words in text  # both protocols, for a reader to compare


def test_the_newest_comes_first_where_none_is_at_the_expected_images(run: Path) -> None:
    expect(run, images=90_000)
    write_journal(run, [{"images": 40, "metric/fid": 30.0}])
    evaluate(run, "a", result({"fid": metric({"fid": None}, **FEATURES)}))
    assert "not finite after 4,000 images found in evaluation a" in section(run, "expected")


def test_a_value_of_the_journal_has_the_protocol_of_evaluations_during_training(run: Path) -> None:
    expect(run, images=80)
    write_journal(run, [{"images": 80, "metric/fid": 10.0}, {"images": 120, "metric/fid": 9.0}])
    evaluate(run, "training", result({"fid": metric({"fid": 9.0}, **FEATURES)}, checkpoint=120))
    text = section(run, "expected")
    assert "10 after 80 images: off by -3, which is better found in journal" in text
    assert "features inception" in text


INCEPTION = "FID of {} samples by Inception features against the train split"


@pytest.mark.parametrize(
    ("text", "compares"),
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
def test_numbers_of_samples_compare_only_where_the_protocol_is_named(
    run: Path, text: str | None, compares: bool
) -> None:
    expect(run, protocol=text)
    how = FEATURES | {"images": 50_000}
    evaluate(run, "a", result({"fid": metric({"fid": 13.5}, **how)}))
    (table,) = rows(run)
    html = write_report(run).read_text()
    apart = "+0.5 from the expected value, but measured by another protocol"
    for words in (section(run, "expected"), table[2][2]):
        assert ("as expected" in words) == compares
        assert (apart in words) == (not compares)
    assert ('class="met"' in html) == compares and 'class="off"' not in html


FULL = "FID of 50,000 samples against {} by Inception, {}"
ALL_50K = {**FEATURES, "images": 50_000, "reference": "cifar10 32x32x3 train",
           "reference_images": "50000 of 50000"}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "how", "subject", "apart"),
    [
        (FULL.format("the 50,000 training images", "70 network evaluations"), {}, {}, ""),
        (FULL.format("all training images", "averaged weights"), {}, {}, ""),
        (FULL.format("the training images", "70 evaluations, guidance 2"), {}, {}, ""),
        (FULL.format("the train split", "guidance of 2.0, ema"), {}, {"weights": 0.05}, ""),
        (FULL.format("50k training images", "without guidance"), {}, {"guidance": None}, ""),
        (FULL.format("the training images", "unguided"), {}, {"guidance": {"scale": 1}}, ""),
        (
            FULL.format("the 50,000 training images", "averaged weights"),
            {"reference_images": "2000 of 50000"},
            {},
            "reference images 2000 of 50000, not 50000",
        ),
        (
            FULL.format("all training images", "averaged weights"),
            {"reference_images": "2000 of 50000"},
            {},
            "reference images 2000 of 50000, not all",
        ),
        (
            FULL.format("the training images", "averaged weights"),
            {"reference": "cifar10 32x32x3 test", "reference_images": "10000 of 10000"},
            {},
            "reference cifar10 32x32x3 test, not of train",
        ),
        (FULL.format("them", "35 network evaluations"), {}, {}, "evaluations 70, not 35"),
        (FULL.format("them", "1,000 evaluations"), {}, {}, "evaluations 70, not 1000"),
        (FULL.format("them", "without guidance"), {}, {}, "guidance 2, not 1"),
        (FULL.format("them", "guidance scale 1.5"), {}, {"guidance": None}, "guidance 1, not 1.5"),
        (FULL.format("them", "ema weights"), {}, {"weights": "raw"}, "weights raw, not averaged"),
        (FULL.format("them", "weights as they are"), {}, {}, "weights ema, not raw"),
        (
            FULL.format("50,000 training images", "35 evaluations, averaged weights"),
            {"images": 2000, "reference_images": "2000 of 50000"},
            {"weights": "raw"},
            "images 2000; reference images 2000 of 50000, not 50000; evaluations 70, not 35; "
            "weights raw, not averaged",
        ),
    ],
)  # fmt: skip
def test_all_that_the_text_names_must_be_so(run, text, how, subject, apart) -> None:
    """Also the reference, evaluations, guidance and weights; what is not so is said."""
    expect(run, protocol=text)
    evaluate(run, "a", result({"fid": metric({"fid": 13.5}, **{**ALL_50K, **how})}, **subject))
    other = "+0.5 from the expected value, but measured by another protocol: "
    wanted = other + apart if apart else "as expected"
    assert f"13.5 after 4,000 images: {wanted} found" in section(run, "expected")
    assert ('class="met"' in write_report(run).read_text()) == (not apart)


def test_a_held_out_loss_is_of_the_weights_as_they_are(run: Path) -> None:
    write_journal(run, [{"images": 8, "heldout/loss": 3.3}])
    for text, agrees in (("bits by the weights as they are", True), ("averaged weights", False)):
        expect(run, metric="heldout/loss", value=3.35, tolerance=0.1, protocol=text)
        assert ("as expected" in section(run, "expected")) == agrees


WITH_EVALUATIONS = [
    name
    for name in names("experiment")
    if "evaluations" in ((composed(f"experiment={name}")["promise"] or {}).get("protocol") or "")
]


@pytest.mark.parametrize("name", WITH_EVALUATIONS)
def test_a_recipe_draws_with_the_evaluations_that_it_names(name: str) -> None:
    """Else what it measures would never be by the protocol that it expects."""
    config = composed(f"experiment={name}")
    process = registry.build("process", config["process"], spec=SPEC)
    part = usable_part(process, config["model"]["predict"])
    given = {"through": None, "spec": replace(SPEC, bounds=(-1.0, 1.0))}
    bound = PathSampler(registry.build("sampler", config["sampler"], **given), None, part)
    noise = SampleNoise(0, [0], "cpu")

    def denoise(x, t, y):
        return (x * 0, x * 0) if bound.learned_variance else x * 0

    bound(denoise, noise.normal(1, 2, 2), None, noise)
    expected = ExpectedResult("fid", 1.0, 1.0, 1, [("protocol", config["promise"]["protocol"])])
    found = expected.differences({}, {"evaluations": bound.evaluations, "weights": "ema"})
    assert found == []


def test_two_thousand_samples_by_other_features_do_not_compare(run: Path) -> None:
    """Nor during training; and of two evaluations the one by the expected protocol counts."""
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


def test_likelihoods_compare_without_a_named_protocol(run: Path) -> None:
    expect(run, metric="bpd", protocol=None)
    evaluate(
        run, "a", result({"bpd": metric({"bpd": 13.5}, held_out=10_000, held_out_set="test")})
    )
    assert "13.5 after 4,000 images: as expected" in section(run, "expected")
