"""The process group of a GPU, with one rank: sums, flags through the CPU, the watch beside it."""

import os
import socket
import subprocess
import sys

from tests.helpers.gpu import DEVICE, MARKS

pytestmark = MARKS

ACT = """
import sys, threading, time
import torch
import torch.distributed as td
from genlab.core import dist

device = torch.device(sys.argv[1])
if device.type == "cuda":
    torch.cuda.set_device(0)
dist.LOOK, dist.LAG = 0.05, 0.1
td.init_process_group("nccl" if device.type == "cuda" else "gloo")
dist._watch.start()
assert dist._watch._thread.is_alive()
x = torch.arange(5.0, device=device)
assert torch.equal(dist.mean_(x.clone()), x) and torch.equal(dist.sum_(x.clone()), x)
assert torch.equal(dist.gather(x[None])[0], x)
grads = [x.clone(), x.to(torch.bfloat16), torch.ones(2, 3, device=device)]
kept = [g.clone() for g in grads]
dist.sum_grads(grads)
assert all(torch.equal(a, b) for a, b in zip(grads, kept))
dist.broadcast_([x])
assert dist.any_(3, 0) == [3, 0]
assert dist.broadcast_text("naive", device) == "naive"
assert dist.gather_texts("", device) == [""]
dist.barrier()
with dist._watch.call():
    time.sleep(0.5)
assert dist._watch._thread.is_alive(), "it looked at the clock, and lives"
dist.stop()
assert not any("_look" in t.name for t in threading.enumerate())
print("done")
"""


def test_one_rank_is_the_identity_and_the_watch_ends_with_it():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    group = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    done = subprocess.run(
        [sys.executable, "-c", ACT, DEVICE.type],
        env={**os.environ, **group},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n" and "waiting" not in done.stderr
