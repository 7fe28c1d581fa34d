"""The algebra of Gaussian paths against formulas written here, path by path."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genlab.assemble.components import build
from genlab.config.compose import compose
from genlab.core import registry
from genlab.core.gaussian_path import (
    TruncatedPath,
    loss_weight,
    noise_levels,
    target_coefficients,
    usable_part,
    x0_coefficients,
)
from tests.process.test_paths import NOISY, PATHS, at, make

PREDICTIONS = ["eps", "x0", "v", "velocity", "score", "F"]
WEIGHTS = ["uniform", "x0", "eps", "velocity", "edm", "min_snr", "likelihood"]
SD = 0.5
ALIKE = {"rtol": 1e-10, "atol": 1e-10}


def heard(process, n: int = 15) -> Tensor:
    """[n] times whose sigma goes from 0.02 to 50, which all paths but short ones have."""
    low, high = process.sigma(at(0, 1)).tolist()
    ends = math.log(max(0.02, low)), math.log(min(50, high))
    return process.time(torch.linspace(*ends, n, dtype=torch.float64).exp())


def pair(n: int = 15) -> tuple[Tensor, Tensor]:
    """x0 of deviation SD and eps, [n, 3]."""
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, n, 3, dtype=torch.float64, generator=g)
    return SD * x0, eps


def column(factors: tuple[Tensor, ...]) -> list[Tensor]:
    return [f[:, None] for f in factors]


# --- predictions ---------------------------------------------------------------------------------


def written_out(a, b, da, db, x0, eps) -> dict[str, Tensor]:
    """Every prediction from its definition."""
    x, sigma = a * x0 + b * eps, b / a
    return {
        "eps": (x - a * x0) / b,
        "x0": x0,
        "v": (eps - sigma * x0) / (1 + sigma**2) ** 0.5,
        "velocity": da * x0 + db * eps,
        "score": b * (-(x - a * x0) / b**2),  # the gradient of log N(x; a x0, b^2)
        "F": (sigma * x0 / SD - SD * eps) / (sigma**2 + SD**2) ** 0.5,
    }


@pytest.mark.parametrize("path", PATHS)
def test_every_prediction_gives_every_other(path):
    process, (x0, eps) = make(path), pair()
    c = process.coefficients(heard(process))
    a, b, da, db = column(c)
    x, wanted = a * x0 + b * eps, written_out(a, b, da, db, x0, eps)
    for one in PREDICTIONS:
        p, q = column(target_coefficients(one, *c, SD))
        torch.testing.assert_close(p * x0 + q * eps, wanted[one], **ALIKE, msg=one)
        alpha, beta = column(x0_coefficients(one, *c, SD))
        datum = alpha * x + beta * wanted[one]
        noise = (x - a * datum) / b
        for other in PREDICTIONS:
            p, q = column(target_coefficients(other, *c, SD))
            torch.testing.assert_close(
                p * datum + q * noise, wanted[other], **ALIKE, msg=f"{one} to {other}"
            )


@pytest.mark.parametrize("path", PATHS)
def test_velocity_from_the_state_and_the_datum(path):
    process, (x0, eps) = make(path), pair()
    t = heard(process)
    a, b, da, db = column(process.coefficients(t))
    x, u = a * x0 + b * eps, da * x0 + db * eps
    for row, level in enumerate(noise_levels(process, t.tolist())[:-1]):
        p, q = level.velocity
        torch.testing.assert_close(p * x[row] + q * x0[row], u[row], **ALIKE)


ONE = lambda sigma: 1 + 0 * sigma  # noqa: E731
PRECONDITIONING = {  # Karras et al. 2022, table 1, and the two columns it lacks
    ("vp, continuous", "eps"): (ONE, lambda s: -s, lambda s: (1 + s**2) ** -0.5),
    ("cosine", "eps"): (ONE, lambda s: -s, lambda s: (1 + s**2) ** -0.5),
    ("ve", "score"): (ONE, lambda s: s, ONE),
    ("edm", "F"): (
        lambda s: SD**2 / (s**2 + SD**2),
        lambda s: s * SD / (s**2 + SD**2) ** 0.5,
        lambda s: (s**2 + SD**2) ** -0.5,
    ),
    ("linear", "velocity"): (
        lambda s: 1 / (1 + s),
        lambda s: -s / (1 + s),
        lambda s: 1 / (1 + s),
    ),
    ("trig", "v"): (
        lambda s: 1 / (1 + s**2),
        lambda s: -s / (1 + s**2) ** 0.5,
        lambda s: (1 + s**2) ** -0.5,
    ),
}


@pytest.mark.parametrize(("path", "predict"), PRECONDITIONING)
def test_every_model_is_a_preconditioning_of_x0_plus_noise(path, predict):
    """D = c_skip y + c_out net(c_in y), y = x_t / a."""
    process = make(path, **({"raw": True} if path == "ve" else {}))
    t = heard(process)
    c, sigma = process.coefficients(t), process.sigma(t)
    skip, out, into = (f(sigma) for f in PRECONDITIONING[path, predict])
    alpha, beta = x0_coefficients(predict, *c, SD)
    torch.testing.assert_close(alpha * c[0], skip, **ALIKE)
    torch.testing.assert_close(beta, out, **ALIKE)
    torch.testing.assert_close(process.c_in(t, SD) * c[0], into, **ALIKE)


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_predictions_have_values_at_both_ends(path, predict):
    process = usable_part(make(path), predict)
    c = process.coefficients(at(0, 1e-12, 1e-5, 1 - 1e-12, 1))
    alpha, beta = x0_coefficients(predict, *c, SD)
    assert alpha.isfinite().all()
    assert beta.isfinite().all()
    if predict != "velocity" or c[3][0].isfinite():  # the slope of sqrt(t) at 0
        assert all(v.isfinite().all() for v in target_coefficients(predict, *c, SD))
    if path not in NOISY and predict != "x0":  # no noise: what is seen is the datum
        assert (alpha[0].item(), beta[0].item()) == pytest.approx((1, 0))


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [w for w in WEIGHTS if w != "uniform"])
@pytest.mark.parametrize("path", PATHS)
def test_a_weight_is_the_same_whatever_is_predicted(path, weight):
    """Errors e0 of the datum: each prediction's own error, times its weight, is one number."""
    process = make(path)
    t, e0 = heard(process), pair()[0]
    c = process.coefficients(t)
    a, b, da, db = c
    own = {  # of a datum wrong by e0 at the same x_t, the noise is wrong by -a / b e0
        name: (v.square().sum(1), e0.square().sum(1))
        for name, v in written_out(*column(c), e0, -(a / b)[:, None] * e0).items()
    }
    sigma = b / a
    wanted = {
        "x0": torch.ones_like(a),
        "eps": 1 / sigma**2,
        "velocity": (da - a * db / b) ** 2,
        "edm": (sigma**2 + SD**2) / (sigma * SD) ** 2,
        "min_snr": (1 / sigma**2).clamp(max=5),
        "likelihood": _half_fall_of_snr(process, t),
    }[weight]
    exact = weight != "likelihood"
    for predict, (error, on_datum) in own.items():
        found = loss_weight(weight, predict, *c, SD) * error / on_datum
        torch.testing.assert_close(
            found, wanted, rtol=1e-9 if exact else 1e-4, atol=0, msg=predict
        )


