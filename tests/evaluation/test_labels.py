"""The labels that samples of an evaluation are drawn with."""

import json

import numpy as np
import pytest
import torch

import genlab
from genlab.cli.main import main
from genlab.data.digits import Digits
from genlab.evaluation.labels import in_proportion
from genlab.evaluation.target import ModelOutputs
from genlab.report.run_data import read_run
from genlab.run.results import results
from genlab.training.run_loop import train_run
from tests.helpers.evaluations import evaluated, refused, value
from tests.helpers.runs import small, started, trained

MIXES = [[1, 2, 3], [7, 0, 1], [9800, 100, 50, 50], [3, 3, 3, 1], [5, 5, 5], [4], [0, 2]]
MIXES.append(np.random.default_rng(0).integers(1, 1300, 40).tolist())
MIXES.append([1000] + [1] * 30)


@pytest.mark.parametrize("counts", MIXES, ids=str)
def test_every_class_has_its_share_of_every_beginning(counts):
    """Rounded down or up, as the method of the largest remainder has it."""
    total = sum(counts)
    labels = in_proportion(counts, 2 * total if total < 3000 else 3000)
    taken = np.eye(len(counts), dtype=int)[labels].cumsum(0)
    whole = np.arange(1, len(labels) + 1)[:, None] * np.array(counts)  # of these, times total
    assert (taken * total > whole - total).all() and (taken * total < whole + total).all()
    if total < 3000:
        assert taken[total - 1].tolist() == counts, "as many as there are data: the data's labels"
    assert in_proportion(counts, 4) == labels[:4], "whatever follows"


def test_equal_classes_come_in_turn():
    assert in_proportion([5000] * 10, 25) == [i % 10 for i in range(25)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory, "gan", **{"schedule.images": 32})


@pytest.fixture
def uneven(monkeypatch):
    """Digits of which one class has almost three times the data of others; how many each has."""
    counts = [140] + [50] * 9
    have(monkeypatch, counts)
    return counts


def have(monkeypatch, counts):
    """The training data of digits become the first of each class, so many."""
    load = Digits.load

    def some(self, split):
        whole = load(self, split)
        if split != "train":
            return whole
        rows = torch.cat([(whole.y == k).nonzero()[:n, 0] for k, n in enumerate(counts)])
        return whole._replace(x=whole.x[rows], y=whole.y[rows])

    monkeypatch.setattr(Digits, "load", some)


WORDS = ("metric=swd", "n=200", "n_real=200")


def test_samples_have_the_labels_of_the_data_unless_even_ones_are_asked_for(
    run, uneven, monkeypatch
):
    pipeline, drawn = genlab.load(run), []
    draw = type(pipeline).draw
    monkeypatch.setattr(
        type(pipeline), "draw", lambda self, y, *a: (drawn.extend(y), draw(self, y, *a))[1]
    )
    found = {}
    for labels in ("data", "even"):
        target = ModelOutputs(pipeline, 300, 0, labels=labels)
        drawn.clear()
        target.draw(range(300))
        found[labels] = drawn.copy(), target.digest()
        assert target.labels == labels
        drawn.clear()
        target.draw(range(40, 50))
        assert drawn == found[labels][0][40:50], "a part of them, as another rank draws it"
    shares = np.bincount(found["data"][0], minlength=10) - 300 * np.array(uneven) / sum(uneven)
    assert np.abs(shares).max() < 1
    assert found["even"][0] == [i % 10 for i in range(300)]
    assert found["data"][1] != found["even"][1], "nothing that is kept serves both"


def test_a_number_says_which_labels_its_samples_had(run, uneven, capsys):
    data = evaluated(run, *WORDS)
    assert "200 samples; labels as in the data;" in capsys.readouterr().out
    even = evaluated(run, *WORDS, "labels=even")
    assert [r.numbers[0].protocol["labels"] for r in (data, even)] == ["data", "even"]
    assert value(data, "swd") != value(even, "swd")
    capsys.readouterr()
    assert main(["compare", str(run), f"outputs={run.parent.parent}"]) == 0
    assert "swd is in 2 columns: labels data and even" in capsys.readouterr().out


def test_equal_shares_are_even_ones(run, monkeypatch):
    """So the samples of a balanced set compare with those of an earlier genlab."""
    have(monkeypatch, [90] * 10)
    assert ModelOutputs(genlab.load(run), 30, 0).labels == "even"


def test_a_model_without_labels_has_none(tmp_path_factory, vqvae):
    run = trained(tmp_path_factory, "gan", **{"schedule.images": 32, "model.classes": "none"})
    assert evaluated(run, *WORDS).numbers[0].protocol["labels"] == "none"
    reconstructed = evaluated(vqvae, "metric=psnr", "n=20")
    assert "labels" not in reconstructed.numbers[0].protocol


@pytest.mark.parametrize(("classes", "labels"), [("auto", "even"), ("none", "none")])
def test_what_an_earlier_genlab_wrote_is_of_even_labels(run, classes, labels):
    result = evaluated(run, *WORDS)
    path = result.path / "result.json"
    record = json.loads(path.read_text())
    del record["metrics"]["swd"]["protocol"]["labels"]
    path.write_text(json.dumps(record))
    config = {"model": {"name": "gan", "classes": classes}}
    [read] = [r for r in results(run, config=config) if r.path == result.path]
    assert read.numbers[0].protocol["labels"] == labels
    assert read_run(run).evaluations[0].numbers[0].protocol["labels"] in ("data", "even")


def test_labels_of_given_images_are_refused(tmp_path, capsys, digits):
    np.save(tmp_path / "a.npy", digits[:20])
    words = (f"fake={tmp_path / 'a.npy'}", "data=digits", "metric=swd", "labels=even")
    assert "labels=even is of a run" in refused(capsys, 2, *words)


@pytest.mark.parametrize("labels", ["data", "even"])
def test_metrics_while_training_have_them_too(tmp_path, uneven, labels):
    keys = {"schedule.images": 32, "every.eval": 32, "metric": "swd", "eval.n": 40}
    run = started(small("gan", "digits", outputs=str(tmp_path), **keys, **{"eval.labels": labels}))
    assert train_run(run.path) == 0
    [result] = results(run.path)
    assert result.numbers[0].protocol["labels"] == labels


def test_a_run_of_before_goes_on_with_even_ones(tmp_path):
    run = started(small("gan", "digits", outputs=str(tmp_path)))
    assert run.config["eval"]["labels"] == "data"
    text = (run.path / "config.yaml").read_text()
    assert "  labels: data\n" in text
    (run.path / "config.yaml").write_text(text.replace("  labels: data\n", ""))
    assert type(run)(run.path).config["eval"] == {**run.config["eval"], "labels": "even"}
