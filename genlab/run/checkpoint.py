"""Checkpoints: safetensors and JSON, written aside and renamed, with a manifest of hashes.

checkpoints/000000102400/          named by the images drawn
    model.safetensors              Model.state_dict(): networks, their EMAs, codebooks, buffers
    optimizer.safetensors          player/parameter/moment
    state.json                     clock, loss scales, best value
    manifest.json                  format, version, whether it is the best so far, size and
                                   SHA-256 of each file; written last
checkpoints/latest, best           the name of one
checkpoints/pins/000000102400-<run>    an empty file: that run names this checkpoint, so it stays

A folder without a valid manifest does not count. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from genlab import __version__
from genlab.core.console import log
from genlab.core.errors import CheckpointError, DiskError
from genlab.core.files import (
    disk,
    fsync_folder,
    make_folder,
    opened,
    read_bytes,
    read_json,
    read_text,
    write_text,
)
from genlab.run.directory import Run, resume_command
from genlab.run.failpoint import point
from genlab.run.tensors import load_model

__all__ = ["Checkpoint", "Checkpoints"]

FORMAT = 3  # 2: state.json names the parameters without moments; 3: it has what finds spikes
NAME = re.compile(r"\d{12}")
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


class Checkpoint:
    """A checkpoint that was found valid.

    run: directory of its run; images: that the run had drawn; digest: 12 hex digits of the SHA-256
    of its manifest, which holds that of every file.
    """

    def __init__(self, folder: Path) -> None:
        """folder: <run>/checkpoints/<images>."""
        self.folder, self.run, self.images = folder, folder.parent.parent, int(folder.name)
        manifest = read_bytes(folder / "manifest.json", self.run)
        self.digest = hashlib.sha256(manifest).hexdigest()[:12]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and self.folder.resolve() == other.folder.resolve()

    def __hash__(self) -> int:
        return hash(self.folder.resolve())

    def load(self, model: nn.Module) -> None:
        """Copies its tensors into a built model; CheckpointError on another architecture."""
        load_model(model, self.folder / "model.safetensors")


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, folder: Path, owner: bool = False) -> None:
        """folder: <run>/checkpoints.

        owner: we hold the lock of the run; a mere reader leaves damaged folders where they are.
        """
        self.folder, self.owner = folder, owner

    def names(self) -> list[str]:
        """Names of all complete folders, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if NAME.fullmatch(p.name))

    def pointer(self, name: str) -> str | None:
        """What `latest` or `best` points at."""
        try:
            text = read_text(self.folder / name, self.folder.parent, limit=100).strip()
        except (OSError, ValueError):
            return None
        return text if NAME.fullmatch(text) and (self.folder / text).is_dir() else None

    def save(
        self,
        images: int,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
        config: Mapping[str, Any],
        *,
        keep: int,
        best: bool,
    ) -> Path:
        """Writes one checkpoint, then deletes those no longer kept.

        keep: how many of the last to keep; best: this one is the best so far. DiskError when it
        cannot be written; earlier ones are then as they were.
        """
        name = f"{images:012d}"
        target, temporary = self.folder / name, self.folder / f".tmp-{name}"
        with disk("write a checkpoint to", target):
            point("save.before_temp")
            self._sweep()
            self._mend()
            self._room_for(model, optimizer)
            make_folder(temporary, self.folder.parent)
            try:
                _write(temporary, model, optimizer, state, config, best)
                point("save.before_rename")
                if target.exists():  # the same moment saved again, after a fall back
                    os.rename(target, self.folder / f".old-{name}")
                os.rename(temporary, target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)  # give a full disk its space back
                raise
            point("save.after_rename")
            fsync_folder(self.folder)
            point("save.before_pointer")
            write_text(self.folder / "latest", name + "\n")
            if best:
                write_text(self.folder / "best", name + "\n")
            self._retire(keep)
        return target

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """(folder, state) of the newest valid checkpoint; None if there never was one.

        Damaged ones are set aside with one loud line each; CheckpointError when all are.
        """
        names = self.names()
        for name in reversed(names):
            folder = self.folder / name
            try:
                state = verify(folder)
            except _Newer:
                raise
            except CheckpointError as e:
                if not folder.is_dir():  # retired meanwhile by the process that trains
                    return self.newest()
                if self.owner:
                    aside = self.folder / f".corrupt-{name}"
                    shutil.rmtree(aside, ignore_errors=True)
                    os.rename(folder, aside)
                log(f"WARNING: checkpoint {name} is damaged ({e}); falling back to the one before")
                continue
            return folder, state
        if names or (self.folder.is_dir() and any(self.folder.glob(".corrupt-*"))):
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged (set aside as .corrupt-*); "
                "add fresh=true to genlab train to start again from image 0"
            )
        return None

    def find(self, which: str | int = "latest") -> Checkpoint | None:
        """A valid checkpoint: latest, best, or the images it had seen.

        None if there never was one; CheckpointError for one that is damaged or not there.
        """
        if which == "latest":
            found = self.newest()
            return Checkpoint(found[0]) if found else None
        number = f"{int(which):012d}" if str(which).isdecimal() else ""
        name = self.pointer("best") if which == "best" else number
        if name not in self.names():
            have = ", ".join(f"{int(n):,}" for n in self.names()) or "none"
            raise CheckpointError(
                f"{self.folder} has no checkpoint {which!r}; kept are those at image {have}, and "
                "best names one where a value decides it"
            )
        verify(self.folder / name)
        return Checkpoint(self.folder / name)

    # --- pins: any number of runs may make them while this one deletes ------------------------

    def pin(self, checkpoint: Checkpoint, by: str) -> None:
        """Keeps a checkpoint from being deleted, for the run whose directory is called `by`.

        CheckpointError where it was deleted meanwhile, DiskError where nothing can be written.
        """
        pin = self.folder / "pins" / f"{checkpoint.folder.name}-{by}"
        with disk("keep a checkpoint in", pin):
            make_folder(pin.parent, self.folder.parent)
            write_text(pin, "", self.folder.parent)
        for _ in range(20):  # `_delete` may just be putting it back
            if checkpoint.folder.is_dir():
                return
            time.sleep(0.05)
        pin.unlink(missing_ok=True)
        raise CheckpointError(f"{checkpoint.folder} has just been deleted; try again")

    def unpin(self, images: int, by: str) -> None:
        """Takes back the pin of a run that names this checkpoint no more."""
        (self.folder / "pins" / f"{images:012d}-{by}").unlink(missing_ok=True)

    def _pinned(self, name: str) -> bool:
        return any(self.folder.glob(f"pins/{name}-*"))

    def _delete(self, name: str) -> None:
        """Deletes a checkpoint, unless it is pinned."""
        if self._pinned(name):
            return
        # renamed first, so that a half-deleted folder is never taken for a checkpoint
        doomed = self.folder / f".old-{name}"
        os.rename(self.folder / name, doomed)
        if self._pinned(name):  # meanwhile; `pin` waits for it to come back
            os.rename(doomed, self.folder / name)
            return
        point("save.mid_delete")
        shutil.rmtree(doomed, ignore_errors=True)

    def _sweep(self) -> None:
        """Removes what killed processes left."""
        make_folder(self.folder, self.folder.parent)
        for doomed in self.folder.glob(".old-*"):
            name = doomed.name.removeprefix(".old-")
            if self._pinned(name) and not (self.folder / name).exists():
                os.rename(doomed, self.folder / name)  # killed before it was put back
        for pattern in (".tmp-*", ".old-*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def _mend(self) -> None:
        """Points `best` at the last one that was: a kill may have come before the pointer."""
        for name in reversed(self.names()):
            try:
                manifest = read_json(self.folder / name / "manifest.json", self.folder.parent)
                is_best = bool(manifest["best"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if is_best:
                if self.pointer("best") != name:
                    write_text(self.folder / "best", name + "\n")
                return

    def _room_for(self, *tensors: Mapping[str, Tensor]) -> None:
        need = sum(t.numel() * t.element_size() for part in tensors for t in part.values())
        free = shutil.disk_usage(self.folder).free
        if free < 1.2 * need:
            raise DiskError(
                f"disk full at {self.folder}: a checkpoint needs {need / 1e6:.1f} MB and "
                f"{free / 1e6:.1f} MB are free; free some space, then "
                f"{resume_command(Run(self.folder.parent))}"
            )

    def _retire(self, keep: int) -> None:
        kept = {*self.names()[-keep:], self.pointer("best"), self.pointer("latest")}
        for name in self.names():
            if name not in kept:
                self._delete(name)


def _write(
    folder: Path,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    config: Mapping[str, Any],
    best: bool,
) -> None:
    metadata = {"format": str(FORMAT), "genlab": __version__}
    try:
        # the config travels with the weights: one file describes itself
        save_file(dict(model), folder / FILES[0], {**metadata, "config": json.dumps(config)})
        point("save.mid_file")
        save_file(dict(optimizer), folder / FILES[1], metadata)
    except SafetensorError as e:
        raise DiskError(f"cannot write tensors to {folder}: {e}; free some space") from e
    (folder / FILES[2]).write_text(json.dumps(dict(state), indent=1), encoding="utf-8")
    point("save.before_fsync")
    files = {}
    for name in FILES:
        with open(folder / name, "rb") as f:
            os.fsync(f.fileno())
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": digest}
    manifest = {
        "format": FORMAT,
        "genlab": __version__,
        "torch": torch.__version__,
        "best": best,
        "files": files,
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1))
    point("save.after_fsync")


class _Newer(CheckpointError):
    """A good checkpoint, only not for this version: not to be fallen back from."""


def verify(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint whose every byte is as written, and the `format` of both.

    CheckpointError where it is damaged, DiskError where it cannot be read.
    """
    try:
        run = folder.parent.parent
        manifest = read_json(folder / "manifest.json", run)
        if int(manifest["format"]) > FORMAT:
            raise _Newer(
                f"{folder} was made by genlab {manifest['genlab']}, this is {__version__}; "
                "upgrade genlab to read it"
            )
        for name in FILES:
            entry = manifest["files"][name]
            with opened(folder / name, run) as f:
                if (size := os.fstat(f.fileno()).st_size) != entry["bytes"]:
                    raise CheckpointError(f"{name} has {size} bytes of {entry['bytes']}")
                if hashlib.file_digest(f, "sha256").hexdigest() != entry["sha256"]:
                    raise CheckpointError(f"{name} has other bytes than were written")
        state = read_json(folder / "state.json", run)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as e:
        raise CheckpointError(f"{Path(e.filename or folder).name} is missing") from e
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.ELOOP):
            name = Path(e.filename or folder).name
            raise CheckpointError(f"{name} is a link or no regular file") from e
        # says something about the disk, not about what was written
        raise DiskError(f"cannot read {folder}: {e.strerror}; try again when it can be") from e
    except (ValueError, KeyError, TypeError, ArithmeticError) as e:
        text = str(e).splitlines()[0] if str(e) else ""
        raise CheckpointError(f"{type(e).__name__}: {text}") from e
    if not isinstance(state, dict):
        raise CheckpointError("state.json is not a mapping")
    return {**state, "format": int(manifest["format"])}