def _half_fall_of_snr(process, t: Tensor) -> Tensor:
    h = t * 1e-6
    before, after = (process.sigma(v) ** -2 for v in (t - h, t + h))
    return -(after - before) / (2 * h) / 2


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_weights_have_values_wherever_a_model_learns(path, predict):
    process = usable_part(make(path), predict)
    first = 1e-5 if process.steps is None else 1 / process.steps
    c = process.coefficients(at(first, 0.5, 1 - 1e-12, 1))
    for weight in WEIGHTS:
        w = loss_weight(weight, predict, *c, SD)
        assert w.isfinite().all(), weight
        assert (w >= 0).all(), weight
    assert (loss_weight("uniform", predict, *c, SD) == 1).all()


# --- where a path may be read --------------------------------------------------------------------


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_noise_is_predicted_where_it_tells_of_the_datum(path, predict):
    """Paths that lose their datum end at sigma = 200 for it, and no other path or prediction."""
    process = make(path)
    found = usable_part(process, predict)
    if predict in ("eps", "score") and path.startswith(("linear", "trig", "cos", "shifted")):
        assert isinstance(found, TruncatedPath)
        # or the nearest level, two of which differ by a tenth there
        exact = 1e-9 if process.steps is None else 0.15
        assert found.sigma(at(1)).item() == pytest.approx(200, rel=exact)
    else:
        assert found is process


@pytest.mark.parametrize("name", sorted(registry.components("process")))
def test_models_of_every_path_are_checked_without_storage(name):
    words = ["data=digits", f"process={name}", "model.predict=eps", "hardware=cpu"]
    built = build(compose([*words, "network=unet_small"]), meta=True)
    process = built.model.process
    assert all(p.is_meta for p in built.model.parameters())
    assert process.sigma(at(1)).item() < 231  # of the level next to 200, it has numbers


# --- a part of a path ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_cut_path_is_the_path_up_to_there(path):
    process = make(path)
    cut = TruncatedPath(process, 0.7)
    t, end = torch.linspace(0.01, 1, 34, dtype=torch.float64), cut.end
    assert end == 0.7
    a, b, da, db = process.coefficients(0.7 * t)
    torch.testing.assert_close(cut.coefficients(t), (a, b, da * 0.7, db * 0.7))
    torch.testing.assert_close(cut.sigma(t), b / a)
    torch.testing.assert_close(cut.time(b / a), t)
    torch.testing.assert_close(cut.c_noise(t), process.c_noise(0.7 * t))
    torch.testing.assert_close(cut.c_in(t, SD), process.c_in(0.7 * t, SD))
    assert cut.time(process.sigma(at(0.9))).item() == 1
    assert cut.steps == (None if process.steps is None else round(0.7 * process.steps))


def test_a_discrete_path_is_cut_at_one_of_its_levels():
    cut = TruncatedPath(make("vp"), 0.12345)
    assert (cut.steps, cut.end) == (123, 0.123)
    assert TruncatedPath(make("vp"), 1e-9).steps == 1


@pytest.mark.parametrize("end", [0.0, -0.5, 1.5, math.nan])
def test_a_path_is_cut_inside(end):
    with pytest.raises(ValueError, match="cut at a time in"):
        TruncatedPath(make("linear"), end)
