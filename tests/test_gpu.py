"""What only a GPU can show: no sync between logs, exact resume, compiled networks, both halves."""

import pytest
import torch
from test_contract import MODELS, largest_difference, make, tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

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

    from genlab.run.checkpoint import (
        load_model,
        load_optimizers,
        model_tensors,
        optimizer_tensors,
    )

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
