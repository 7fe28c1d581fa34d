"""The cache of decoded images: free at the second start, rebuilt when it must be, never half."""

import json
import threading
from pathlib import Path

import pytest
import torch

from genlab.codec.pixels import Pixels
from genlab.core.contract import Spec, Split
from genlab.core.errors import DiskError
from genlab.data import cache as caching
from genlab.data.decoded import DecodedImages
from genlab.data.image import ImageTransform
from genlab.training.stream import Stream
from tests.data.test_folder import FILES, STACKED, both, images
from tests.helpers.image_files import encoded, folder, picture, zipped


@pytest.fixture
def where(tmp_path, monkeypatch):
    """A folder of 20 images; caches that cannot lie beside it go to tmp_path/xdg."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return folder(tmp_path / "a", FILES)


@pytest.fixture
def decoded(monkeypatch):
    """Names of images decoded so far."""
    names, row = [], DecodedImages._row

    def counted(self, name):
        names.append(name)
        return row(self, name)

    monkeypatch.setattr(DecodedImages, "_row", counted)
    return names


def cached(where):
    return sorted(p.name for p in (where / ".genlab-cache").iterdir() if p.suffix != ".lock")


def test_the_second_start_decodes_nothing(where, decoded, monkeypatch, capsys):
    first, _ = both(images(where, size=8))
    assert sorted(decoded) == sorted(FILES)
    assert "decoded 20 images" in capsys.readouterr().err

    def never(self, image):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(ImageTransform, "__call__", never)
    data = images(where, size=8)
    again, _ = both(data)
    assert (first == again).all()
    assert data.notes["images"] == 20
    assert capsys.readouterr().err == ""


def test_what_is_done_to_the_images_stays_in_memory(where):
    u = images(where).load("train").x
    u.zero_()
    assert (both(images(where))[0] == STACKED).all()


def test_another_size_is_made_anew_and_said(where, decoded, capsys):
    both(images(where))
    capsys.readouterr()
    assert both(images(where, size=8))[0].shape[1] == 8
    assert "decoded so far is only a@stored-3; decoding anew" in capsys.readouterr().err
    assert len(decoded) == 40
    both(images(where))
    assert len(decoded) == 40, "both are kept"


def test_changed_data_are_decoded_again_and_said(where, decoded, capsys):
    both(images(where))
    before = cached(where)
    capsys.readouterr()
    (where / "05.png").write_bytes(encoded(picture(50)))
    assert (both(images(where))[0][5] == picture(50)).all()
    assert "have changed; decoding again" in capsys.readouterr().err
    assert len(cached(where)) == len(before) == 2, "the old one is gone"
    assert cached(where) != before


def test_a_moved_folder_keeps_its_cache(where, decoded, tmp_path):
    both(images(where))
    (tmp_path / "else").mkdir()
    moved = where.rename(tmp_path / "else" / "a")
    assert (both(images(moved))[0] == STACKED).all()
    assert len(decoded) == 20


def test_damaged_caches_are_made_again(where, decoded):
    both(images(where))
    place = where / ".genlab-cache"
    (meta,), (raw,) = place.glob("*.json"), place.glob("*.u8")
    outside = where / "outside.u8"
    outside.write_bytes(bytes(STACKED.size))
    text = meta.read_text()
    stolen = json.dumps(json.loads(text) | {"file": "../outside.u8"})
    shapes = [json.dumps(json.loads(text) | {"shape": s}) for s in ([1, 2], "x", None, [-1, -1])]
    for damaged in ("", "{", "[]", "null", '{"key": 1}', stolen, *shapes):
        meta.write_text(damaged)
        assert (both(images(where))[0] == STACKED).all()
    raw.write_bytes(raw.read_bytes()[:-1])
    assert (both(images(where))[0] == STACKED).all()
    assert len(decoded) == 20 * 12


@pytest.mark.parametrize("name", ["[a]*?.zip", "a b.zip", "日本.zip", "x" * 240 + ".zip"])
def test_caches_of_oddly_named_files_lie_side_by_side(tmp_path, where, decoded, name):
    for each in (name, "_a_.zip"):
        zipped(where / each, FILES)
        both(images(where / each))
    both(images(where / name))
    assert len(decoded) == 40


def test_a_killed_process_leaves_nothing_that_counts(where, monkeypatch):
    place = where / ".genlab-cache"

    def killed(self, source):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(ImageTransform, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            images(where, size=8).load("train")
    assert cached(where) == []
    (place / "a@8-3-0123456789ab.part").write_bytes(b"half")
    both(images(where, size=8))
    assert [n.rpartition(".")[2] for n in cached(where)] == ["u8", "json"]


def test_processes_that_start_at_once_decode_once(where, decoded):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(both(images(where))[0])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all((r == STACKED).all() for r in results)
    assert len(decoded) == 20


def test_read_only_data_are_cached_elsewhere(where, decoded, tmp_path, capsys):
    where.chmod(0o555)
    try:
        both(images(where))
        said = capsys.readouterr().err
        assert f"decoded images go to {tmp_path / 'xdg' / 'genlab'}" in said
        both(images(where))
        assert capsys.readouterr().err == ""
        assert len(decoded) == 20
        assert not (where / ".genlab-cache").exists()
        (tmp_path / "xdg").rename(tmp_path / "gone")
        (tmp_path / "xdg").write_text("no folder")
        with pytest.raises(DiskError, match="XDG_CACHE_HOME"):
            both(images(where, size=8))
    finally:
        where.chmod(0o755)


def test_a_full_disk_is_said_before_anything_is_decoded(where, decoded, monkeypatch):
    usage = caching.shutil.disk_usage(where)._replace(free=100)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(DiskError, match="free some space"):
        images(where).load("train")
    assert not decoded


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    from genlab.core import console

    monkeypatch.setattr(console, "PAUSE", 0.0)
    with console.progress("decoding x", 3000) as advance:
        for _ in range(3):
            advance(1000)
    assert capsys.readouterr().err == "decoding x: 1,000 of 3,000\ndecoding x: 2,000 of 3,000\n"


def test_images_are_mapped_and_a_stream_copies_none(where):
    u = images(where).load("train").x
    maps = Path("/proc/self/maps")
    if maps.exists():
        (line,) = [m for m in maps.read_text().splitlines() if m.endswith(f"{where.name}@stored-3-"
                   + cached(where)[0].rpartition("-")[2])]  # fmt: skip
        low, _, high = line.split()[0].partition("-")
        assert int(low, 16) <= u.data_ptr() < int(high, 16)
    stream = Stream(Split(u), Pixels(Spec((3, 10, 12))), seed=0, batch=4, rank=0, micro=(1, 4),
                    flip=True, device=torch.device("cpu"), channels_last=True)  # fmt: skip
    assert stream._rows.data_ptr() == u.data_ptr()


def test_without_locks_two_at_once_do_not_write_into_one_file(where, monkeypatch):
    """A second process starts while the first one writes, where nothing can be locked."""

    def no_locks(*_):
        raise OSError

    monkeypatch.setattr(caching.fcntl, "flock", no_locks)
    rows = [bytes([k]) * 16 for k in range(2)]

    def make(k, between=lambda: None):
        def write(file):
            file.write(rows[k][:8])
            between()
            file.write(rows[k][8:])
            return (1, 4, 4, 1), {}

        monkeypatch.setattr(caching.os, "getpid", lambda: k)
        return caching.Cache(where, "x", str(16), f"key {k}").make(16, write)

    made = []
    first = make(0, lambda: made.append(make(1)))
    assert made[0].images.tobytes() == rows[1]
    assert first.images.tobytes() == rows[0]
