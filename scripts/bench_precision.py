"""fp32 against bf16, contiguous against channels_last: speed, and loss after equal images.

The four variants train the same recipe from the same start in turns of a few steps, so that a
busy moment of the machine hits all of them; the median turn counts.

    python scripts/bench_precision.py [--experiment fashion_mnist/flow_matching] [--images 12800]
"""

import argparse
import statistics
import time

from genlab.assemble.components import build
from genlab.config.compose import compose
from genlab.sampling.pipeline import Pipeline
from genlab.training.preview import validation_loss
from genlab.training.setup import make_trainer

VARIANTS = [(p, c) for p in ("fp32", "bf16") for c in (False, True)]


def prepare(experiment, precision, channels_last, words):
    layout = f"hardware.channels_last={str(channels_last).lower()}"
    overrides = [f"experiment={experiment}", f"hardware.precision={precision}", layout, *words]
    config = compose(overrides)
    built = build(config)
    built.hardware.start()
    return built, make_trainer(config, built, built.data.load("train"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", default="fashion_mnist/flow_matching")
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--turn", type=int, default=10, help="steps of a turn")
    parser.add_argument("words", nargs="*", help="overrides")
    args = parser.parse_args()
    sides = {v: prepare(args.experiment, *v, args.words) for v in VARIANTS}
    rates = {v: [] for v in VARIANTS}
    for _, trainer in sides.values():
        trainer.one_step()
        trainer.read()
    while min(t.clock.images for _, t in sides.values()) < args.images:
        for variant, (_, trainer) in sides.items():
            start, before = time.perf_counter(), trainer.clock.images
            for _ in range(args.turn):
                trainer.one_step()
            line = trainer.read()
            rates[variant].append((trainer.clock.images - before) / (time.perf_counter() - start))
            last = line
        print(f"{trainer.clock.images:,} images, loss {last['loss/net']:.4f}", flush=True)
    base = statistics.median(rates[VARIANTS[0]])
    print(f"{sides[VARIANTS[0]][0].hardware.describe()}")
    print("| precision | channels_last | images/s | over fp32 | held-out loss |")
    print("|---|---|---|---|---|")
    for (precision, channels_last), (built, trainer) in sides.items():
        rate = statistics.median(rates[precision, channels_last])
        loss = validation_loss(Pipeline(built), trainer.stream.batch, 0)["heldout/loss"]
        layout = "yes" if channels_last else "no"
        print(f"| {precision} | {layout} | {rate:.1f} | {rate / base:.2f} | {loss:.4f} |")


if __name__ == "__main__":
    main()
