"""The loop: N players, micro-batches in lockstep, one clock. It knows no component."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from genlab.core import dist
from genlab.core.contract import Batch, Clock, Model, Optimizer, Schedule, Update
from genlab.core.errors import Diverged
from genlab.core.random import hash64
from genlab.core.spikes import BLOCK, OnSpike, Spikes

__all__ = ["Player", "Trainer"]

DROPOUT = 3  # keeps the seeds of torch's own generator apart from those of the stream
FLUSH = 64  # steps whose logged scalars are kept apart before they are stacked


class Source(Protocol):
    """Where batches come from."""

    draws: int
    batch: int

    def open(self, start: int) -> list[Iterator[Batch]]:
        """One iterator per micro-batch of the step at stream position `start`."""
        ...

    def whole(self) -> Iterator[Batch]:
        """The global batches from position 0 on, undivided, the same on every rank."""
        ...


class Limits(NamedTuple):
    """Above which a step is a spike and is left out; numbers on the device.

    halt: 1.0 once a step was one, where all after it are left out too; None where they are not.
    """

    loss: Tensor
    norm: Tensor
    halt: Tensor | None

    def left_out(self, loss: Tensor, norm: Tensor, bad: Tensor) -> Tensor:
        """1.0 for a step of this loss and gradient norm that is not to be taken, 0.0 for others.

        bad: 1.0 if it is not finite, which is no spike.
        """
        spike = (loss > self.loss).logical_or_(norm > self.norm).float() * (1 - bad)
        if self.halt is None:
            return torch.maximum(spike, bad)
        return torch.maximum(self.halt.copy_(torch.maximum(self.halt, spike)), bad)


class Player:
    """One optimizer, its parameters, and what guards them.

    scale: loss scale of fp16, None otherwise. Everything a step decides stays on the device: the
    clipping factor and the loss scale are handed to the fused optimizer as `grad_scale`, a
    non-finite loss or gradient as `found_inf`, which makes it skip the step without a sync.
    at_hand: whether a number of the device is read without waiting for it.
    """

    GROWTH = 2000  # steps without overflow after which the loss scale doubles

    def __init__(self, name: str, optimizer: Optimizer, scaled: bool) -> None:
        self.name, self.optimizer = name, optimizer
        self.params: list[nn.Parameter] = [
            p for group in optimizer.param_groups for p in group["params"]
        ]
        # `initial_lr`, as torch's schedulers call it: `lr` is that of the last step of a trainer
        groups = optimizer.param_groups
        self.rates = [float(group.setdefault("initial_lr", group["lr"])) for group in groups]
        self.clip, self.fused = optimizer.clip, optimizer.fused
        device = self.params[0].device
        self.at_hand = self.params[0].is_cpu
        self._begun: set[nn.Parameter] = set()
        for group in groups:  # those of torch then count their steps on the device
            if "capturable" in group and not self.fused:
                group["capturable"] = self.params[0].is_cuda
        self.scale = torch.full((), 2.0**16, device=device) if scaled else None
        self._calm = torch.zeros((), dtype=torch.int32, device=device)

    def lr(self) -> float:
        """The learning rate of the first group as it stands."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(
        self, loss: Tensor, scale: Tensor | None = None, limits: Limits | None = None
    ) -> tuple[Tensor, Tensor]:
        """Steps on the gradients of a loss that was multiplied by `scale`.

        limits: above which the step is left out, like one that is not finite.
        Returns (gradient norm, 1.0 if the step was not finite and was left out).
        """
        grads = [p.grad for p in self.params if p.grad is not None]
        dist.sum_grads(grads)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        probe = loss + norm
        bad = (probe - probe).ne_(0)  # 1.0 if not finite: inf - inf and NaN - NaN are NaN, not 0
        divide = None
        if scale is not None:
            norm = norm / scale
            divide = scale
        if self.clip is not None:
            factor = (norm / self.clip).clamp_(min=1.0)
            divide = factor if divide is None else divide * factor
        left_out = bad if limits is None else limits.left_out(loss, norm, bad)
        if self.fused:
            self.optimizer.grad_scale = divide  # type: ignore[attr-defined]
            self.optimizer.found_inf = left_out  # type: ignore[attr-defined]
        elif divide is not None:
            torch._foreach_div_(grads, divide)
        self._step_unless(left_out)
        if self.scale is not None:
            torch._amp_update_scale_(self.scale, self._calm, bad, 2.0, 0.5, self.GROWTH)
        for p in self.params:
            p.grad = None
        return norm, bad

    def _step_unless(self, bad: Tensor) -> None:
        """A step of the optimizer; of one with `bad` 1 nothing is left, in weights and moments.

        The flag is looked at where that needs no wait, and before the first step of a parameter,
        which makes its moments. Else a fused kernel leaves such a step out by itself.
        """
        stepped = [p for p in self.params if p.grad is not None]
        if self.at_hand or not self._begun.issuperset(stepped):
            if not bad:
                self.optimizer.step()
                self._begun.update(stepped)
        elif self.fused:
            self.optimizer.step()
        else:
            self._step_and_take_back(stepped, bad)

    @torch.no_grad()
    def _step_and_take_back(self, params: Sequence[nn.Parameter], bad: Tensor) -> None:
        """A step that is taken back on the device, from a copy of weights and moments.

        Waits for the device where the optimizer keeps numbers of its own on the host.
        """
        state = self.optimizer.state
        kept = [(p.clone(), copy.deepcopy(state.get(p, {}))) for p in params]
        self.optimizer.step()
        for p, (weight, moments) in zip(params, kept, strict=True):
            torch.where(bad.bool(), weight, p, out=p)
            for name, now in list(state.get(p, {}).items()):
                before = moments.get(name)
                if isinstance(now, Tensor) and now.device == bad.device and before is not None:
                    torch.where(bad.bool(), before, now, out=now)
                elif bad and name in moments:
                    state[p][name] = before
                elif bad:
                    del state[p][name]

    def state(self) -> dict[str, float]:
        """The loss scale and its growth counter; empty without fp16."""
        if self.scale is None:
            return {}
        return {"scale": float(self.scale), "calm": int(self._calm)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Sets what `state` returned."""
        if self.scale is not None and state:
            self.scale.fill_(state["scale"])
            self._calm.fill_(int(state["calm"]))


class Trainer:
    """Runs a model's updates until a number of images has been drawn.

    After each step `clock` says where the run stands; `read` gives the means of what was logged
    since the last call and raises Diverged if a step was not finite. unread: values logged since.
    fresh: whether the weights are those of the constructors, so that the first step is preceded
    by `Model.start`; False when they came from a checkpoint. spikes: what was far above the steps
    before, among the values that were read; on_spike="skip" leaves such a step out, "stop" all
    steps from it on, for which their limits lie on the device.
    """

    def __init__(
        self,
        model: Model,
        optimizers: Mapping[str, Optimizer],
        stream: Source,
        schedule: Schedule,
        *,
        seed: int,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
        fp16: bool = False,
        on_spike: OnSpike = "warn",
    ) -> None:
        self.model, self.stream, self.schedule, self.seed = model, stream, schedule, seed
        self.optimizers = optimizers
        self.players = {n: Player(n, o, fp16) for n, o in optimizers.items()}
        self.clock = model.clock = Clock()
        self.fresh = True
        self._autocast = autocast
        self._rank, self._world = dist.rank(), dist.world()
        self._others: dict[tuple[str, ...], list[nn.Parameter]] = {}
        self._factor: float | None = None
        self._checked: set[tuple[str, ...]] = set()
        self._pending: dict[str, list[Tensor]] = {}
        self._stacked: dict[str, list[Tensor]] = {}
        self._steps: dict[str, list[int]] = {}  # of the losses and gradient norms since `peek`
        self._images: dict[int, int] = {}  # drawn after each step since `peek`
        self.spikes = Spikes(on_spike)
        self._leaves_out = on_spike != "warn"
        self._limits: dict[str, Tensor] = {}
        device = next(iter(self.players.values())).params[0].device
        self._no_limit = torch.full((), math.inf, device=device)
        self._halt = torch.zeros((), device=device) if on_spike == "stop" else None
        self.unread: dict[str, list[float]] = {}

    def restore(
        self,
        clock: Mapping[str, int],
        scales: Mapping[str, Mapping[str, float]],
        spikes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Puts clock, learning rates, loss scales and limits where a checkpoint left them."""
        self.clock.step, self.clock.images = clock["step"], clock["images"]
        self.clock.drawn = clock.get("drawn", 0)
        for name, state in scales.items():
            self.players[name].restore(state)
        self._set_rates(self.schedule(self.clock.images - self.clock.drawn))
        self.spikes.restore(spikes)
        self._set_limits()
        self.fresh = False

    def _begin(self) -> None:
        """Lets the model look at the data it starts with."""
        self.fresh = False
        if type(self.model).start is not Model.start:
            with torch.no_grad(), self._autocast():
                self.model.start(self.stream.whole())
            dist.broadcast_([*self.model.parameters(), *self.model.buffers()])

    def one_step(self) -> None:
        """Draws, computes, steps every player in the order the model yields them."""
        model, clock = self.model, self.clock
        seed = hash64(self.seed, DROPOUT, clock.step, self._rank)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed(seed)
        if self.fresh:
            self._begin()
        factor = self.schedule(clock.images)
        if factor != self._factor:
            self._set_rates(factor)
        sources = self.stream.open(clock.images)
        # the stream counts draws as they happen; a model that logs by the clock sees one batch
        clock.drawn = self.stream.batch
        micro = [model.step(source) for source in sources]
        while (update := self._advance(micro)) is not None:
            on, loss, log = update
            # the scale the loss was multiplied by; cloned, since a player's step may change it
            scale = self.players[on[0]].scale
            scale = scale.clone() if scale is not None and len(on) > 1 else scale
            objective = "loss/" + "+".join(on)
            self._keep(objective, loss)
            self._steps.setdefault(objective, []).append(clock.step)
            for name, value in log.items():
                self._keep(name, value)
            for name in on:
                norm_of = f"grad_norm/{name}"
                limits = self._limits_of(objective, norm_of) if self._leaves_out else None
                norm, bad = self.players[name].step(loss, scale, limits)
                self._keep(norm_of, norm)
                self._keep(f"bad/{name}", bad)
                self._steps.setdefault(norm_of, []).append(clock.step)
        clock.drawn = self.stream.draws * self.stream.batch
        with torch.no_grad():
            model.end_step(self.optimizers)
        clock.images += clock.drawn
        self._images[clock.step] = clock.images
        clock.step += 1
        if self._leaves_out and clock.step % BLOCK == 0:
            self.peek()
            self._set_limits()
        elif clock.step % FLUSH == 0:
            self._stack()

    def _advance(
        self, micro: Sequence[Iterator[Update]]
    ) -> tuple[tuple[str, ...], Tensor, Mapping[str, Tensor]] | None:
        """Takes every micro-batch to its next yield and adds up their gradients."""
        on: tuple[str, ...] | None = None
        total: Tensor | None = None
        log: Mapping[str, Tensor] = {}
        share = 1.0 / (len(micro) * self._world)
        for i, one in enumerate(micro):
            with self._autocast():
                update = next(one, None)
            if update is None:
                if i and on is not None:
                    raise RuntimeError("micro-batches of one step yielded different updates")
                continue
            players = (update.on,) if isinstance(update.on, str) else update.on
            if i and players != on:
                raise RuntimeError(
                    f"micro-batches of one step must yield the same player, not {on} and {players}"
                )
            if on is None:
                log = update.log
            else:
                log = {k: v + update.log[k] for k, v in log.items()}
            on = players
            loss = update.loss if share == 1.0 else update.loss * share
            scale = self.players[players[0]].scale
            (loss if scale is None else loss * scale).backward()  # type: ignore[no-untyped-call]
            for p in self._not_of(players):
                p.grad = None
            total = loss.detach() if total is None else total + loss.detach()
        if on is None or total is None:
            return None
        if len(micro) > 1:
            log = {k: v / len(micro) for k, v in log.items()}
        if on not in self._checked:
            self._check(on)
        if self._world > 1:
            total = dist.mean_(total * self._world)
        return on, total, log

    def _not_of(self, on: tuple[str, ...]) -> list[nn.Parameter]:
        """Parameters of the players that do not step on this loss."""
        if on not in self._others:
            if unknown := [n for n in on if n not in self.players]:
                raise RuntimeError(
                    f"the model yields a loss for player {unknown[0]!r}, but its players are "
                    f"{', '.join(self.players)}"
                )
            own = {id(p) for n in on for p in self.players[n].params}
            self._others[on] = [
                p for pl in self.players.values() for p in pl.params if id(p) not in own
            ]
        return self._others[on]

    def _check(self, on: tuple[str, ...]) -> None:
        """A loss that reaches no parameter of its player trains nothing: say so at once."""
        for name in on:
            if all(p.grad is None for p in self.players[name].params):
                raise RuntimeError(
                    f"the loss for player {name!r} reaches none of its parameters; "
                    "is a network frozen or detached that should learn?"
                )
        self._checked.add(on)

    def _set_rates(self, factor: float) -> None:
        self._factor = factor
        for player in self.players.values():
            for group, rate in zip(player.optimizer.param_groups, player.rates, strict=True):
                group["lr"] = rate * factor

    def _limits_of(self, objective: str, norm: str) -> Limits:
        none = self._no_limit
        return Limits(self._limits.get(objective, none), self._limits.get(norm, none), self._halt)

    def _set_limits(self) -> None:
        """Puts the limits of the next steps on the device."""
        if self._leaves_out:
            limits = self.spikes.limits(self.clock.step)
            on_device = torch.tensor(list(limits.values()), device=self._no_limit.device)
            self._limits = dict(zip(limits, on_device, strict=True))

    # --- what was logged -------------------------------------------------------------------------

    def _keep(self, name: str, value: Tensor) -> None:
        self._pending.setdefault(name, []).append(value)

    def _stack(self) -> None:
        """Folds the scalars of the last steps into one tensor a name; no sync."""
        for name, values in self._pending.items():
            self._stacked.setdefault(name, []).append(torch.stack(values).float())
        self._pending.clear()

    def peek(self) -> dict[str, list[float]]:
        """Everything logged since `read`, a value a step; with it a resumed run logs the same.

        The one place where the host waits for the device; it is called every BLOCK steps where
        spikes are left out. Raises Diverged, naming player, step and learning rate, when a step
        since the last call was not finite.
        """
        self._stack()
        fresh = {n: torch.cat(v) for n, v in self._stacked.items()}
        self._stacked.clear()
        if fresh:
            flat = torch.cat(list(fresh.values())).tolist()
            values: dict[str, list[float]] = {}
            for name, column in fresh.items():
                values[name], flat = flat[: len(column)], flat[len(column) :]
            self._raise_if_bad(values)
            self._observe(values)
            for name, column_values in values.items():
                if not name.startswith("bad/"):
                    self.unread.setdefault(name, []).extend(column_values)
        return self.unread

    def read(self) -> dict[str, float]:
        """Means since the last call, with learning rates and loss scales; Diverged as in peek."""
        line = {n: sum(v) / len(v) for n, v in self.peek().items() if v}
        self.unread = {}
        if self._world > 1 and line:  # every rank reads at the same steps
            device = next(iter(self.players.values())).params[0].device
            means = dist.mean_(torch.tensor(list(line.values()), device=device))
            line = dict(zip(line, means.tolist(), strict=True))
        for name, player in self.players.items():
            line[f"lr/{name}"] = player.lr()
            if player.scale is not None:
                line[f"scale/{name}"] = float(player.scale)
        return line

    def _observe(self, values: Mapping[str, list[float]]) -> None:
        """Looks for spikes among the values since the last call."""
        rows = [
            (step, self._images[step], name, value)
            for name, steps in self._steps.items()
            for step, value in zip(steps, values[name], strict=False)
        ]
        self._steps.clear()
        self._images.clear()
        self.spikes.observe(sorted(rows, key=lambda row: row[0]))

    def _raise_if_bad(self, values: Mapping[str, list[float]]) -> None:
        for name, player in self.players.items():
            steps, flags = self._steps.get(f"grad_norm/{name}", []), values.get(f"bad/{name}", [])
            if player.scale is not None:
                # an overflow in fp16 halves the scale and goes on; at the floor nothing is left
                if float(player.scale) < 2.0**-14:
                    raise Diverged(
                        f"player {name!r}: the fp16 loss scale fell to its floor at step "
                        f"{self.clock.step}; use hardware.precision=bf16 or fp32"
                    )
            elif any(flags):
                raise Diverged(
                    f"the loss or gradient of player {name!r} is not finite at step "
                    f"{steps[flags.index(1.0)]} (learning rate {player.lr():g})"
                )
