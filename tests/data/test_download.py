"""Downloads against a server on this machine: only whole, official files appear."""

import hashlib
import http.server
import threading

import pytest

from genlab.core.errors import ConfigError, DataError, DiskError
from genlab.data import fetch as fetching
from genlab.data.mnist import MNIST, FashionMNIST
from tests.helpers.idx_files import FILES, idx, mini, mnist, write


@pytest.fixture
def pinned(monkeypatch):
    """A mini set whose digests are those that the class expects."""
    contents, _ = mini(3)
    digests = {f: (hashlib.sha256(d).hexdigest(), len(d)) for f, d in contents.items()}
    monkeypatch.setattr(FashionMNIST, "pinned", digests)
    monkeypatch.setattr(FashionMNIST, "installed", ())
    return contents


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server on this machine: (folder it serves, paths that were asked for)."""
    served, asked = tmp_path / "mirror", []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *a):
            super().__init__(*a, directory=str(served))

        def do_GET(self):
            asked.append(self.path)
            if (served / "moved").exists():
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere.gz")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *a):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("GENLAB_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield served, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_once_and_only_what_lacks(tmp_path, pinned, mirror, capsys):
    served, asked = mirror
    write(served / "fashion_mnist", pinned)
    root = tmp_path / "data"
    folder = root / "FashionMNIST" / "raw"
    with pytest.raises(DataError, match="is not there"):
        mnist(root, FashionMNIST)
    assert not asked
    write(folder, {FILES[2]: pinned[FILES[2]]}, zipped=False)  # as if interrupted before
    data = mnist(root, FashionMNIST, download=True)
    u, y, _ = data.load("train")
    assert idx(u[:, 0]) == pinned[FILES[0]]
    assert idx(y) == pinned[FILES[1]]
    assert asked == [f"/fashion_mnist/{FILES[i]}.gz" for i in (0, 1, 3)]
    expected = [f"{FILES[i]}.gz" for i in (0, 1, 3)] + [FILES[2]]
    assert sorted(p.name for p in folder.iterdir()) == sorted(expected)
    assert capsys.readouterr().err.count("\n") == 1
    mnist(root, FashionMNIST, download=True)
    assert len(asked) == 3


def test_download_refuses_what_is_not_the_official_set(tmp_path, pinned, mirror, monkeypatch):
    served, _ = mirror
    root = tmp_path / "data"

    def refused(match):
        with pytest.raises(DataError, match=match) as e:
            mnist(root, FashionMNIST, download=True)
        assert FILES[0] in str(e.value)
        assert not list(tmp_path.glob("data/**/*ubyte*"))

    refused("not found")
    write(served / "fashion_mnist", mini(4)[0])  # same sizes, other pixels
    refused("SHA-256")
    write(served / "fashion_mnist", mini(4, train=31)[0])
    refused("does not unpack to")
    (served / "fashion_mnist" / f"{FILES[0]}.gz").write_bytes(b"<html>")
    refused("gzip says")
    monkeypatch.setattr(fetching, "CAP", 5)
    refused("larger than")
    (served / "moved").touch()
    refused("not https")


def test_download_from_a_folder_and_bad_mirrors(tmp_path, pinned, monkeypatch):
    write(tmp_path / "mirror" / "fashion_mnist", pinned)
    monkeypatch.setenv("GENLAB_MIRROR", (tmp_path / "mirror").as_uri())
    assert mnist(tmp_path / "data", FashionMNIST, download=True).count == 30
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot be written"):
        mnist(tmp_path / "file", FashionMNIST, download=True)
    for bad in ("http://example.org", "ftp://example.org", "example.org", "http://localhost.evil"):
        monkeypatch.setenv("GENLAB_MIRROR", bad)
        with pytest.raises(ConfigError, match="GENLAB_MIRROR"):
            mnist(tmp_path / "other", FashionMNIST, download=True)


def test_official_addresses_are_https():
    for cls in (MNIST, FashionMNIST):
        assert all(a.startswith("https://") and a.endswith("/") for a in cls.official)
