"""What a run does beside its steps: evaluate, sample, log, save.

An event is due when the number of images drawn passes a multiple of its `every`, and after the
last image. At the end of such a step the loop runs the events that are due in this order: a line
of the journal then has what was measured, and the best checkpoint the weights it was measured on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from genlab.config.auto_values import held_out
from genlab.core import dist
from genlab.core.console import log
from genlab.core.contract import Clock, Model
from genlab.core.errors import Diverged
from genlab.core.memory import memory
from genlab.core.signals import DrawingStopped
from genlab.run import spike
from genlab.run.tensors import model_tensors, optimizer_tensors, without_moments
from genlab.training.preview import validation_loss, write_preview
from genlab.training.setup import Training

__all__ = ["Evaluate", "Event", "Log", "Moment", "Sample", "Save", "Spikes"]


@dataclass
class Moment:
    """The end of a step after which something is due.

    save: whether to save in any case: at a stop, or every.seconds after the last time.
    measured: values for the journal, of the events that ran before.
    """

    clock: Clock
    save: bool
    measured: dict[str, float] = field(default_factory=dict)


class Event:
    """Something a run does every so many images.

    draws: whether it draws images, which may take minutes and which a stop does not wait for.
    """

    draws = False

    def __init__(self, training: Training, every: int) -> None:
        """every: images between two."""
        self.training, self.every = training, every

    def next(self, images: int) -> int:
        """The number of images at which it is due next: at the end of the run at the latest."""
        return min((images // self.every + 1) * self.every, self.training.total)

    def scheduled(self, clock: Clock) -> bool:
        """Whether the last step passed a multiple of `every`, or the end of the run."""
        before = clock.images - clock.drawn
        passed = clock.images // self.every > before // self.every
        return passed or clock.images >= self.training.total

    def due(self, moment: Moment) -> bool:
        """Whether to run now; of what ranks do together, all say the same."""
        return self.scheduled(moment.clock)

    def run(self, moment: Moment) -> None:
        """Runs on every rank. Raises DrawingStopped when a stop is asked for while it draws."""
        raise NotImplementedError


class Evaluate(Event):
    """Metrics, for which all ranks draw, and the validation loss of a model that is one loss."""

    draws = True

    def run(self, moment: Moment) -> None:
        """Adds their values to what was measured."""
        training = self.training
        with training.signals.drawing(dist.world() == 1):  # ranks that draw wait for each other
            moment.measured |= training.evaluator(training.run, moment.clock.images)
        if training.main and type(training.model).loss is not Model.loss:
            batch, seed = training.trainer.stream.batch, training.config["seed"]
            n = held_out(training.config)
            moment.measured |= validation_loss(training.pipeline, n, batch, seed)


class Sample(Event):
    """A preview, which rank 0 draws while the others go on to their next step."""

    draws = True

    def run(self, moment: Moment) -> None:
        """Writes samples/train/<images>.png and hands it to the tracker."""
        training, images, alone = self.training, moment.clock.images, dist.world() == 1
        if not training.main:
            return
        folder = training.run.path / "samples" / "train"
        try:
            # at their next step the other ranks stop too, but after the last one there is none
            with training.signals.drawing(alone or images < training.total):
                shown = write_preview(training.pipeline, training.config["seed"], folder, images)
        except DrawingStopped:
            if alone:
                raise
            log(f"stopping: the grid of image {images:,} is left out")
            return
        if shown:
            training.logger.picture(*shown, images)


class Spikes(Event):
    """A line of the journal and one for a person for what has risen far above the steps before.

    After what draws: where that is stopped, the run that goes on writes the line.
    """

    def due(self, moment: Moment) -> bool:
        """When there are any since the last time, on all ranks alike."""
        return bool(self.training.trainer.spikes.found)

    def run(self, moment: Moment) -> None:
        """Writes and says them on rank 0."""
        training, found = self.training, self.training.trainer.spikes.found
        for step in dict.fromkeys(s.step for s in found if training.main):
            together = [s for s in found if s.step == step]
            training.display.warn(spike.sentence(together) + DONE[training.hardware.on_spike])
            for line in spike.lines(together):
                training.journal.write(line)
                training.logger.line(line)
        found.clear()


DONE = {
    "warn": "",
    "skip": "; left out, as all steps above that limit are",
    "stop": "; no step is taken from it on",
}
"""What on_spike does about it, in words."""


class Log(Event):
    """A line of the journal: means of what the steps have logged, and what was measured.

    left: (images, images a second) -> seconds to the end of the run, for a person.
    """

    left: Callable[[int, float], float]

    def __init__(self, training: Training, every: int) -> None:
        super().__init__(training, every)
        self.start = time.monotonic()
        self.images = training.clock.images  # at the last line with means
        self.stepping = 0.0  # seconds since then, without those of events

    def due(self, moment: Moment) -> bool:
        """Also for what was measured alone."""
        return self.scheduled(moment.clock) or bool(moment.measured)

    def run(self, moment: Moment) -> None:
        """Writes it on rank 0; the means are those of all ranks."""
        training, clock, with_means = self.training, moment.clock, self.scheduled(moment.clock)
        means = training.trainer.read() if with_means else {}
        if not training.main:
            return
        line: dict[str, float] = {"step": clock.step, "images": clock.images}
        line["seconds"] = round(training.seconds + time.monotonic() - self.start, 3)
        line |= {**means, **moment.measured}
        if with_means and clock.images > self.images:
            line["images_per_second"] = (clock.images - self.images) / max(self.stepping, 1e-9)
            line["memory"] = memory(training.hardware.device)
        if with_means:
            self.images, self.stepping = clock.images, 0.0
        training.best.observe(line, moment.measured, with_means)
        training.journal.write(line)
        training.logger.line(line)
        if "images_per_second" in line:
            line["left"] = self.left(clock.images, line["images_per_second"])
        training.display.update({**line, "total": training.total})


class Save(Event):
    """A checkpoint, also every.seconds after the last, at a stop, and of the best weights."""

    def __init__(self, training: Training, every: int) -> None:
        super().__init__(training, every)
        self.late_at = time.monotonic() + training.config["every"]["seconds"]

    def due(self, moment: Moment) -> bool:
        """Also when it is asked for, and on rank 0 when the value that decides has improved.

        Only when it is asked for, or at the end, where the weights may be bad since a spike.
        """
        if self.training.trainer.spikes.undecided and moment.clock.images < self.training.total:
            return moment.save
        scheduled = self.scheduled(moment.clock) or moment.save
        return scheduled or self.training.best.improved

    def run(self, moment: Moment) -> None:
        """Writes it on rank 0, with the averages of every.checkpoint."""
        training, scheduled = self.training, self.scheduled(moment.clock)
        if scheduled or moment.save:
            self.late_at = time.monotonic() + training.config["every"]["seconds"]
        if scheduled and training.main:
            # before the checkpoint: a run that goes on removes averages that are later than it
            training.averages.save(moment.clock.images, training.model)
        self.write()

    def write(self, pending: int = 0) -> None:
        """The weights and all it takes to go on, on rank 0.

        pending: images of the last step, whose events the run that goes on is to begin with.
        Raises Diverged for weights that are not finite.
        """
        training, clock = self.training, self.training.clock
        if not training.main:
            return
        tensors = model_tensors(training.model)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise Diverged(f"{name} is not finite at image {clock.images:,}")
        best = training.best.saved()
        state = {
            "clock": {"step": clock.step, "images": clock.images, "drawn": pending},
            "scales": {n: p.state() for n, p in training.trainer.players.items()},
            "unread": training.trainer.unread,
            "spikes": training.trainer.spikes.state(),
            **training.best.state(),
            "world": dist.world(),
            "without_moments": without_moments(training.model, training.trainer.optimizers),
        }
        training.journal.sync()
        training.checkpoints.save(
            clock.images,
            tensors,
            optimizer_tensors(training.model, training.trainer.optimizers),
            state,
            training.config,
            keep=training.config["keep"]["last"],
            best=best,
        )
