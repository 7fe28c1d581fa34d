"""Trains the network of features=small on FashionMNIST and writes it beside its source.

The training images are shifted by up to a pixel; the weights kept are an average over the last
part of training, in float16. The accuracy printed, and written into the file's metadata, is that
of the file on the test split.

    python scripts/train_features.py [--data data] [--epochs 16] [--seed 0] [--out FILE]
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from genlab.data.mnist import FashionMNIST
from genlab.features import small

BATCH = 256
LR = 4e-3
DECAY = 0.05
SMOOTHING = 0.02  # of the labels
SHIFT = 1  # pixel
AVERAGE = 0.98  # of the moving average of weights, a step
WARMUP = 0.1  # of all steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="data", help="data.root")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="changes the last bits")
    parser.add_argument("--out", type=Path, default=small.FILE)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data = FashionMNIST(args.data, size=None, flip=False, shift=0.0, download=False)
    net = train(*data.load("train")[:2], args.epochs)
    weights = {
        n: t.half().contiguous()
        for n, t in net.state_dict().items()
        if not n.endswith("num_batches_tracked")
    }
    net.load_state_dict({n: t.float() for n, t in weights.items()}, strict=False)
    right = accuracy(net, *data.load("test")[:2])
    metadata = {
        "accuracy": f"{right:.4f}",
        "accuracy_of": "test split of FashionMNIST, 10,000 images, these float16 weights",
        "trained_by": f"scripts/train_features.py --epochs {args.epochs} --seed {args.seed}",
    }
    save_file(weights, args.out, metadata)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, test accuracy {right:.2%}")


def train(images, labels, epochs):
    """uint8 [N, 1, 28, 28], int64 [N] -> the averaged network, in evaluation mode."""
    net, began = small.Classifier(), time.perf_counter()
    kept = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE), use_buffers=True
    )
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=DECAY, fused=True)
    steps = epochs * (len(images) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=WARMUP)
    wide = F.pad(small.canvas(images), (SHIFT,) * 4)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            with torch.autocast("cpu", torch.bfloat16):
                out = net(shifted(wide[batch]))
            loss = F.cross_entropy(out.float(), labels[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            kept.update_parameters(net)
            total += loss.item() / (len(images) // BATCH)
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}: loss {total:.3f}, {seconds:.0f} s", flush=True)
    return kept.module.eval()


def shifted(x):
    """x [n, 1, 32 + 2 SHIFT, ...] -> [n, 1, 32, 32], each image cut out at a place of its own."""
    n, side = len(x), small.SIDE
    row, column = (torch.randint(2 * SHIFT + 1, (n, 1)) + torch.arange(side) for _ in range(2))
    return x[torch.arange(n)[:, None, None], 0, row[:, :, None], column[:, None, :]][:, None]


@torch.inference_mode()
def accuracy(net, images, labels):
    """Share of right answers."""
    found = torch.cat([net(small.canvas(part)).argmax(1) for part in images.split(1000)])
    return float((found == labels).float().mean())


if __name__ == "__main__":
    main()
