"""What every way of training runs: one argument, the run directory.

A first start, `genlab resume`, a rank under torchrun and a job of a sweep are the same code.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from genlab.assemble.components import build
from genlab.core import dist
from genlab.core.contract import Model, Network
from genlab.core.errors import (
    CheckpointError,
    ConfigError,
    Diverged,
    GenlabError,
    PeerLost,
    Stopped,
)
from genlab.core.memory import memory, memory_advice
from genlab.core.registry import suggest
from genlab.core.signals import DrawingStopped, Signals, stop_error
from genlab.core.subprocesses import terminate_with_parent
from genlab.evaluation.in_training import Evaluator
from genlab.run import checkpoint as ckpt
from genlab.run.averages import Averages
from genlab.run.checkpoint import Checkpoints
from genlab.run.directory import Run, find_run
from genlab.run.environment import changes, environment, ranks, record
from genlab.run.journal import Journal
from genlab.sampling.pipeline import Pipeline
from genlab.training.events import BestCheckpoint, EventSchedule
from genlab.training.logger import Logger
from genlab.training.preview import validation_loss, write_preview
from genlab.training.progress import ProgressDisplay
from genlab.training.setup import make_tracker, make_trainer

__all__ = ["RunLoop", "main", "train_run"]


def train_run(folder: Path, *, trust: bool = True, allow: tuple[str, ...] = ()) -> int:
    """Trains the run in `folder` from where it stands to its end; returns the exit code.

    trust: whether out-of-tree names of its config may be imported; allow: see genlab resume.
    Raises a GenlabError for everything a person should know.
    """
    run = Run(Path(folder))
    if dist.rank():
        return RunLoop(run, trust, allow).train()
    with run.lock():
        try:
            loop = RunLoop(run, trust, allow)
            run.status = "running"
            return loop.train()
        except GenlabError as e:
            word = "interrupted" if isinstance(e, Stopped) else "failed"
            _set_status(run, f"{word}: {e}")
            raise
        except BaseException as e:
            stopped = isinstance(e, KeyboardInterrupt)
            _set_status(
                run, "interrupted: Ctrl-C twice" if stopped else f"failed: {type(e).__name__}: {e}"
            )
            raise


def _set_status(run: Run, text: str) -> None:
    with suppress(GenlabError, OSError):  # a full disk must not hide the reason we stop
        run.status = text


class RunLoop:
    """One process training one run."""

    def __init__(self, run: Run, trust: bool, allow: tuple[str, ...]) -> None:
        self.run, self.config, self.trust = run, run.config, trust
        self.main = dist.rank() == 0
        self.components = build(self.config, trust=trust)
        self.pipeline = Pipeline(self.components)
        hardware = self.components.hardware
        hardware.start()
        dist.start(hardware.device)
        self.model: Model = self.components.model
        self.total = self.components.schedule.images
        self.schedule = EventSchedule(
            self.config["every"], self.total, self.components.schedule.batch
        )
        self.display = ProgressDisplay(
            run.title, self.total, None if self.main else open(os.devnull, "w")
        )
        self.journal = Journal(run.path)
        self.checkpoints = Checkpoints(run.path / "checkpoints", self.display.log, self.main)
        self.averages = Averages(run.path, self.display.log)
        self.logger = Logger(
            make_tracker(self.config, trust) if self.main else None, run, self.log
        )
        self._prepare(allow)

    def _prepare(self, allow: tuple[str, ...]) -> None:
        with memory_advice(self.config):
            data = self.components.data.load("train")
            self.trainer = make_trainer(self.config, self.components, data)
        self.clock = self.trainer.clock
        self.evaluator = Evaluator(self.pipeline, trust=self.trust)
        if self.evaluator.description:
            self.log(self.evaluator.description)
        wanted = self.config["keep"]["best"]
        if wanted == "auto":  # with several players a low loss may be one that lags behind
            wanted = "heldout/loss" if len(self.trainer.players) == 1 else None
        self.best = BestCheckpoint(
            wanted, self.evaluator.better(str(wanted)), self.evaluator.measure(str(wanted))
        )
        self.measured = math.nan
        self.seconds = 0.0
        self._start_from(allow)
        self.pending = self.clock.drawn  # images of a step whose events a stop has put off
        dist.broadcast_([*self.model.parameters(), *self.model.buffers()])

    def _start_from(self, allow: tuple[str, ...]) -> None:
        """Own newest checkpoint, else init=<run>, else scratch; says which."""
        found = self.checkpoints.newest() if self.main else None
        dist.barrier()  # rank 0 has set damaged checkpoints aside before the others look
        if not self.main:
            found = self.checkpoints.newest()
        now = environment(self.components.hardware, self.components.data)
        if self.main:
            self.averages.cut(int(found[0].name) if found else -1)
        if found:
            folder, state = found
            if other := ranks(state["world"], "world" in allow):
                self.log(other)
            ckpt.load_model(self.model, folder / "model.safetensors")
            ckpt.load_optimizers(
                self.model, self.trainer.optimizers, folder / "optimizer.safetensors"
            )
            self.trainer.restore(state["clock"], state["scales"])
            self.trainer.unread = state["unread"]
            if not self.best.recall(state):
                self.log(f"keep.best={self.best.wanted} now means another measure: begun anew")
            if self.main:
                self.seconds = self.journal.cut(self.clock.images - self.clock.drawn)
            self.log(f"resuming at image {self.clock.images:,} from {folder.name}")
            if different := changes(self.run.path, now):
                self.log(f"not bit for bit the run it was: {different}")
        else:
            if self.main:
                self.journal.cut(-1)
            if (self.run.path / "STATUS").exists():
                self.log("no checkpoint yet: starting again at image 0")
            if init := self.config["init"]:
                self._init_from(init)
        if self.main:
            record(self.run.path, now, self.model)

    def _init_from(self, ref: str) -> None:
        other = find_run(ref, self.config["outputs"])
        found = Checkpoints(other.path / "checkpoints", self.display.log).newest()
        if found is None:
            raise CheckpointError(f"init={ref}: {other.path} has no checkpoint yet")
        ckpt.load_model(self.model, found[0] / "model.safetensors")
        self.trainer.fresh = False
        self.log(f"starting from the weights of {other.title} at image {int(found[0].name):,}")

    def log(self, text: str) -> None:
        """One line for a person, from rank 0 alone."""
        if self.main:
            self.display.log(text)

    # --- the run ---------------------------------------------------------------------------------

    def train(self) -> int:
        """Runs to the end of the schedule; returns 0."""
        networks = (n for n in self.model.children() if isinstance(n, Network))
        notes = [note for network in networks for note in network.notes]
        for line in (str(self.run.path), self.components.hardware.describe(), *notes):
            self.log(line)
        if not any(rate for p in self.trainer.players.values() for rate in p.rates):
            self.log("optimizer.lr=0: nothing will be learned")
        if self.clock.images - self.pending >= self.total:
            self.log(f"this run is done ({self.clock.images:,} images)")
        try:
            logger = self.logger.open(self.clock.images - self.pending)
            with Signals() as signals, self.display, logger, memory_advice(self.config):
                try:
                    self._loop(signals)
                except Diverged as e:
                    raise Diverged(f"{e}; {self._kept()}") from e
                if self.main:
                    self.run.status = "done"
            self._report()
        except RuntimeError as e:
            if not dist.is_lost(e):
                raise
            text = str(e).splitlines()[0]
            raise PeerLost(f"another rank is gone ({text}); go on with genlab resume") from e
        finally:
            dist.stop()
        return 0

    def _loop(self, signals: Signals) -> None:
        clock, trainer = self.clock, self.trainer
        self._start = time.monotonic()
        self._last, self._pause = (self._start, clock.images), 0.0
        save_at = time.monotonic() + self.config["every"]["seconds"]
        alone = dist.world() == 1
        if self.pending:
            self._events(signals, 0, True)
        soonest = self.schedule.soonest(clock)
        while clock.images < self.total:
            trainer.one_step()
            stop, late = signals.caught, time.monotonic() >= save_at
            if not alone:  # all stop and save at the same step
                stop, late = dist.any_(stop, late)
            if clock.images < soonest and not stop and not late:
                continue
            saved = self._events(signals, stop, bool(stop or late))
            soonest = self.schedule.soonest(clock)
            if saved:
                save_at = time.monotonic() + self.config["every"]["seconds"]
            if stop:
                self._stop(stop)

    def _kept(self) -> str:
        names = self.checkpoints.names()
        kept = f"that at image {int(names[-1]):,} is kept" if names else "nothing is saved"
        clip = self.config["optimizer"].get("clip")
        fix = "lower optimizer.lr" if clip else "lower optimizer.lr or set optimizer.clip=1"
        return f"of checkpoints {kept}: {fix}, then train with fresh=true"

    def _stop(self, number: int) -> NoReturn:
        # the id where it is looked for by itself
        run = self.run.id if self.config["outputs"] == "outputs" else str(self.run.path)
        raise stop_error(
            number, f"image {self.clock.images:,}, saved; go on with genlab resume run={run}"
        )

    def _events(self, signals: Signals, stop: int, save_now: bool) -> bool:
        """Journal, held-out loss, grid and checkpoint where due; whether one was saved.

        A stop puts off what has to be drawn, and the journal with it: the run that goes on does
        all of it before its first step, by the weights that were saved here.
        """
        self._began = time.monotonic()
        clock, due = self.clock, self.schedule.due
        log, save = due(clock, "log"), due(clock, "checkpoint") or save_now
        self.trainer.peek()  # raises if a step was not finite, on every rank alike
        try:
            if stop and due(clock, "eval", "sample"):
                raise DrawingStopped
            line, grid = self._drawn(signals)
        except DrawingStopped:
            if self.main:
                self._save(False, pending=clock.drawn)
            self._stop(stop or signals.caught)
        if not self.main:
            if log:
                self.trainer.read()
            return save
        if log or line:
            self._log(line, means=log)
        if grid:
            self.logger.picture(*grid, clock.images)
        # saved now, since the best is what was measured; a broken value is never the best
        better = self.best.beaten_by(self.measured)
        if due(clock, "checkpoint"):  # first, since a resume removes what is later than it
            self.averages.save(clock.images, self.model)
        if save or better:
            self._save(better)
        self._pause += time.monotonic() - max(self._began, self._last[0])
        return save

    def _drawn(self, signals: Signals) -> tuple[dict[str, float], tuple[str, Path] | None]:
        """What was measured by samples and by held-out data, and the grid, where due."""
        line: dict[str, float] = {}
        images, alone, grid = self.clock.images, dist.world() == 1, None
        if self.schedule.due(self.clock, "eval"):
            with signals.drawing(alone):  # ranks that draw wait for each other: none may leave
                line |= self.evaluator(self.run, images)
            if self.main and type(self.model).loss is not Model.loss:
                line |= validation_loss(
                    self.pipeline, self.trainer.stream.batch, self.config["seed"]
                )
        if self.main and self.schedule.due(self.clock, "sample"):
            folder = self.run.path / "samples" / "train"
            try:
                # other ranks are at their next step, where all stop, unless there is none
                with signals.drawing(alone or images < self.total):
                    grid = write_preview(self.pipeline, self.config["seed"], folder, images)
            except DrawingStopped:
                if alone:
                    raise
                self.log(f"stopping: the grid of image {images:,} is left out")
        return line, grid

    def _log(self, line: Mapping[str, float] = {}, *, means: bool = True) -> None:
        now, images = time.monotonic(), self.clock.images
        values: dict[str, float] = {"step": self.clock.step, "images": images}
        before, drawn = self._last
        values["seconds"] = round(self.seconds + now - self._start, 3)
        values |= self.trainer.read() if means else {}
        values |= line
        if images > drawn and means:
            training = self._began - before - self._pause  # without grids and checkpoints
            values["images_per_second"] = (images - drawn) / max(training, 1e-9)
            values["memory"] = memory(self.components.hardware.device)
        if means:
            self._last, self._pause = (now, images), 0.0
        wanted = self.best.wanted
        if wanted in values:
            self.measured = values[wanted]
        elif wanted is not None and self.best.due(line, means):
            raise ConfigError(
                f"keep.best={wanted}: the journal has no such value. "
                f"{suggest(wanted, values) or 'It has: ' + ', '.join(values) + '.'}"
            )
        self.journal.write(values)
        self.logger.line(values)
        self.display.update({**values, "total": self.total})

    def _save(self, best: bool, pending: int = 0) -> None:
        tensors = ckpt.model_tensors(self.model)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise Diverged(f"{name} is not finite at image {self.clock.images:,}")
        if best:
            self.best.value = self.measured
        self.measured = math.nan
        state = {
            "clock": {"step": self.clock.step, "images": self.clock.images, "drawn": pending},
            "scales": {n: p.state() for n, p in self.trainer.players.items()},
            "unread": self.trainer.unread,
            **self.best.state(),
            "world": dist.world(),
        }
        self.journal.sync()
        self.checkpoints.save(
            self.clock.images,
            tensors,
            ckpt.optimizer_tensors(self.model, self.trainer.optimizers),
            state,
            self.config,
            keep=self.config["keep"]["last"],
            best=best,
        )

    def _report(self) -> None:
        if self.main:
            from genlab.report.report import write_report

            self.log(f"report: {write_report(self.run.path)}")


def main(words: list[str]) -> int:
    """`python -m genlab __work <run directory> [trust] [config] [world]`."""
    terminate_with_parent(os.getppid())  # a rank must not go on alone
    allow = tuple(w for w in ("config", "world") if w in words[1:])
    return train_run(Path(words[0]), trust="trust" in words[1:], allow=allow)
