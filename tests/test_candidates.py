"""Fused kernels that no GPU has timed yet: right, small enough, and fairly compared."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import interpreter
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import bench_fused

pytest.importorskip("triton", reason="the candidates are Triton kernels")

SCRIPTS = Path(bench_fused.__file__).parent


def test_every_candidate_is_its_reference():
    """In a process of its own: Triton reads TRITON_INTERPRET when a kernel is defined."""
    said = interpreter.run("-m", "candidates.check", cwd=SCRIPTS)
    for name in ("group_norm_silu", "adaln", "rms_norm", "nearest_code"):
        assert f"| {name} [" in said


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_candidate_is_its_reference_on_the_gpu():
    from candidates import check

    assert not [row for row in check.every() if not row.error <= row.allowed]


@pytest.mark.slow
def test_every_configuration_fits_an_h100():
    from candidates import fit
    from triton import knobs

    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter compiles nothing")
    try:
        _ = knobs.nvidia.ptxas
    except RuntimeError as e:
        pytest.skip(f"Triton has no assembler here: {e}")
    rows = list(fit.every())
    assert len(rows) == 8 + 12 + 8
    assert not [row for row in rows if row[3].spilled or row[3].shared > fit.SHARED]


def test_the_unet_is_measured_whole():
    from candidates.work import unet_norms

    found = unet_norms(32)
    blocks = 4 * 2 + 2 + 4 * 3  # down, middle, up with a skip more
    assert sum(found.values()) == 2 * blocks + 1
    assert sum(times for (*_, given), times in found.items() if given) == blocks
    assert {side for _, side, _ in found} == {32, 16, 8, 4}


@pytest.mark.parametrize(
    ("ours", "words"),
    [(0.9, "wins, 1.11 times as fast as compiled"), (0.92, "does not win, 1.09 times as fast")],
)
def test_a_candidate_has_to_beat_the_better_of_both(ours, words):
    assert words in bench_fused.verdict("x", {"eager": 1.5, "compiled": 1.0, "ours": ours})


def test_sums_are_over_the_network_and_of_the_quickest_configuration(monkeypatch, capsys):
    """With a clock that knows what each side takes."""
    from candidates.work import Work

    def taking(seconds):
        def f(x):
            return x

        f.takes = seconds
        return f

    def works(shape, times, ours):
        return Work(
            "fused", shape, times, taking(4.0), ours, lambda device: (torch.ones(1),), False
        )

    monkeypatch.setattr(torch, "compile", lambda f, **_: taking(3.0))
    monkeypatch.setattr(bench_fused.Timer, "seconds", lambda self, step, f, *_: f.takes)
    rows = [works("small", 1, [taking(5.0), taking(2.0)]), works("large", 3, [taking(1.0)])]
    bench_fused.bench(rows, torch.device("cpu"), 3)
    said = capsys.readouterr().out
    assert "| fused | small | 1 | forward | 4000000.0 | 3000000.0 | 2000000.0 | 1.50 |" in said
    assert f"fused, forward: wins, {12 / 5:.2f} times as fast as compiled code" in said


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_fused.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit) as stopped:
        bench_fused.main()
    assert stopped.value.code == 5
    said = capsys.readouterr()
    assert said.err == "bench_fused.py times kernels on a CUDA device, and there is none\n"
    assert not said.out
