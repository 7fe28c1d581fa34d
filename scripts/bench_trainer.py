"""What the trainer costs: a bare loop against genlab on the same work, interleaved.

Both train the same tiny MLP (flow matching on points of the plane) in fp32 with fused AdamW,
gradient clipping, an EMA and data in memory. genlab also seeds every step, checks every loss and
gradient, looks for signals and due events, and writes a journal line every 50 steps.

    python scripts/bench_trainer.py [--rounds 7] [--steps 300] [--batch 32]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from genlab.assemble.components import build
from genlab.config.compose import compose
from genlab.core.contract import Split
from genlab.core.signals import Signals
from genlab.run.journal import Journal
from genlab.training.setup import make_trainer

LOG = 50  # steps between two journal lines


def setup(batch):
    words = ["experiment=toy/flow_matching", f"schedule.batch={batch}", "hardware=cpu"]
    words += ["hardware.threads=1", "hardware.precision=fp32", "schedule=constant"]
    words += ["network.net.width=32", "network.net.depth=1", "network.net.embedding=16"]
    words += ["schedule.images=1_000_000_000", "optimizer.lr=1e-3"]
    config = compose(words)
    built = build(config)
    built.hardware.start()
    return config, built, built.data.load("train").x


def bare(batch, steps):
    """A loop as one would write it by hand; returns a function that runs `steps` of it."""
    _, built, data = setup(batch)
    net = built.model.net.train()
    params = list(net.parameters())
    ema = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, 1e-3, weight_decay=0.0, fused=True)
    order, at, scale = torch.randperm(len(data)), 0, built.codec.scale

    def run():
        nonlocal order, at
        for _ in range(steps):
            if at + batch > len(data):
                order, at = torch.randperm(len(data)), 0
            x = data[order[at : at + batch]] / scale
            at += batch
            t, eps = torch.rand(batch), torch.randn_like(x)
            a, b = (1 - t)[:, None], t[:, None]
            u = net(a * x + b * eps, t, None)
            loss = (u - (eps - x)).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_lerp_(ema, params, 1 - 0.999)

    return run


def genlab(batch, steps, folder):
    """The same through the trainer, with everything a run has on."""
    _, built, data = setup(batch)
    trainer = make_trainer(built, Split(data))
    journal, due = Journal(folder), LOG * batch

    def run():
        nonlocal due
        save_at = time.monotonic() + 60
        with Signals() as signals:
            for _ in range(steps):
                trainer.one_step()
                late = time.monotonic() >= save_at
                if trainer.clock.images >= due or signals.caught or late:
                    due += LOG * batch
                    line = {"step": trainer.clock.step, "images": trainer.clock.images}
                    journal.write({**line, **trainer.read()})

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "bare": bare(args.batch, args.steps),
            "genlab": genlab(args.batch, args.steps, Path(folder)),
        }
        for run in sides.values():
            run()  # warm up
        times = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, run in sides.items():
                start = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - start) / args.steps * 1e6)
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, t in times.items():
        print(f"{name:<8} {medians[name]:8.1f} us a step  (min {min(t):.1f}, max {max(t):.1f})")
    over = [g - b for g, b in zip(times["genlab"], times["bare"], strict=True)]
    print(f"{'over':<8} {statistics.median(over):8.1f} us a step  (median of paired rounds)")
    print(json.dumps({"torch": torch.__version__, **vars(args), **medians}))


if __name__ == "__main__":
    main()
