"""Checkpoints: whole or not there, whatever happens while one is written or read."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genlab.core.console import shown_by
from genlab.core.errors import CheckpointError, DiskError
from genlab.run import checkpoint, failpoint
from genlab.run.checkpoint import (
    FILES,
    Checkpoint,
    Checkpoints,
    verify,
)
from genlab.run.tensors import load_model, load_optimizers, model_tensors, optimizer_tensors
from genlab.training.run_loop import train_run
from tests.helpers.runs import fingerprint, started

CONFIG = {"seed": 0}


def tensors(images: int) -> dict[str, Tensor]:
    return {"net.weight": torch.arange(6.0).view(2, 3) + images, "net.bias": torch.ones(2)}


class Shelf:
    """Checkpoints of a run that is nothing but its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.folder = folder / "checkpoints"
        self.store = Checkpoints(self.folder, owner=True)

    def save(self, images: int, *, keep: int = 2, best: bool = False) -> Path:
        moments = {"net/net.weight/exp_avg": torch.full((2, 3), float(images))}
        state = {"clock": {"images": images}}
        return self.store.save(
            images, tensors(images), moments, state, CONFIG, keep=keep, best=best
        )

    def newest(self) -> int | None:
        """Images of the newest checkpoint, once name, state and weights agree on them."""
        found = self.store.newest()
        if found is None:
            return None
        folder, state = found
        net = nn.ModuleDict({"net": nn.Linear(3, 2)})
        load_model(net, folder / FILES[0])
        images = state["clock"]["images"]
        assert int(folder.name) == images
        assert torch.equal(net["net"].weight.data, tensors(images)["net.weight"])
        return images

    def hidden(self) -> list[str]:
        return sorted(p.name for p in self.folder.glob(".*"))


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    with shown_by(made.said.append):
        yield made


def arm(name: str, kind: str, nth: int = 1) -> None:
    failpoint._name, failpoint._kind, failpoint._left = name, kind, nth


@pytest.fixture
def armed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets a fail point for this test alone."""
    for variable in ("_name", "_kind", "_left"):
        monkeypatch.setattr(failpoint, variable, getattr(failpoint, variable))
    return arm


def end_of(child: Callable[[], object]) -> int:
    """Runs something in a forked child; its exit status, minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- while one is written ------------------------------------------------------------------------


def test_a_save_passes_every_fail_point(shelf, monkeypatch):
    shelf.save(8)
    passed = []
    monkeypatch.setattr(checkpoint, "point", passed.append)
    shelf.save(16, keep=1)
    assert set(passed) == set(failpoint.POINTS)
    assert passed.index("save.before_rename") < passed.index("save.after_rename")


def test_fail_points_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("GENLAB_FAIL", "save.mid_file:enospc@2")
    try:
        importlib.reload(failpoint)
        failpoint.point("save.mid_file")
        failpoint.point("save.before_temp")
        with pytest.raises(OSError, match="No space left"):
            failpoint.point("save.mid_file")
        failpoint.point("save.mid_file")  # once is enough
    finally:
        monkeypatch.delenv("GENLAB_FAIL")
        importlib.reload(failpoint)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("point", failpoint.POINTS)
def test_killed_inside_a_save(shelf, point, keep):
    shelf.save(8, keep=keep)
    shelf.save(16, keep=keep)

    def die() -> None:
        arm(point, "kill")
        shelf.save(24, keep=keep)

    assert end_of(die) == -signal.SIGKILL
    renamed = failpoint.POINTS.index(point) >= failpoint.POINTS.index("save.after_rename")
    assert shelf.newest() == (24 if renamed else 16)
    assert shelf.said == []  # nothing of it looks like a damaged checkpoint
    for name in shelf.store.names():
        verify(shelf.folder / name)
    again = 32 if renamed else 24  # what the restarted run saves next
    shelf.save(again, keep=keep)
    assert shelf.hidden() == []
    assert shelf.newest() == again
    assert len(shelf.store.names()) == keep
    assert shelf.store.pointer("latest") == f"{again:012d}"


