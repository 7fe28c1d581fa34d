"""The streams of an evaluation: made once, in parts, by whoever, without a digit changing."""

import math
import shutil

import pytest
import torch

import genlab
from genlab.cli.main import main
from genlab.core import dist
from genlab.core.metric import Features
from genlab.evaluation.cache import ShardedCache, feature_cache
from genlab.evaluation.reference import Reference, of_data
from genlab.evaluation.streams import Streams
from genlab.evaluation.target import EvalTarget, ModelOutputs
from tests.helpers.evaluations import evaluated, value
from tests.helpers.runs import trained


def same_in_every_batch(run, folder):
    """Whether samples of a run are the same drawn one by one, in fours or all at once."""
    target = ModelOutputs(genlab.load(run), n=10, seed=11)
    reference = of_data(target.dataset, "digits", "train", 10)
    one, four, all_ = (
        Streams(target, reference, None, folder=folder / str(n), cache=folder, batch=n).fake()
        for n in (1, 4, 64)
    )
    return one.float().std() > 0 and torch.equal(one, four) and torch.equal(one, all_)


def test_the_batch_changes_no_digit(gan, tmp_path):
    assert same_in_every_batch(gan, tmp_path)


@pytest.mark.parametrize("model", ["flow_matching", "glow"])
def test_the_batch_changes_no_digit_in_bf16_either(tmp_path_factory, tmp_path, model):
    """A sampler of many steps, attention and norms of several channels."""
    run = trained(tmp_path_factory, model, **{"hardware.precision": "bf16"})
    assert same_in_every_batch(run, tmp_path)


class Doubled(Features):
    """Features of which everything is known."""

    digest, resizer, outputs = "doubled", "none", {"pool": 64}

    def __call__(self, u):
        return {"pool": 2 * u.flatten(1).float()}


class Drawn(EvalTarget):
    """Rows of a tensor as if a model drew them."""

    kind, device, seed = "samples", torch.device("cpu"), 0

    def __init__(self, images, most=64):
        self.rows, self.n, self.most = images, len(images), most

    def draw(self, rows):
        if len(rows) > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return self.rows[rows.start : rows.stop]


def streams(target, tmp_path):
    reference = Reference("some", target.rows.flip(0), target.n)
    return Streams(target, reference, Doubled(), folder=tmp_path / "s", cache=tmp_path / "c")


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_parts_and_change_no_digit(tmp_path, monkeypatch, world):
    """Each rank in turn, as if the others were there; then every part is there."""
    images = torch.randint(0, 256, (600, 1, 8, 8), dtype=torch.uint8)
    done = []
    monkeypatch.setattr(dist, "world", lambda: world)
    for stream in ("fake", "features/real", "features/fake"):
        for rank in range(world):
            monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
            cache = streams(Drawn(images), tmp_path).cached(stream)
            for k in cache.missing():
                cache.compute(k)
                done.append((stream, k))
    parts = {"fake": 10, "features/real": 3, "features/fake": 3}
    assert sorted(done) == sorted((s, k) for s, n in parts.items() for k in range(n))
    monkeypatch.setattr(dist, "rank", lambda: 0)
    monkeypatch.setattr(ShardedCache, "compute", lambda self, k: pytest.fail("a part is missing"))
    inputs = streams(Drawn(images), tmp_path)
    assert torch.equal(inputs.fake(), images)
    assert torch.equal(inputs.features("fake"), 2 * images.flatten(1).float())
    assert torch.equal(inputs.features("real"), 2 * images.flip(0).flatten(1).float())


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_processes_of_one_group_find_what_one_finds(gan, tmp_path, devices):
    words = ("metric=fid", "features=raw", "n=100", "n_real=600", "batch=8", "seed=31")
    alone = evaluated(gan, *words, outputs=tmp_path / "1")
    for folder in gan.glob("eval/.streams-*"):
        shutil.rmtree(folder)
    many = evaluated(gan, *words, f"hardware.devices={devices}", outputs=tmp_path / "2")
    assert value(many, "fid") == value(alone, "fid")
    assert value(many, "fid_bias") == value(alone, "fid_bias")


def test_what_does_not_fit_into_memory_is_made_in_halves(tmp_path, capsys):
    images = torch.randint(0, 256, (100, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(streams(Drawn(images, most=20), tmp_path).fake(), images)
    said = [line for line in capsys.readouterr().err.splitlines() if "at once" in line]
    assert said == [
        "memory does not hold 64 at once: going on with 32",
        "memory does not hold 32 at once: going on with 16",
    ]


def test_a_second_evaluation_takes_the_streams_of_the_first(gan, monkeypatch):
    words = ("features=raw", "n=30", "n_real=40", "seed=5")
    first = evaluated(gan, "metric=fid", *words)
    from genlab.sampling.pipeline import Pipeline

    def draw(*args, **kwargs):
        raise AssertionError("samples that are there are drawn again")

    monkeypatch.setattr(Pipeline, "draw", draw)
    second = evaluated(gan, "metric=fid", "metric.fid.infinity=true", *words)
    assert value(second, "fid") == value(first, "fid")
    assert math.isfinite(value(second, "fid_infinity"))


def test_an_interrupted_one_goes_on(gan, monkeypatch):
    words = ("metric=fid", "features=raw", "n=40", "n_real=40", "batch=8", "seed=6")
    from genlab.sampling.pipeline import Pipeline

    draw, drawn = Pipeline.draw, []

    def cut(self, y, seed, indices, weights="ema"):
        drawn.append(list(indices))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(self, y, seed, indices, weights)

    monkeypatch.setattr(Pipeline, "draw", cut)
    assert main(["eval", f"run={gan}", f"outputs={gan.parent.parent}", *words]) == 130
    assert evaluated(gan, *words)
    assert [d[0] for d in drawn] == [0, 8, 16, 16, 24, 32], "two parts were kept"


def test_a_damaged_part_is_made_again(tmp_path):
    images = torch.randint(0, 256, (100, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(streams(Drawn(images), tmp_path).fake(), images)
    [part] = tmp_path.glob("s/fake-0000064-36.safetensors")
    part.write_bytes(part.read_bytes()[:50])
    assert torch.equal(streams(Drawn(images), tmp_path).fake(), images)


def test_more_held_out_images_are_not_mixed_with_fewer(glow):
    """Parts of a small evaluation are those of a large one, so none is counted twice."""
    few = evaluated(glow, "metric=bpd", "n=64", "seed=8")
    many = evaluated(glow, "metric=bpd", "n=297", "seed=8")
    fresh = evaluated(glow, "metric=bpd", "n=297", "seed=8", "batch=50")
    assert few.numbers[0].protocol["held_out"] == 64
    assert value(many, "bpd") == pytest.approx(value(fresh, "bpd"), rel=1e-6)


def test_features_without_logits_do_not_stand_for_those_with(tmp_path):
    """Weights may come with a classifier or without: one digest, other outputs."""

    class Both(Doubled):
        outputs = {"pool": 64, "logits": 3}  # noqa: RUF012

        def __call__(self, u):
            return {**super().__call__(u), "logits": u.flatten(1)[:, :3].float()}

    images = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    cpu = torch.device("cpu")
    assert set(feature_cache("x", Doubled(), images, cpu, tmp_path).load()) == {"pool"}
    assert set(feature_cache("x", Both(), images, cpu, tmp_path).load()) == {"pool", "logits"}
