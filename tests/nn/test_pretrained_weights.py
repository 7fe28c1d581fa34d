"""Files of weights: what is read of them, what is refused, and the digest of a network."""

import math
import pickle

import pytest
import torch
from torch import nn

from genlab.core.errors import DataError, Refused
from genlab.nn.pretrained_weights import digest, fit, read_weights, renamed
from tests.helpers.feature_files import saved


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "bin"])
def test_weights_of_every_kind_of_file(tmp_path, suffix):
    g = torch.Generator().manual_seed(0)
    whole = {"a": torch.randn(3, 2, generator=g), "b.c": torch.randn(4, generator=g)}
    half = {n: t.half() for n, t in whole.items()} | {"count": torch.tensor(7)}
    found = read_weights(tmp_path / saved(half, tmp_path / f"w.{suffix}"))
    assert {n: t.dtype for n, t in found.items()} == {
        "a": torch.float32,
        "b.c": torch.float32,
        "count": torch.int64,
    }
    assert all(torch.equal(found[n], half[n].float()) for n in whole)


def test_a_checkpoint_around_the_weights_is_opened(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")["a"].tolist() == [1, 1]


class Evil:
    def __reduce__(self):
        return (print, ("code of the file ran",))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of making a program
def test_files_that_cannot_be_read_safely_are_refused(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"a": Evil()}))
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "program.pt")
    for name, words in [
        ("evil.pth", "would run code"),
        ("raw.pth", "would run code"),
        ("program.pt", "is a program"),
    ]:
        with pytest.raises(Refused, match=words):
            read_weights(tmp_path / name)
    assert "code of the file ran" not in capsys.readouterr().out


def test_damaged_absent_and_foreign_files_are_said(tmp_path):
    good = (tmp_path / saved({"a": torch.ones(100)}, tmp_path / "a.pth")).read_bytes()
    (tmp_path / "short.pth").write_bytes(good[:-300])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "w.h5").write_bytes(good)
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    saved({"a": torch.tensor([1.0, math.nan])}, tmp_path / "nan.safetensors")
    for name, words in [
        ("none.pth", "no such file"),
        ("short.pth", "cannot be read"),
        ("empty.pth", "cannot be read"),
        ("empty.safetensors", "cannot be read"),
        ("w.h5", r"come as \.safetensors"),
        ("list.pth", "no state dict"),
        ("nan.safetensors", "a is not finite"),
    ]:
        with pytest.raises(DataError, match=words):
            read_weights(tmp_path / name)


def test_names_are_replaced_dropped_and_kept():
    tensors = {n: torch.ones(1) for n in ("layer.3.w", "text.a", "other")}
    new = renamed(tensors, {r"layer\.(\d+)\.w": r"blocks.\1.weight", r"text\..*": None})
    assert set(new) == {"blocks.3.weight", "other"}


def test_a_digest_is_of_weights_and_preparation():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    same = digest(net, "p")
    assert len(same) == 12
    net[1].num_batches_tracked += 1  # says nothing of what comes out
    assert digest(net, "p") == same != digest(net, "q")
    net[1].running_var[2] += 1e-6
    assert digest(net, "p") != same


def test_a_filled_network_is_not_trained(tmp_path):
    net = nn.Linear(2, 2)
    fit(net, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path, "a layer")
    assert not any(p.requires_grad for p in net.parameters())
