"""Downloads of files whose contents are pinned by a SHA-256 in the source."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from genlab.core.errors import ConfigError, DataError, DiskError
from genlab.data.idx import inflate

__all__ = ["fetch", "fetch_archive", "mirrors"]

CAP = 64 * 2**20  # bytes of one gzip file as sent; the largest that is known here has 26 MB
BLOCK = 2**18
TIMEOUT = 30  # seconds without a byte


def mirrors(name: str, official: Sequence[str]) -> Sequence[str]:
    """Base addresses to try in turn: `$GENLAB_MIRROR/<name>/` alone when that is set.

    Raises ConfigError for a mirror that is not https; file:// and http on this machine are
    allowed, since every file is checked by its contents anyway.
    """
    own = os.environ.get("GENLAB_MIRROR", "")
    if not own:
        return official
    parts = urlsplit(own)
    here = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not (here or parts.scheme in ("https", "file")):
        raise ConfigError(
            f"GENLAB_MIRROR={own} must begin with https://, file:// or http://localhost"
        )
    return [f"{own.rstrip('/')}/{name}/"]


def fetch(
    name: str, bases: Sequence[str], folder: Path, pinned: Mapping[str, tuple[str, int]]
) -> None:
    """Downloads the files of a set that `folder` lacks, as `<file>.gz`.

    name: of the data set, for messages. bases: addresses to try in turn, ending in "/".
    pinned: file -> (SHA-256, bytes) of its unpacked contents; packing may differ by mirror.
    A file appears under its name only when it is whole and right. Raises DataError when no
    address gives a right file, DiskError when it cannot be written.
    """
    wanted = [f for f in pinned if not any((folder / n).exists() for n in (f, f + ".gz"))]
    received = 0
    for i, file in enumerate(wanted, 1):
        _say(f"{name}: downloading {file}.gz, file {i} of {len(wanted)}", brief=True)
        data = _first_right(name, bases, file, *pinned[file], folder)
        _write(folder / f"{file}.gz", data)
        received += len(data)
    if wanted:
        _say(f"{name}: downloaded {len(wanted)} files, {received / 1e6:.1f} MB, to {folder}")


def fetch_archive(
    name: str, bases: Sequence[str], folder: Path, file: str, digest: str, length: int
) -> None:
    """Downloads one archive into `folder` as it is; digest and length are of the packed file.

    Raises as `fetch` does.
    """
    _say(f"{name}: downloading {file}, {length / 1e6:.0f} MB", brief=True)
    data = _first_right(name, bases, file, digest, length, folder)
    _write(folder / file, data)
    _say(f"{name}: downloaded {file}, {length / 1e6:.1f} MB, to {folder}")


def _first_right(
    name: str, bases: Sequence[str], file: str, digest: str, length: int, folder: Path
) -> bytes:
    """The file from the first address that has it right: a .tar.gz as sent, others unpacked."""
    whole, reasons = file.endswith(".tar.gz"), []
    sent = file if whole else f"{file}.gz"
    for base in bases:
        try:
            data = _get(f"{base}{sent}", max(CAP, length) if whole else CAP)
            contents = data if whole else inflate(data, length)
            if hashlib.sha256(contents).hexdigest() != digest:
                raise ValueError("its contents are not the official ones (SHA-256)")
            return data
        except (OSError, HTTPException, ValueError) as e:
            reasons.append(f"{base}: {getattr(e, 'reason', None) or e}")
    raise DataError(
        f"{name}: {sent} could not be downloaded ({'; '.join(reasons)}); try again, set "
        f"GENLAB_MIRROR, or put the file into {folder} by hand"
    )


class _HttpsRedirects(HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if not newurl.startswith("https://"):
            raise URLError(f"redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _get(url: str, cap: int) -> bytes:
    """Body of at most `cap` bytes; kept in memory so that nothing unchecked touches the disk."""
    data = bytearray()
    with build_opener(_HttpsRedirects).open(url, timeout=TIMEOUT) as answer:
        while block := answer.read(BLOCK):
            data += block
            if len(data) > cap:
                raise ValueError(f"it is larger than {cap >> 20} MiB")
    return bytes(data)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # ranks may download at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise DiskError(
            f"{path} cannot be written ({e.strerror or e}); free space or set data.root"
        ) from e


def _say(line: str, brief: bool = False) -> None:
    """One line on stderr; on a terminal the brief ones replace each other."""
    live = sys.stderr.isatty()
    if live or not brief:
        erase = "\r\x1b[K" if live else ""
        print(erase + line, end="" if brief else "\n", file=sys.stderr, flush=True)