@pytest.mark.parametrize("point", failpoint.POINTS)
def test_disk_full_inside_a_save(shelf, armed, point):
    shelf.save(8, keep=1)
    before = fingerprint(shelf.folder / f"{8:012d}")
    armed(point, "enospc")
    with pytest.raises(DiskError, match=r"cannot write a checkpoint to .*free some space") as e:
        shelf.save(16, keep=1)
    assert e.value.code == 7
    old = shelf.folder / f"{8:012d}"
    if point != "save.mid_delete":  # only there it was due to go
        assert fingerprint(old) == before
    assert shelf.newest() in (8, 16)
    assert not list(shelf.folder.glob(".tmp-*"))  # a full disk gets its space back
    shelf.save(24, keep=1)
    assert shelf.newest() == 24 and shelf.hidden() == []


def test_a_file_that_may_not_grow_is_a_full_disk(shelf):
    """A write cut in the middle by the kernel, not by us."""
    shelf.save(8)

    def die() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        big = {"net.weight": torch.zeros(10_000)}
        try:
            shelf.store.save(16, big, {}, {}, CONFIG, keep=2, best=False)
        except DiskError:
            os._exit(7)

    assert end_of(die) == 7
    assert shelf.newest() == 8 and shelf.hidden() == []


def test_too_little_space_is_said_before_anything_is_written(shelf, monkeypatch):
    shelf.save(8)
    usage = type(shutil.disk_usage("/"))(10**6, 10**6, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskError, match=r"needs 0\.0 MB and 0\.0 MB are free; free some space"):
        shelf.save(16)
    assert shelf.hidden() == [] and shelf.newest() == 8


def test_the_best_is_known_again_after_a_kill_before_the_pointer(shelf):
    shelf.save(8, best=True)

    def die() -> None:
        arm("save.before_pointer", "kill")
        shelf.save(16, best=True)

    assert end_of(die) == -signal.SIGKILL
    assert shelf.newest() == 16
    shelf.save(24, keep=1)
    shelf.save(32, keep=1)
    assert shelf.store.pointer("best") == f"{16:012d}"
    assert shelf.store.names() == [f"{16:012d}", f"{32:012d}"]


# --- pins of runs that name one ------------------------------------------------------------------


def test_a_pinned_one_is_kept_until_nobody_names_it(shelf):
    path = shelf.save(8)
    shelf.store.pin(Checkpoint(path), "one-a3f9c1")
    shelf.store.pin(Checkpoint(path), "two-b3f9c1")
    shelf.save(16, keep=1)
    shelf.save(24, keep=1)
    assert [int(n) for n in shelf.store.names()] == [8, 24]
    shelf.store.unpin(8, "one-a3f9c1")
    shelf.save(32, keep=1)
    assert [int(n) for n in shelf.store.names()] == [8, 32]
    shelf.store.unpin(8, "two-b3f9c1")
    shelf.save(40, keep=1)
    assert [int(n) for n in shelf.store.names()] == [40] and shelf.hidden() == []


def test_one_that_is_pinned_while_it_is_deleted_comes_back(shelf, monkeypatch):
    path = shelf.save(8)
    before, rename = fingerprint(path), os.rename

    def pinned_meanwhile(source: Path, target: Path) -> None:
        rename(source, target)
        if source == path:  # another process has found it just before
            (shelf.folder / "pins").mkdir(exist_ok=True)
            (shelf.folder / "pins" / f"{path.name}-other-a3f9c1").touch()

    monkeypatch.setattr(os, "rename", pinned_meanwhile)
    shelf.save(16, keep=1)
    assert fingerprint(path) == before and shelf.hidden() == []
    # and where the process is killed before it comes back, the next save brings it
    rename(path, shelf.folder / f".old-{path.name}")
    shelf.save(24, keep=1)
    assert fingerprint(path) == before and shelf.hidden() == []


def test_one_that_is_gone_cannot_be_pinned(shelf):
    found = Checkpoint(shelf.save(8))
    shelf.save(16, keep=1)
    with pytest.raises(CheckpointError, match="has just been deleted"):
        shelf.store.pin(found, "one-a3f9c1")
    assert not list((shelf.folder / "pins").iterdir())


