"""The processes: derivatives by finite differences, both directions, ends, papers' numbers."""

from __future__ import annotations

import math

import pytest
import torch

from genlab.core import registry
from genlab.core.contract import Spec
from genlab.core.errors import ConfigError
from tests.helpers.paths import made

IMAGES = Spec((3, 128, 128))

OTHER = {
    "vp, continuous": ("vp", {"steps": None}),
    "vp, 10 steps": ("vp", {"steps": 10, "beta_max": 5.0}),
    "vp, one rate": ("vp", {"beta_min": 3.0, "beta_max": 3.0, "steps": None}),
    "cosine, continuous": ("cosine", {"steps": None}),
    "cosine, no offset": ("cosine", {"steps": None, "offset": 0.0}),
    "shifted_cosine, two": ("shifted_cosine", {"reference": [32, 64]}),
}
"""Paths with other keys than those of their yaml."""

PATHS = [*sorted(registry.components("process")), *OTHER]
NOISY = {"ve", "shifted_cosine", "shifted_cosine, two"}
"""Paths with noise at t = 0."""


def make(path: str, spec: Spec = IMAGES, **keys: object):
    """A path with the keys of its yaml but for those given."""
    name, own = OTHER.get(path, (path, {}))
    return made("process", name, {**own, **keys}, spec=spec)


