"""The loop of a run: steps, and between some of them events.

A first start, `genlab resume`, a rank of several and a job of a sweep all come here.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from genlab.assemble.pretrained import pin
from genlab.config.keys import ALLOWED
from genlab.core import dist
from genlab.core.console import log, shown_by
from genlab.core.contract import Generates, Network
from genlab.core.errors import Diverged, GenlabError, PeerLost, Spiked, Stopped
from genlab.core.files import remove_leftovers
from genlab.core.memory import memory_advice
from genlab.core.registry import import_from_here
from genlab.core.signals import DrawingStopped, stop_error
from genlab.core.spikes import AFTER, PATIENCE, Spike
from genlab.core.subprocesses import terminate_with_parent
from genlab.run import spike
from genlab.run.checkpoint import Checkpoints
from genlab.run.directory import Run, resume_command
from genlab.run.journal import read_journal
from genlab.training.cadence import Cadence, intervals
from genlab.training.events import Evaluate, Event, Log, Moment, Sample, Save, Spikes
from genlab.training.progress import ProgressDisplay
from genlab.training.setup import Setup, Training, set_up

__all__ = ["RunLoop", "main", "train_run"]


def train_run(
    folder: Path,
    setup: Setup | None = None,
    *,
    trust: bool = True,
    trust_runs: Sequence[str] = (),
    allow: Sequence[str] = (),
) -> int:
    """Trains the run in `folder` from where it stands to its end; returns the exit code.

    setup: of its config, fresh; None: made here, and trust and trust_runs say whether out-of-tree
    names may be imported for it. allow: as in `genlab resume`. Raises a GenlabError.
    """
    run = Run(Path(folder))
    run.check_links("links" in allow)
    make = partial(set_up, run.config, trust=trust, trust_runs=trust_runs, run=run.path)
    if dist.rank():
        return _train(run, setup or make(), allow)
    with run.lock():
        remove_leftovers(run.path)
        try:
            setup = setup or make()
            pin(setup.components.pretrained, run.path)
            return _train(run, setup, allow)
        except BaseException as e:
            error = _at_once(run) if isinstance(e, KeyboardInterrupt) else e
            with suppress(GenlabError, OSError):  # a full disk must not hide why we stop
                if error is e or not run.status.startswith("done"):  # but for its report
                    run.status = _status(error)
            if error is e:
                raise
            raise error from None


def _train(run: Run, setup: Setup, allow: Sequence[str]) -> int:
    # rank 0 speaks for all
    stream = open(os.devnull, "w", encoding="utf-8") if dist.rank() else None
    display = ProgressDisplay(run.title, setup.components.schedule.images, stream)
    with shown_by(display.log):
        return RunLoop(Training(run, setup, display, allow)).train()


def _status(error: BaseException) -> str:
    match error:
        case Stopped():
            return f"interrupted: {error}"
        case GenlabError():
            return f"failed: {error}"
    return f"failed: {type(error).__name__}: {error}"


def _at_once(run: Run) -> Stopped:
    """The error of a run that a second Ctrl-C has stopped, or one before its first step."""
    names = Checkpoints(run.path / "checkpoints").names()
    kept = f"the checkpoint at image {int(names[-1]):,} is kept" if names else "nothing is saved"
    return Stopped(signal.SIGINT, f"Ctrl-C, at once: {kept}; go on with {resume_command(run)}")


class RunLoop:
    """Trains one run to its end."""

    def __init__(self, training: Training) -> None:
        self.training = training
        batch = training.trainer.stream.batch
        every = intervals(training.config["every"], training.total, batch)
        self.log = Log(training, every["log"])
        self.save = Save(training, every["checkpoint"])
        self.spikes = Spikes(training, every["log"])
        evaluate, sample = Evaluate(training, every["eval"]), Sample(training, every["sample"])
        looks = {"eval": evaluate, "sample": sample, "checkpoint": self.save}
        self.cadence = Cadence(training, looks)
        self.log.left = self.cadence.left
        self.events: list[Event] = [
            *(self.cadence, evaluate, sample),
            *(self.spikes, self.log, self.save),
        ]

    def train(self) -> int:
        """Runs to the end of the schedule; returns 0."""
        training = self.training
        run, done = training.run, training.clock.images - training.pending
        self._introduce(done)
        if training.main:
            run.status = "running"
        try:
            with (
                training.signals,
                training.display,
                training.logger.open(done),
                memory_advice(training.config),
            ):
                try:
                    self._loop()
                except Diverged as e:
                    raise Diverged(f"{e}; {self._kept()}") from e
                if training.main:
                    run.status = self._done()
            if training.main:
                from genlab.report.report import write_report

                log(f"report: {write_report(run.path)}")
                if isinstance(training.model, Generates):
                    log(f"draw from it with genlab sample run={shlex.quote(run.reference)}")
        except RuntimeError as e:
            if not dist.is_lost(e):
                raise
            text = str(e).splitlines()[0]
            again = resume_command(run)
            raise PeerLost(f"another rank is gone ({text}); go on with {again}") from e
        finally:
            dist.stop()
        return 0

    def _loop(self) -> None:
        """A step, and what is due after it, until the last image is drawn."""
        training, save = self.training, self.save
        trainer, clock, signals = training.trainer, training.clock, training.signals
        spikes, alone = trainer.spikes, dist.world() == 1
        self.resumed = time.monotonic()
        if training.pending:
            self._run_events(stop=0, save=True)
        next_event = min(event.next(clock.images) for event in self.events)
        while clock.images < training.total:
            trainer.one_step()
            late = time.monotonic() >= save.late_at and not spikes.undecided
            stop = signals.caught
            if not alone:  # all stop and save at the same step
                stop, late = dist.any_(stop, late)
            if clock.images < next_event and not stop and not late and not spikes.stopped:
                continue
            self._run_events(stop, save=bool(stop or late))
            if spikes.stopped:
                self._stop_at(spikes.stopped)
            if stop:
                self._stop(stop)
            next_event = min(event.next(clock.images) for event in self.events)

    def _run_events(self, stop: int, save: bool) -> None:
        """What is due after the last step. stop: number of the signal that asks for one, or 0.

        A stop does not wait for images to be drawn. All events of this moment are then pending:
        the run that goes on begins with them, by the weights that are saved here.
        """
        training = self.training
        # waits for the device; raises if a step was not finite, on every rank alike
        training.trainer.peek()
        stepped = time.monotonic() - self.resumed
        self.log.stepping += stepped
        self.cadence.stepping += stepped
        spikes = training.trainer.spikes
        if spikes.stopped and spikes.weights_bad:  # not to be saved
            self.spikes.run(Moment(training.clock, save=False))
            self._stop_at(spikes.stopped)
        moment = Moment(training.clock, save or spikes.stopped is not None)
        try:
            for event in self.events:
                if event.due(moment):
                    if stop and event.draws:
                        raise DrawingStopped
                    with self.cadence.measuring(event):
                        event.run(moment)
        except DrawingStopped:
            self.save.write(pending=training.clock.drawn)
            self._stop(stop or training.signals.caught)
        self.resumed = time.monotonic()

    def _stop(self, number: int) -> NoReturn:
        images = self.training.clock.images
        raise stop_error(
            number, f"image {images:,}, saved; go on with {resume_command(self.training.run)}"
        )

    def _stop_at(self, found: Spike) -> NoReturn:
        training, names = self.training, self.training.checkpoints.names()
        state = f"saved at image {training.clock.images:,} with the weights of before that step"
        if training.trainer.spikes.weights_bad:
            row = PATIENCE if training.hardware.on_spike == "skip" else AFTER
            kept = f"the checkpoint at image {int(names[-1]):,}" if names else "no checkpoint"
            state = f"{row} other batches are no better, so that {kept} is the last one"
        again = (
            f"go on with {resume_command(self.training.run)} optimizer.lr=<less> allow=[config]"
        )
        if not names and training.trainer.spikes.weights_bad:
            again = "train with a lower optimizer.lr"
        raise Spiked(f"{spike.sentence([found])}; {state}: {again}")

    def _done(self) -> str:
        """The status of a run that has drawn all its images; said where it was not calm."""
        what = spike.summary(read_journal(self.training.journal.path))
        if not what:
            return "done"
        self.training.display.warn(f"done, but {what}")
        return f"done: {what}"

    # --- sentences -------------------------------------------------------------------------------

    def _introduce(self, done: int) -> None:
        """Where the run is, on what it computes, and what is odd about it."""
        training = self.training
        networks = [n for n in training.model.children() if isinstance(n, Network)]
        notes = [note for network in networks for note in network.notes]
        notes += training.model.notes(training.setup.components.schedule.batch)
        about = training.evaluator.description
        notes += training.setup.components.data.cautions
        for line in (str(training.run.path), training.hardware.describe(), about, *notes):
            if line:
                log(line)
        if not any(rate for p in training.trainer.players.values() for rate in p.rates):
            log("optimizer.lr=0: nothing will be learned")
        if done >= training.total:
            log(f"this run is done ({training.clock.images:,} images)")

    def _kept(self) -> str:
        """What is left of a run that has diverged, and what to do."""
        training = self.training
        names = training.checkpoints.names()
        kept = f"that at image {int(names[-1]):,} is kept" if names else "nothing is saved"
        clip = all(o.clip for o in training.trainer.optimizers.values())
        fix = "lower optimizer.lr" if clip else "lower optimizer.lr or set optimizer.clip=1"
        return f"of checkpoints {kept}: {fix}, then train with fresh=true"


def main(words: list[str]) -> int:
    """`python -m genlab __work <run directory> [trust] [trust=<run>] [here] [<allowed>...]`."""
    terminate_with_parent(os.getppid())  # a rank must not go on alone
    if "here" in words[1:]:
        import_from_here()
    allow = tuple(w for w in ALLOWED if w in words[1:])
    trust_runs = [w.removeprefix("trust=") for w in words[1:] if w.startswith("trust=")]
    trust = "trust" in words[1:]
    return train_run(Path(words[0]), trust=trust, trust_runs=trust_runs, allow=allow)
