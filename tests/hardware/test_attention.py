"""hardware.attention: from the key to the layer, what is tried out, said and recorded."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from genlab.assemble.components import build
from genlab.core.contract import Model
from genlab.core.errors import DeviceError
from genlab.hardware.hardware import Hardware
from genlab.kernel import dispatch, math, self_test
from genlab.nn.attention import AttentionLayer
from genlab.run.environment import changes, environment
from genlab.training.setup import set_up

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BACKENDS = ("auto", "flex", "sdpa", "plain")


def hardware(attention, precision="fp32"):
    return Hardware(device="cpu", precision=precision, compile=False, deterministic=True,
                    channels_last=True, attention=attention, threads=1, micro_batch="auto",
                    devices=1, on_spike="warn")  # fmt: skip


class Pair(Model):
    """A model of two layers, one of them with attention, that may want second derivatives."""

    def __init__(self, layer=None, double_backward=False):
        super().__init__()
        self.layer, self.other = layer or AttentionLayer(), nn.Linear(2, 2)
        self.double_backward = double_backward


@pytest.mark.parametrize("attention", BACKENDS)
def test_layers_are_told(attention, tiny):
    config = tiny("flow_matching", **{"hardware.attention": attention})
    built = build(config)
    layers = [m for m in built.model.modules() if isinstance(m, AttentionLayer)]
    assert len(layers) >= 2, "those of the averaged copy, too"
    assert {(m.backend, m.double_backward) for m in layers} == {(attention, False)}
    name = "sdpa" if attention == "auto" else attention
    assert (
        environment(built.hardware, None)["attention"] == built.hardware.attention_backend == name
    )
    assert f"attention by {name}" in built.hardware.describe()


def test_where_nothing_attends_nothing_is_said_or_tried(said, monkeypatch):
    monkeypatch.setattr(self_test, "failure", lambda *_: pytest.fail("tried out for nothing"))
    machine = hardware("flex")
    model = Pair(nn.Linear(2, 2), double_backward=True)
    machine.check_training(model)
    machine.place(model)
    assert (machine.attention_backend, said) == (None, [])
    assert "attention" not in machine.describe()
    assert environment(machine, None)["attention"] is None


def test_in_bf16_a_cpu_writes_short_products_out():
    machine = hardware("auto", "bf16")
    machine.place(Pair())
    assert machine.attention_backend == f"sdpa, plain up to {dispatch.SHORT} tokens"


@pytest.mark.parametrize("attention", BACKENDS)
def test_models_of_double_backward_get_the_products(attention, said):
    machine, model = hardware(attention), Pair(double_backward=True)
    machine.check_training(model)
    machine.place(model)
    assert (model.layer.backend, model.layer.double_backward, machine.attention_backend) == (
        "plain",
        True,
        "plain",
    )
    machine.place(Pair(double_backward=True))
    assert len(said) == 1 and "second derivatives" in said[0]


# --- what a machine does not have ----------------------------------------------------------------


def test_triton_without_a_gpu_is_refused_at_once(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(DeviceError, match="needs a GPU, and the device is cpu"):
        hardware("triton")
    monkeypatch.setattr(dispatch, "TRITON", False)
    with pytest.raises(DeviceError, match="Triton is not installed"):
        hardware("triton")


def test_flex_draws_on_a_cpu_but_does_not_train(tiny):
    config = tiny("flow_matching", **{"hardware.attention": "flex"})
    build(config)
    with pytest.raises(DeviceError, match="cannot train on a CPU"):
        set_up(config, meta=True)  # as before a training, when no directory is made yet
    set_up(tiny("flow_matching", "toy", **{"hardware.attention": "flex"}), meta=True)  # has none


# --- trying Triton out ---------------------------------------------------------------------------


@pytest.fixture
def triton(monkeypatch):
    """triton(reason): a GPU with Triton, on which trying it out finds this."""

    def found(reason):
        monkeypatch.setattr(dispatch, "TRITON", True)
        monkeypatch.setattr(self_test, "failure", lambda device, dtype, widths: reason)

    return found


def resolved(asked, device=GPU, dtype=torch.bfloat16, widths=(64,), dropout=False):
    return self_test.resolve_backend(asked, device, dtype, False, widths, dropout)


def test_auto_takes_triton_where_it_works(triton, said):
    triton("")
    assert resolved("auto") == ("auto", "triton")
    assert resolved("triton") == ("triton", "triton")
    assert resolved("sdpa") == ("sdpa", "sdpa")
    assert not said


def test_auto_falls_back_with_one_line(triton, said):
    triton("CompilationError: no such instruction")
    for _ in range(2):
        assert resolved("auto") == ("sdpa", "sdpa")
    assert len(said) == 1 and "no such instruction" in said[0] and "\n" not in said[0]
    with pytest.raises(DeviceError, match="does not work on this machine: CompilationError"):
        resolved("triton")
    assert resolved("sdpa") == ("sdpa", "sdpa"), "not tried"


def test_heads_too_wide_are_known_before_the_first_step(triton, said):
    triton("")
    found = resolved("auto", widths=[64, 512])
    assert found == ("auto", "triton, sdpa for heads of more than 256")
    assert len(said) == 1 and "heads of 512 numbers" in said[0]
    with pytest.raises(DeviceError, match="no tiles for heads of 512"):
        resolved("triton", widths=[64, 512])


def test_what_drops_weights_is_recorded(said):
    words = "sdpa, plain while weights are dropped"
    assert resolved("auto", CPU, torch.float32, dropout=True) == ("auto", words)
    assert not said, "auto chooses; it does not fall back"
    assert resolved("sdpa", CPU, torch.float32, dropout=True) == ("sdpa", words)
    assert len(said) == 1 and "no dropout" in said[0]


def test_auto_without_triton_says_so(monkeypatch, said):
    monkeypatch.setattr(dispatch, "TRITON", False)
    assert resolved("auto") == ("auto", "sdpa")
    assert said == ["attention: Triton is not installed, so torch's own kernels are used"]


@pytest.fixture
def pretended(monkeypatch):
    """pretended(f): the Triton kernel computes f of the right result."""

    def put(f):
        pretended = replace(
            dispatch.BACKENDS["triton"], load=lambda: lambda *a: (f(math.attend(*a)[0]), None)
        )
        monkeypatch.setitem(dispatch.BACKENDS, "triton", pretended)
        monkeypatch.setattr(dispatch, "TRITON", True)
        monkeypatch.setenv("TRITON_INTERPRET", "1")

    return put


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_right_works_even_in_inference(pretended, dtype):
    pretended(lambda out: out)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert self_test.failure(CPU, dtype, [64]) == ""


def test_what_does_not_work_is_named(pretended):
    def broken(out):
        raise RuntimeError("PassManager failed\n" + "line of IR\n" * 200)

    class WrongSlope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            return 1.5 * slope

    for f, reason in (
        (broken, "RuntimeError: PassManager failed"),
        (lambda out: out * 1.1, "its result is off by"),
        (lambda out: out * float("nan"), "its result is off by nan"),
        (WrongSlope.apply, "its dq is off by 0.5"),
    ):
        pretended(f)
        found = self_test.failure(CPU, torch.float32, [64])
        assert reason in found and "\n" not in found


def test_doctor_tries_it_out(pretended, monkeypatch):
    """As on a GPU machine, with the device of the trial put back."""
    from genlab.cli import doctor

    monkeypatch.setattr("genlab.hardware.hardware.choose", lambda: ("cuda", "bf16"))
    tried = self_test.failure
    monkeypatch.setattr(self_test, "failure", lambda device, *rest: tried(CPU, *rest))
    for f, words in (
        (lambda out: out, "would use triton"),
        (lambda out: 2 * out, "does not work"),
    ):
        pretended(f)
        (line,) = doctor._attention()
        assert words in line, line


# --- the record ----------------------------------------------------------------------------------


def test_another_backend_is_another_run_to_the_bit(tmp_path):
    def recorded(attention):
        machine = hardware(attention)
        machine.place(Pair())
        return environment(machine, None)

    then = recorded("sdpa")
    (tmp_path / "environment.json").write_text(json.dumps(then))
    assert changes(tmp_path, recorded("auto")) == "", "the same kernel computes"
    assert changes(tmp_path, recorded("plain")) == "attention was sdpa, is plain"
    older = {k: v for k, v in then.items() if k != "attention"}
    (tmp_path / "environment.json").write_text(json.dumps(older))
    for now in (then, recorded("plain"), environment(hardware("auto"), None)):
        assert changes(tmp_path, now) == "", "a run that is older than the key"
    assert "attention was sdpa, is triton" in changes(tmp_path, {**then, "attention": "triton"})