def at(*t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


def times() -> torch.Tensor:
    """All of (0, 1), closely at both ends."""
    near = torch.logspace(-6, -1, 41, dtype=torch.float64)
    return torch.cat(
        [near, torch.linspace(0.1, 0.9, 161, dtype=torch.float64), (1 - near).flip(0)]
    )


# --- every path ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_all_numbers_are_float64_of_the_shape_of_t(path):
    process, t = make(path), torch.rand(5)
    outs = (*process.coefficients(t), process.sigma(t), process.time(t))
    for out in (*outs, process.c_noise(t), process.c_in(t, 0.5)):
        assert out.shape == (5,)
        assert out.dtype == torch.float64


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_are_those_of_finite_differences(path):
    process, h = make(path), 1e-6
    # between the levels of a discrete path, where second derivatives do not jump
    t = torch.linspace(0.0503, 0.9503, 19, dtype=torch.float64)
    before, after = process.coefficients(t - h), process.coefficients(t + h)
    _, _, da, db = process.coefficients(t)
    torch.testing.assert_close(da, (after[0] - before[0]) / (2 * h), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(db, (after[1] - before[1]) / (2 * h), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("path", ["vp", "vp, 10 steps", "cosine"])
def test_derivatives_do_not_jump_at_the_levels_of_a_discrete_path(path):
    """Where float32 times are on either side of a level, both give the same velocity."""
    process = make(path)
    level = torch.arange(1, process.steps, dtype=torch.float64) / process.steps
    for below, above in zip(
        process.coefficients(level - 1e-9), process.coefficients(level + 1e-9), strict=True
    ):
        torch.testing.assert_close(below, above, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_goes_from_the_datum_to_noise(path):
    process, t = make(path), torch.linspace(0, 1, 1001, dtype=torch.float64)
    a, b, da, db = process.coefficients(t)
    assert (b.diff() >= 0).all()
    assert (a.diff() <= 0).all()
    assert (process.sigma(t).diff() > 0).all()
    assert all(v[1:].isfinite().all() for v in (a, b, da, db))
    assert a[0] == pytest.approx(1, abs=1e-5)
    assert (b[0] == 0) == (path not in NOISY)
    assert b[0] < 0.02


@pytest.mark.parametrize("path", PATHS)
def test_time_is_the_inverse_of_sigma(path):
    process, t = make(path), times()
    torch.testing.assert_close(process.time(process.sigma(t)), t, rtol=1e-9, atol=0)


@pytest.mark.parametrize("path", PATHS)
def test_sigma_is_the_inverse_of_time(path):
    process = make(path)
    first, last = process.sigma(at(0, 1)).tolist()
    # time itself rounds to 1e-16, which is 1e-16 sigma of 1 - t on paths that lose their datum
    sigma = torch.logspace(-6, 6, 241, dtype=torch.float64)
    sigma = sigma[(sigma > first) & (sigma < last)]
    assert len(sigma) > 50
    torch.testing.assert_close(process.sigma(process.time(sigma)), sigma, rtol=1e-8, atol=0)


@pytest.mark.parametrize("path", PATHS)
def test_what_lies_outside_a_path_gives_its_nearer_end(path):
    process = make(path)
    first, last = process.sigma(at(0, 1)).tolist()
    t = process.time(at(0, first * (1 - 1e-9), last * (1 + 1e-9), 1e200, math.inf))
    assert t[:2].tolist() == [0, 0]
    assert t[2:].tolist() == pytest.approx([1] * 3, abs=1e-15)
    assert ((t >= 0) & (t <= 1)).all()


@pytest.mark.parametrize("path", PATHS)
def test_no_number_is_fetched_from_the_device(path):
    """On the meta device there are no numbers: whatever asks for one, and would wait, raises."""
    with torch.device("meta"):
        process = make(path)
    t = torch.empty(5, device="meta")
    for out in (
        *process.coefficients(t),
        process.time(t),
        process.c_noise(t),
        process.c_in(t, 0.5),
    ):
        assert out.is_meta
    t = torch.rand(5)  # built among weights without storage, it has all of its own numbers
    torch.testing.assert_close(process.coefficients(t), make(path).coefficients(t), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("path", PATHS)
def test_a_gpu_is_not_waited_for(path):
    process, t = make(path), torch.rand(64)
    there = t.cuda()
    process.coefficients(there), process.time(there)  # a table goes to the device once
    torch.cuda.set_sync_debug_mode("error")
    try:
        outs = [*process.coefficients(there), process.time(there), process.c_noise(there)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for out, here in zip(
        outs, [*process.coefficients(t), process.time(t), process.c_noise(t)], strict=True
    ):
        torch.testing.assert_close(out.cpu(), here, rtol=1e-12, atol=1e-14)


# --- the formulas and constants of the papers ----------------------------------------------------


def rates(t):
    """ln of 1 / a^2 with the rates of score SDEs, 0.1 to 20."""
    return 0.1 * t + 19.9 * t**2 / 2


def phi(t):
    return math.pi / 2 * (t + 0.008) / 1.008


FORMULAS = {
    "linear": (lambda t: 1 - t, lambda t: t),
    "edm": (lambda t: 1, lambda t: 80 * t),
    "ve": (lambda t: 1, lambda t: 0.01 * 5000**t),
    "trig": (lambda t: math.cos(math.pi * t / 2), lambda t: math.sin(math.pi * t / 2)),
    "vp, continuous": (
        lambda t: math.exp(-rates(t) / 2),
        lambda t: math.sqrt(1 - math.exp(-rates(t))),
    ),
    "sub_vp": (lambda t: math.exp(-rates(t) / 2), lambda t: 1 - math.exp(-rates(t))),
    "cosine, continuous": (
        lambda t: math.cos(phi(t)) / math.cos(phi(0)),
        lambda t: math.sqrt(1 - (math.cos(phi(t)) / math.cos(phi(0))) ** 2),
    ),
}


@pytest.mark.parametrize("path", FORMULAS)
def test_formulas(path):
    t = [0.01, 0.1, 0.3, 0.5, 0.8, 0.99]
    a, b, _, _ = make(path).coefficients(at(*t))
    for found, formula in zip((a, b), FORMULAS[path], strict=True):
        assert found.tolist() == pytest.approx([formula(v) for v in t], rel=1e-12)


def test_levels_of_ddpm():
    process, left, a2 = make("vp"), 1.0, []
    for i in range(1000):
        left *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        a2.append(left)
    a, b, _, _ = process.coefficients(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(a.square(), at(*a2), rtol=1e-11, atol=0)
    torch.testing.assert_close(a.square() + b.square(), torch.ones_like(a), rtol=1e-14, atol=0)
    sigma = process.sigma(at(0.001, 1)).tolist()
    assert sigma == pytest.approx([0.0100, 157.41], rel=1e-4)
    assert a2[-1] == pytest.approx(4.04e-5, abs=0.005e-5)


def test_constants_of_score_sdes():
    sigma = make("vp", steps=None).sigma(at(1e-5, 1e-3, 1))
    assert sigma.tolist() == pytest.approx([0.0010, 0.0105, 152.17], rel=6e-3)
    assert sigma[2].item() == pytest.approx(152.17, abs=0.005)
    assert make("ve").sigma(at(0, 1)).tolist() == pytest.approx([0.01, 50], rel=1e-14)


def test_levels_of_improved_ddpm_are_those_that_edm_reads_from_it():
    """Karras et al. 2022, table 1: a recursion from the other end, with C1 = .001, C2 = .008."""
    steps, c1, c2 = 1000, 0.001, 0.008
    left = [math.sin(math.pi / 2 * j / (steps * (c2 + 1))) ** 2 for j in range(steps + 1)]
    u = [0.0]  # u_M
    for j in range(steps, 0, -1):
        u.append(math.sqrt((u[-1] ** 2 + 1) / max(left[j - 1] / left[j], c1) - 1))
    process = make("cosine")
    sigma = process.sigma(torch.arange(1, steps + 1, dtype=torch.float64) / steps)
    torch.testing.assert_close(sigma, at(*u[1:]), rtol=1e-7, atol=0)
    assert sigma[-1].item() == pytest.approx(2.0e4, rel=0.02)


@pytest.mark.parametrize("path", ["vp", "cosine"])
def test_many_steps_are_the_continuous_path(path):
    """A sum over steps differs from its integral by half as much when steps double."""
    t = torch.linspace(0.05, 0.9, 18, dtype=torch.float64)
    exact = make(path, steps=None).sigma(t)
    off = [((make(path, steps=n).sigma(t) - exact) / exact).abs().max() for n in (500, 1000)]
    assert off[1] < 0.06
    assert off[1] < 0.6 * off[0] or off[1] < 1e-5


def test_cosine_without_offset_is_trig():
    t = times()
    for found, wanted in zip(
        make("cosine, no offset").coefficients(t), make("trig").coefficients(t), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def log_snr(process, t):
    return -2 * process.sigma(t).log()


def test_larger_images_get_more_noise():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    own = {d: log_snr(make("shifted_cosine", Spec((3, d, d))), t) for d in (64, 128, 256, 512)}
    for d, shift in ((128, -1.386), (256, -2.773), (512, -4.159)):
        assert (own[d] - own[64]).tolist() == pytest.approx([shift] * 11, abs=5e-4)
    assert own[64][[0, -1]].tolist() == pytest.approx([15, -15], rel=1e-9)
    off = 2 / math.pi * math.atan(math.exp(-7.5))  # of the time at each end, to stay in [-15, 15]
    plain = [-2 * math.log(math.tan(math.pi / 2 * (off + (1 - 2 * off) * v))) for v in t.tolist()]
    assert own[64].tolist() == pytest.approx(plain, abs=1e-9)


def test_two_references_are_mixed_from_the_larger_to_the_smaller():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    low, high, both = (log_snr(make("shifted_cosine", reference=r), t) for r in (32, 64, [32, 64]))
    torch.testing.assert_close(both, t * low + (1 - t) * high)


# --- c_noise and c_in ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "c_noise", "c_in"),
    [  # 1000 x c_noise; a x c_in, which is of x0 + sigma eps
        ("vp, continuous", lambda t, sigma: 999 * t, lambda sigma: 1 / math.sqrt(1 + sigma**2)),
        ("sub_vp", lambda t, sigma: 999 * t, None),
        ("vp", lambda t, sigma: 1000 * t - 1, lambda sigma: 1 / math.sqrt(1 + sigma**2)),
        ("cosine", lambda t, sigma: 1000 * t - 1, lambda sigma: 1 / math.sqrt(1 + sigma**2)),
        ("ve", lambda t, sigma: math.log(sigma / 2), lambda sigma: 1 / math.hypot(0.5, sigma)),
        ("edm", lambda t, sigma: math.log(sigma) / 4, lambda sigma: 1 / math.hypot(0.5, sigma)),
        ("linear", lambda t, sigma: 1000 * sigma / (1 + sigma), lambda sigma: 1 / (1 + sigma)),
    ],
)
def test_c_noise_and_c_in(path, c_noise, c_in):
    process, t = make(path), at(0.001, 0.25, 0.5, 0.999)
    sigma = process.sigma(t).tolist()
    wanted = [c_noise(*pair) for pair in zip(t.tolist(), sigma, strict=True)]
    assert (1000 * process.c_noise(t)).tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    if c_in:
        a, _, _, _ = process.coefficients(t)
        found = (process.c_in(t, 0.5) * a).tolist()
        assert found == pytest.approx([c_in(s) for s in sigma], rel=1e-12)


def test_the_papers_of_ve_show_the_state_itself():
    t = at(0, 0.5, 1)
    assert make("ve", raw=True).c_in(t, 0.5).tolist() == [1, 1, 1]


def test_less_noise_than_the_first_level_has_its_c_noise():
    process = make("vp")
    assert process.c_noise(at(0, 0.0005, 0.001)).tolist() == [0, 0, 0]
    assert process.c_noise(at(0.002)).item() == pytest.approx(0.001)


def test_c_noise_of_edm_is_finite_where_there_is_no_noise():
    assert make("edm").c_noise(at(0)).isfinite().all()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "keys", "why"),
    [
        ("ve", {"sigma_min": 50.0}, "below sigma_max"),
        ("vp", {"beta_min": 30.0}, "above beta_max"),
        ("vp", {"steps": 20}, "beta_max below 20"),
        ("vp", {"beta_min": 0.0}, "above 0"),
        ("sub_vp", {"beta_min": 30.0}, "above beta_max"),
        ("cosine", {"cap": 1.0}, "between 0 and 1"),
        ("shifted_cosine", {"reference": [64, 32]}, "that rise"),
        ("shifted_cosine", {"reference": []}, "one size or two"),
        ("shifted_cosine", {"reference": -1}, "> 0"),
    ],
)
def test_keys_that_are_no_path(path, keys, why):
    with pytest.raises(ConfigError, match=why):
        make(path, **keys)


def test_points_have_no_resolution():
    with pytest.raises(ConfigError, match="use process=cosine or trig"):
        make("shifted_cosine", Spec((2,)))
