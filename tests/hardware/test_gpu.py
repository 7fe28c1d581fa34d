"""What only a GPU can show: no sync between logs, exact resume, compiled networks, both halves."""

import pytest
import torch

from genlab.core.registry import names
from tests.helpers.trainers import largest_difference, make, tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MODELS = names("model")
DETERMINISTIC = ["hardware.device=cuda", "schedule.images=100_000"]


def gpu_config(model, precision, *words):
    config = tiny_config(model, *DETERMINISTIC, *words)
    config["hardware"]["precision"] = precision
    return config


@pytest.fixture(autouse=True)
def deterministic():
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_fifty_steps_without_a_sync(model, precision):
    _, trainer = make(gpu_config(model, precision))
    trainer.one_step()  # allocates, and checks the players once
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(50):
        trainer.one_step()
    torch.cuda.set_sync_debug_mode("default")
    values = trainer.read()
    assert all(v == v for v in values.values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_resume_on_the_gpu_is_bit_for_bit(model, precision, tmp_path):
    from safetensors.torch import save_file

    from genlab.run.tensors import load_model, load_optimizers, model_tensors, optimizer_tensors

    config = gpu_config(model, precision)
    straight, trainer = make(config)
    for _ in range(10):
        trainer.one_step()
    half, first = make(config)
    for _ in range(5):
        first.one_step()
    save_file(model_tensors(half.model), tmp_path / "m")
    save_file(optimizer_tensors(half.model, first.optimizers), tmp_path / "o")
    again, second = make(config)
    load_model(again.model, tmp_path / "m")
    load_optimizers(again.model, second.optimizers, tmp_path / "o")
    second.restore(
        {"step": first.clock.step, "images": first.clock.images},
        {n: p.state() for n, p in first.players.items()},
    )
    for _ in range(5):
        second.one_step()
    assert largest_difference(straight.model, again.model) == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_compiled_networks_learn_the_same(model):
    _, eager = make(gpu_config(model, "bf16"))
    _, compiled = make(gpu_config(model, "bf16", "hardware.compile=true"))
    for trainer in (eager, compiled):
        for _ in range(20):
            trainer.one_step()
    a, b = eager.read(), compiled.read()
    for name in a:
        if name.startswith("loss/"):
            assert b[name] == pytest.approx(a[name], rel=2e-2), name


# --- what is exact on a GPU although TF32 is allowed there ---------------------------------------


def test_glow_is_inverted_and_recomputed():
    """Five digits and more, at the size of a real level; plain and recomputed gradients agree."""
    from genlab.core.contract import Spec
    from genlab.network.glow import Glow

    torch.backends.cuda.matmul.allow_tf32 = True
    x = torch.rand(8, 3, 32, 32, device="cuda") - 0.5
    slopes = []
    for reversible in (False, True):
        torch.manual_seed(0)
        net = Glow(Spec((3, 32, 32)), levels=3, depth=4, width=64, coupling="affine",
                   edge_bias=True, logscale_factor=3.0, reversible=reversible).cuda()  # fmt: skip
        net.start(x)
        z, log_det = net(x, None)
        assert (net.inverse(z, None) - x).abs().max() < 1e-5
        (z.square().sum(1) / 2 - log_det).mean().backward()
        slopes.append([p.grad for p in net.parameters()])
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * float(a.abs().max()))


def test_the_nearest_code_is_the_nearest():
    from genlab.nn.quantize import nearest

    torch.backends.cuda.matmul.allow_tf32 = True
    z, codes = torch.randn(65_536, 64, device="cuda"), torch.randn(8192, 64, device="cuda")
    found = nearest(z, codes)
    for part in range(0, len(z), 4096):
        distance = torch.cdist(z[part : part + 4096].double(), codes.double())
        mine = distance.gather(1, found[part : part + 4096, None])[:, 0]
        assert (mine - distance.min(1).values).max() < 1e-4


def test_the_penalty_is_that_of_the_cpu():
    """Double backward through the layers of critics, at the size they are used in."""
    from genlab.core.contract import Spec
    from genlab.network.dcgan import DCGANCritic

    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    critic = DCGANCritic(Spec((3, 32, 32)), width=64)
    x = torch.randn(16, 3, 32, 32)
    found = {}
    for device in ("cpu", "cuda"):
        net, at = critic.to(device), x.to(device).requires_grad_()
        net.zero_grad()
        (slope,) = torch.autograd.grad(net(at, None).sum(), at, create_graph=True)
        ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
        found[device] = [p.grad.cpu() for p in net.parameters() if p.grad is not None]
    for a, b in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * float(a.abs().max()))
