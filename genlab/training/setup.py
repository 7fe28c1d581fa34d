"""What a training is made of: everything its config names, made once and checked, and then the
run in one process, put where it stands: after its newest checkpoint, or at its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlab.assemble.components import Components, build
from genlab.core import dist, registry
from genlab.core.console import log
from genlab.core.contract import Split
from genlab.core.errors import ConfigError
from genlab.core.memory import memory_advice
from genlab.core.signals import Signals
from genlab.evaluation.in_training import TrainingMetrics
from genlab.run.averages import Averages
from genlab.run.checkpoint import Checkpoints
from genlab.run.directory import Run
from genlab.run.environment import changes, data_changes, environment, ranks, record, threads
from genlab.run.journal import Journal
from genlab.run.ranks import check_ranks, data_facts
from genlab.run.state import check_state
from genlab.run.tensors import load_model, load_optimizers
from genlab.run.track import Tracker
from genlab.sampling.pipeline import Pipeline
from genlab.training.best import BestCheckpoint
from genlab.training.init import Initial, find_initial
from genlab.training.logger import Logger
from genlab.training.progress import ProgressDisplay
from genlab.training.stream import Stream
from genlab.training.trainer import Trainer

__all__ = ["Setup", "Training", "make_trainer", "set_up"]


@dataclass
class Setup:
    """The parts of a training that a config names, before there is a run directory."""

    components: Components
    pipeline: Pipeline  # of the model as it is trained
    evaluator: TrainingMetrics
    tracker: Tracker | None
    initial: Initial | None  # of a run that has not begun


def set_up(
    config: Mapping[str, Any],
    *,
    trust: bool = True,
    trust_runs: Sequence[str] = (),
    meta: bool = False,
    run: Path | None = None,
) -> Setup:
    """Makes what a resolved config names, and finds every problem that it has.

    trust, trust_runs, run: as `build` takes them; meta: weights without storage, for a process
    that checks what others will train. Raises a GenlabError.
    """
    with memory_advice(config):
        components = build(config, trust=trust, trust_runs=trust_runs, meta=meta, run=run)
    components.hardware.check_training(components.model)
    if run is not None:
        components.hardware.keep_threads(threads(run))
    node = config["track"]
    tracker = None if node["name"] is None else registry.build("track", node, trust=trust)
    pipeline = Pipeline(components)
    evaluator = TrainingMetrics(pipeline, trust=trust)
    initial = None
    if run is None or not Checkpoints(run / "checkpoints").names():
        outputs = run.parent.parent if run else Path(config["outputs"])
        initial = find_initial(components, outputs, trust_runs=trust_runs, meta=meta)
    return Setup(components, pipeline, evaluator, tracker, initial)


def make_trainer(components: Components, data: Split) -> Trainer:
    """The trainer of components on given data (`components.data.load("train")`, as a rule).

    Raises ConfigError for data that would be moved without the noise they are paired with.
    """
    hardware, batch = components.hardware, components.schedule.batch
    seed = components.config["seed"]
    if data.z is not None:
        for key, value, does, off in (
            ("flip", components.data.flip, "mirrors", "false"),
            ("shift", components.data.shift, "moves", "0"),
        ):
            if value:
                raise ConfigError(
                    f"data.{key}={str(value).lower()} {does} images, but not the noise that these "
                    f"are paired with; use data.{key}={off}"
                )
    stream = Stream(
        data if components.spec.classes else data._replace(y=None),
        components.codec,
        seed=seed,
        batch=batch,
        rank=dist.rank(),
        micro=hardware.accumulation(batch),
        flip=components.data.flip,
        shift=components.data.shift,
        device=hardware.device,
        channels_last=hardware.channels_last,
    )
    components.model.train()
    return Trainer(
        components.model,
        components.optimizers,
        stream,
        components.schedule,
        seed=seed,
        autocast=hardware.autocast,
        fp16=hardware.precision == "fp16",
        on_spike=hardware.on_spike,
    )


class Training:
    """One run in one of the processes that train it.

    main: whether this is rank 0, which alone writes. total: images of the whole run. seconds: of
    training up to its checkpoint. pending: images of its last step, if a stop has put off the
    events that were due after it; else 0.
    """

    def __init__(
        self, run: Run, setup: Setup, display: ProgressDisplay, allow: Sequence[str] = ()
    ) -> None:
        """setup: with new weights; display: where lines for a person go; allow: as in `genlab
        resume`.

        Raises CheckpointError for checkpoints that are damaged or of another model.
        """
        components = setup.components
        self.run, self.setup, self.display = run, setup, display
        self.config, self.hardware = components.config, components.hardware
        self.hardware.start()
        dist.start(self.hardware.device)
        self.main = dist.rank() == 0
        self.model, self.pipeline = components.model, setup.pipeline
        self.evaluator, self.total = setup.evaluator, components.schedule.images
        self.signals, self.journal = Signals(), Journal(run.path)
        self.checkpoints = Checkpoints(run.path / "checkpoints", self.main)
        self.averages = Averages(run.path)
        self.logger = Logger(setup.tracker if self.main else None, run)
        with memory_advice(self.config):
            data = components.data.load("train")
            self.trainer = make_trainer(components, data)
            self.environment = environment(self.hardware, components.data)
            self.environment["trained_on"] = components.data.identity(data)
        check_ranks(data_facts(self.environment["trained_on"]), self.hardware.device)
        self.clock, self.seconds = self.trainer.clock, 0.0
        self.best = self._best()
        self._restore(allow)
        self.pending = self.clock.drawn
        dist.broadcast_([*self.model.parameters(), *self.model.buffers()])

    def _best(self) -> BestCheckpoint:
        name = self.config["keep"]["best"]
        if name == "auto":  # with several players a low loss may be one that lags behind
            name = "heldout/loss" if len(self.trainer.players) == 1 else None
        evaluator = self.evaluator
        return BestCheckpoint(name, evaluator.better(str(name)), evaluator.measure(str(name)))

    def _restore(self, allow: Sequence[str]) -> None:
        """From its own newest checkpoint, else init=<run>, else from nothing; says which."""
        found = self.checkpoints.newest() if self.main else None
        dist.barrier()  # rank 0 has set damaged checkpoints aside before the others look
        if not self.main:
            found = self.checkpoints.newest()
        now = self.environment
        if self.main:
            self.averages.cut(int(found[0].name) if found else -1)
        if found:
            folder, state = found
            players, optimizers = self.trainer.players, self.trainer.optimizers
            other_data = data_changes(self.run.path, now, "data" in allow)
            younger = check_state(state, players, folder)
            if other := ranks(state["world"], "world" in allow):
                log(other)
            load_model(self.model, folder / "model.safetensors")
            lost = load_optimizers(
                self.model,
                optimizers,
                folder / "optimizer.safetensors",
                state.get("without_moments"),
                restart="moments" in allow,
            )
            self.trainer.restore(state["clock"], state["scales"], state.get("spikes", {}))
            self.trainer.unread = state["unread"]
            if not self.best.restore(state):
                log(f"keep.best={self.best.name} now means another measure: begun anew")
            if self.main:
                self.seconds = self.journal.cut(self.clock.images - self.clock.drawn)
            log(f"resuming at image {self.clock.images:,} from {folder.name}")
            if younger:
                log(f"an older genlab wrote it, without {', '.join(younger)}: begun empty")
            if other_data:
                log(f"going on with other data: {other_data}")
            if lost:
                log(f"moments that start at zero: {lost}")
            if different := changes(self.run.path, now):
                log(f"not bit for bit the run it was: {different}")
        else:
            if self.main:
                self.journal.cut(-1)
            if (self.run.path / "STATUS").exists():
                log("no checkpoint yet: starting again at image 0")
            if initial := self.setup.initial:
                initial.load(self.model)
                self.trainer.fresh = not initial.whole
                log(f"starting from {initial.description}")
        if self.main:
            record(self.run.path, now, self.model)