# --- while one is read ---------------------------------------------------------------------------


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(bytes(raw))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def blank(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


DAMAGES = [flip, halve, blank, binary, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_damaged_checkpoint_falls_back_with_one_loud_line(shelf, file, damage):
    shelf.save(8)
    damage(shelf.save(16) / file)
    assert shelf.newest() == 8
    (line,) = shelf.said
    assert line.startswith("WARNING: checkpoint 000000000016 is damaged")
    assert "falling back" in line
    assert shelf.newest() == 8 and len(shelf.said) == 1  # set aside, so said once
    shelf.save(16)
    assert shelf.newest() == 16


def test_the_same_checkpoint_may_be_damaged_twice(shelf):
    shelf.save(8)
    for _ in range(2):
        flip(shelf.save(16) / FILES[0])
        assert shelf.newest() == 8
    assert len(shelf.said) == 2


def test_a_folder_name_with_the_word_upgrade_changes_nothing(tmp_path):
    (tmp_path / "upgrade").mkdir()
    shelf = Shelf(tmp_path / "upgrade")
    shelf.save(8)
    (shelf.save(16) / FILES[1]).unlink()
    assert shelf.newest() == 8


def test_a_manifest_is_never_half_believed(shelf):
    """Whatever a manifest says, what is read is what was written, or an error of ours."""
    folder = shelf.save(8)
    path, rng = folder / "manifest.json", random.Random(0)
    raw, state = path.read_bytes(), verify(folder)
    odd = [b"[]", b"null", b"1", b'{"format": 1e999}', b'{"format": [1]}', b"[" * 200_000]
    odd += [b'{"format": 1, "files": null}', b'{"format": 1, "files": {"state.json": 3}}', b"\xff"]
    for _ in range(400):
        changed = bytearray(raw)
        changed[rng.randrange(len(raw))] = rng.randrange(256)
        odd.append(bytes(changed))
    refused = 0
    for text in odd:
        path.write_bytes(text)
        try:
            assert verify(folder) == state
        except CheckpointError:
            refused += 1
    assert refused > len(odd) // 3


def test_every_checkpoint_damaged_is_not_a_start_from_scratch(shelf):
    for images in (8, 16):
        flip(shelf.save(images) / FILES[0])
    for _ in range(2):  # the second time nothing but the set aside is there
        with pytest.raises(CheckpointError, match="fresh=true") as e:
            shelf.newest()
        assert e.value.code == 4
    assert len(shelf.said) == 2


def test_no_checkpoint_is_no_error(shelf):
    assert shelf.newest() is None
    shelf.folder.mkdir()
    (shelf.folder / ".tmp-000000000008").mkdir()
    (shelf.folder / "latest").write_text("000000000008\n")
    assert shelf.newest() is None and shelf.store.pointer("latest") is None


@pytest.mark.parametrize("text", ["", "../../etc\n", "000000000016\n", "\x00", "best"])
def test_a_pointer_names_a_checkpoint_or_nothing(shelf, text):
    shelf.save(8)
    (shelf.folder / "latest").write_text(text)
    assert shelf.store.pointer("latest") is None
    assert shelf.newest() == 8


def test_a_newer_format_asks_for_an_upgrade(shelf):
    shelf.save(8)
    path = shelf.save(16) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": 99, "genlab": "9.9"}))
    with pytest.raises(CheckpointError, match=r"made by genlab 9\.9.*upgrade") as e:
        shelf.newest()
    assert e.value.code == 4
    assert path.is_file()  # it is a good checkpoint, only not for us


# --- which are kept ------------------------------------------------------------------------------


def test_the_last_and_the_best_are_kept(shelf):
    for images in (8, 16, 24, 32, 40):
        shelf.save(images, keep=2, best=images == 16)
    assert [int(n) for n in shelf.store.names()] == [16, 32, 40]
    shelf.save(48, keep=1, best=True)
    assert [int(n) for n in shelf.store.names()] == [48]
    shelf.save(56, keep=1)
    assert [int(n) for n in shelf.store.names()] == [48, 56]
    assert shelf.hidden() == []


def test_a_broken_value_is_never_the_best(tiny, monkeypatch):
    """NaN and inf are not better than nothing, and of equals the earlier stays."""
    values = iter([float("nan"), 3.0, 2.0, 2.0, float("inf"), float("nan"), float("-inf"), 4.0])
    monkeypatch.setattr(
        "genlab.training.events.validation_loss", lambda *_: {"heldout/loss": next(values)}
    )
    config = tiny("flow_matching", **{"every.eval": 8, "every.checkpoint": 8, "keep.last": 1})
    run = started(config)
    train_run(run.path)
    store = Checkpoints(run.path / "checkpoints")
    assert store.pointer("best") == f"{24:012d}"
    assert [int(n) for n in store.names()] == [24, 64]
    assert store.newest()[1]["best"] == 2.0


# --- what is not a checkpoint --------------------------------------------------------------------


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def believable(folder: Path, file: str, raw: bytes) -> None:
    """Replaces a file of a checkpoint, with a manifest that vouches for it."""
    (folder / file).write_bytes(raw)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = {"bytes": len(raw), "sha256": sha256(raw).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def pickled(marker: Path, how: str) -> bytes:
    if how == "pickle":
        return pickle.dumps(Evil(marker))
    path = marker.with_suffix(".saved")
    torch.save({"w": Evil(marker)}, path, _use_new_zipfile_serialization=how == "zip")
    return path.read_bytes()


@pytest.mark.parametrize("how", ["pickle", "zip", "tar"])
@pytest.mark.parametrize("file", FILES)
def test_a_pickle_in_a_checkpoint_is_never_loaded(shelf, tmp_path, file, how):
    marker = tmp_path / "executed"
    raw = pickled(marker, how)
    folder = shelf.save(8)
    believable(folder, file, raw)
    with pytest.raises(CheckpointError) as e:
        shelf.newest()  # reads state and model
        load_optimizers(nn.Linear(1, 1), {}, folder / FILES[1])
    assert e.value.code == 4
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()  # it does bite


def header(length: int, text: bytes = b"{}", data: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + text + data


OVERLAP = json.dumps(
    {k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in ("net.weight", "b")}
).encode()
OUTSIDE = json.dumps(
    {"net.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 40]}}
).encode()


@pytest.mark.parametrize(
    "raw",
    [
        header(10 * 2**30),
        header(2**63),
        header(len(OVERLAP), OVERLAP, bytes(8)),
        header(len(OUTSIDE), OUTSIDE, bytes(8)),
        b"short",
    ],
    ids=["10 GB header", "huge header", "overlap", "outside", "short"],
)
def test_a_lying_header_costs_no_memory(shelf, raw):
    believable(shelf.save(8), FILES[0], raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        shelf.newest()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


# --- tensors -------------------------------------------------------------------------------------


def conv() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    net.to(memory_format=torch.channels_last)
    return net, torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for k in steps:
        g = torch.Generator().manual_seed(k)
        x = torch.randn(2, 3, 8, 8, generator=g).to(memory_format=torch.channels_last)
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_channels_last_net_and_its_fused_moments_come_back_bit_for_bit(shelf):
    net, optimizer = conv()
    learn(net, optimizer, range(3))
    folder = shelf.store.save(
        8, model_tensors(net), optimizer_tensors(net, {"d": optimizer}), {}, CONFIG,
        keep=1, best=False,
    )  # fmt: skip
    other, its = conv()
    load_model(other, folder / FILES[0])
    load_optimizers(other, {"d": its}, folder / FILES[1])
    for p in other.parameters():
        assert {s.stride() for n, s in its.state[p].items() if n != "step"} == {p.stride()}
    assert other[0].weight.stride()[1] == 1  # still channels_last
    learn(net, optimizer, range(3, 6))
    learn(other, its, range(3, 6))
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    mine = optimizer_tensors(net, {"d": optimizer})
    theirs = optimizer_tensors(other, {"d": its})
    assert mine.keys() == theirs.keys() and len(mine) == 3 * len(list(net.parameters()))
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)


class Tied(nn.Module):
    """Two names for one tensor, and a second tensor that shares nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(3, 3, bias=False) for _ in range(3))
        self.b.weight = self.a.weight


def test_tied_tensors_are_saved_once_and_stay_tied(shelf):
    net = Tied()
    saved = model_tensors(net)
    assert set(saved) == {"a.weight", "c.weight"}
    folder = shelf.store.save(8, saved, {}, {}, CONFIG, keep=1, best=False)
    other = Tied()
    load_model(other, folder / FILES[0])
    assert torch.equal(other.b.weight, net.a.weight)
    assert other.b.weight is other.a.weight


def test_another_architecture_is_named(shelf):
    folder = shelf.save(8)
    with pytest.raises(CheckpointError, match=r"net\.weight is \(2, 3\) there, \(2, 4\) here"):
        load_model(nn.ModuleDict({"net": nn.Linear(4, 2)}), folder / FILES[0])
    with pytest.raises(CheckpointError, match=r"more\.weight is not in the file"):
        both = nn.ModuleDict({"net": nn.Linear(3, 2), "more": nn.Linear(1, 1)})
        load_model(both, folder / FILES[0])
    with pytest.raises(CheckpointError, match=r"net/net\.weight/exp_avg is in the file only"):
        load_optimizers(nn.Linear(1, 1), {}, folder / FILES[1])
