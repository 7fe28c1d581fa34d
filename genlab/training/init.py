"""`init=`: a training begins with the weights of another run, or of one network of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genlab.assemble.components import Components, build
from genlab.assemble.pretrained import PretrainedRun
from genlab.config.named_runs import named_runs
from genlab.core.contract import Model, Network
from genlab.core.ema import EMA
from genlab.core.errors import CheckpointError, ConfigError
from genlab.run.checkpoint import Checkpoints
from genlab.run.parents import find_parent

__all__ = ["Initial", "find_initial"]


class Initial:
    """What a training begins with. description: in words; whole: whether it is all weights."""

    description: str
    whole: bool

    def load(self, model: Model) -> None:
        """Copies it into a model; CheckpointError for another architecture."""
        raise NotImplementedError


class InitialWeights(Initial):
    """The weights of a whole run, averages too; nothing else of it is taken, none of its code."""

    whole = True

    def __init__(self, ref: Mapping[str, Any], outputs: Path) -> None:
        """ref: a config's `init` with all its keys; outputs: where runs are."""
        run = find_parent("init", ref["run"], outputs)
        found = Checkpoints(run.path / "checkpoints").find(ref["checkpoint"])
        if found is None:
            raise CheckpointError(f"init={ref['run']}: {run.path} has no checkpoint yet")
        self.checkpoint = found
        self.description = f"the weights of {run.title} at image {found.images:,}"

    def load(self, model: Model) -> None:
        self.checkpoint.load(model)


class InitialNetwork(Initial):
    """The weights of one network of a run, averaged or not; what averages it here begins there.

    The run may be of another model, path and data: its network has to be the same.
    """

    whole = False

    def __init__(
        self,
        ref: Mapping[str, Any],
        components: Components,
        outputs: Path,
        trust_runs: Sequence[str],
        meta: bool,
    ) -> None:
        """ref: a config's `init` with all its keys; components: where they shall go; outputs:
        where runs are; trust_runs, meta: as `build` takes them.

        Raises ConfigError where there is no such network, or another one.
        """
        model = components.model
        if type(model).start is not Model.start:
            raise ConfigError(
                f"init={{role: ...}}: model {components.config['model']['name']!r} begins with a "
                "look at its data, which would change that network; use init=<run>"
            )
        self.role, self.into = ref["role"], ref["into"] or ref["role"]
        self.other = PretrainedRun(
            "init",
            ref,
            components.config,
            outputs,
            build,
            None,
            meta,
            trust_runs,
        )
        there = _network("init.role", self.role, self.other.described, self.other.title)
        here = _network("init.into", self.into, model, "this model")
        own, given = ({k: t.shape for k, t in n.state_dict().items()} for n in (here, there))
        if differ := sorted(k for k in own.keys() | given.keys() if own.get(k) != given.get(k)):
            raise ConfigError(
                f"{self.other}: its network {self.role} is another one than {self.into} here "
                f"({differ[0]} and {len(differ) - 1} more differ); use the network keys it was "
                "trained with"
            )
        images = self.other.checkpoint.images
        self.description = (
            f"network {self.role} of {self.other.title} at image {images:,}, "
            f"weights={self.other.weights}"
        )

    def load(self, model: Model) -> None:
        """Copies them, and starts the averages of all networks anew."""
        taught = self.other.model
        source = taught.drawn_from(_network("init.role", self.role, taught, ""))
        _network("init.into", self.into, model, "").load_state_dict(source.state_dict())
        for module in model.modules():
            if isinstance(module, EMA):
                module.restart()


def find_initial(
    components: Components, outputs: Path, *, trust_runs: Sequence[str], meta: bool
) -> Initial | None:
    """What `init` of their config names, None for nothing. Raises a GenlabError if it cannot be.

    outputs: where runs are. trust_runs, meta: as `InitialNetwork` takes them.
    """
    ref = named_runs(components.config).get("init")
    if ref is None:
        return None
    if ref["role"] is None:
        return InitialWeights(ref, outputs)
    return InitialNetwork(ref, components, outputs, trust_runs, meta)


def _network(key: str, role: str, model: Model, whose: str) -> Network:
    networks = {name: m for name, m in model.named_children() if isinstance(m, Network)}
    if role not in networks:
        raise ConfigError(f"{key}={role}: the networks of {whose} are {', '.join(networks)}")
    return networks[role]
