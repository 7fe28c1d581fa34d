"""LPIPS against its formula, values of the package of its authors, and that package itself."""

import pytest
import torch
from torch import nn

from genlab.core.errors import DataError
from genlab.core.metric import Pairs
from genlab.metric.lpips import LPIPS
from genlab.nn.backbones import VGG16, AlexNet, ConvBackbone
from genlab.nn.perceptual import Perceptual
from tests.helpers.feature_files import WEIGHTS, random_backbone, random_heads, saved
from tests.helpers.given_inputs import Given

REAL = {"alex": "alexnet_features.pth", "vgg": "vgg16_features_fp16.pth"}
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs the weights")


class Tiny(ConvBackbone):
    """Two taps: the pixels themselves doubled, and a sum over channels beside zeros."""

    name, file, taps, widths, least = "Tiny", "", (1, 3), (3, 2), 1

    def __init__(self):
        first, second = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            first.weight.copy_(2 * torch.eye(3)[:, :, None, None])
            second.weight.zero_()
            second.weight[0] = 1
        super().__init__([first, nn.ReLU(), second, nn.ReLU()])


def tiny(shift=True):
    net = Perceptual(Tiny())
    heads = random_heads(Tiny.widths)
    net.heads.load_state_dict(heads)
    return net, [h.flatten().double() for h in heads.values()]


@torch.no_grad()
def test_the_distance_written_out_pixel_by_pixel():
    net, heads = tiny()
    g = torch.Generator().manual_seed(1)
    a, b = (torch.rand(2, 3, 4, 5, generator=g) * 2 - 1 for _ in range(2))
    shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

    def seen(x):
        """The maps of one pixel of three numbers, each of length one."""
        first = [max(0.0, 2 * (v - m) / s) for v, m, s in zip(x, shift, scale, strict=True)]
        maps = [torch.tensor(first).double(), torch.tensor([sum(first), 0.0]).double()]
        return [m / m.norm().clamp(min=1e-10) for m in maps]

    for x, y, found in zip(a, b, net(a, b), strict=True):
        total = 0.0
        for i in range(4):
            for j in range(5):
                both = zip(
                    seen(x[:, i, j].tolist()), seen(y[:, i, j].tolist()), heads, strict=True
                )
                total += sum(float((w * (p - q) ** 2).sum()) for p, q, w in both) / 20
        assert float(found) == pytest.approx(total, rel=1e-5)


def test_equal_images_are_at_zero_and_the_distance_is_symmetric():
    net, _ = tiny()
    a, b = torch.rand(3, 3, 6, 6), torch.rand(3, 3, 6, 6)
    assert net(a, a).tolist() == [0, 0, 0]
    assert (net(a, b) > 0).all()
    torch.testing.assert_close(net(a, b), net(b, a))


def test_its_gradient_exists_where_a_pixel_leaves_all_channels_at_zero():
    net, _ = tiny()
    a = torch.full((1, 3, 2, 2), -1.0, requires_grad=True)
    net(a, torch.rand(1, 3, 2, 2)).sum().backward()
    assert a.grad.isfinite().all()


def files(folder, net, seed=0):
    network = {"alex": AlexNet, "vgg": VGG16}[net]()
    backbone = saved(random_backbone(network, seed), folder / f"{net}.safetensors")
    heads = saved(random_heads(network.widths, seed), folder / f"{net}_heads.pth")
    return {"net": net, "backbone": backbone, "heads": heads}


@pytest.mark.parametrize(("net", "side"), [("alex", 31), ("vgg", 16)])
def test_the_metric_is_the_mean_of_parts_and_knows_its_smallest_image(
    tmp_path, net, side, monkeypatch
):
    metric = LPIPS(**files(tmp_path, net))
    g = torch.Generator().manual_seed(2)
    a, b = (torch.randint(256, (5, 1, side, 40), generator=g, dtype=torch.uint8) for _ in "ab")
    pairs = Given(both=Pairs(a, b, torch.zeros(5, 1)))
    whole = metric(pairs).values["lpips"]
    alone = [
        float(
            metric.network(
                x.expand(3, -1, -1)[None] / 127.5 - 1, y[None].expand(1, 3, -1, -1) / 127.5 - 1
            )
        )
        for x, y in zip(a, b, strict=True)
    ]
    assert whole == pytest.approx(sum(alone) / 5, rel=1e-5)
    assert whole > 0.01
    monkeypatch.setattr("genlab.metric.pairwise.PIXELS", 2 * a[0].numel())
    assert metric(pairs).values["lpips"] == pytest.approx(whole, rel=1e-5)
    less = Given(both=Pairs(a[..., 1:, :], b[..., 1:, :], torch.zeros(5, 1)))
    with pytest.raises(
        DataError, match=f"at least {side} pixels, not {side - 1} x 40; use metric"
    ):
        metric(less)
    with pytest.raises(DataError, match="channels, not 2"):
        metric(
            Given(both=Pairs(a.expand(-1, 2, -1, -1), b.expand(-1, 2, -1, -1), torch.zeros(5, 1)))
        )


def test_the_digest_is_of_both_files(tmp_path):
    first = files(tmp_path, "alex")
    digests = {LPIPS(**first).digest}
    (tmp_path / "other").mkdir()
    other = files(tmp_path / "other", "alex", seed=1)
    for key in ("backbone", "heads"):
        digests.add(LPIPS(**{**first, key: other[key]}).digest)
    assert len(digests) == 3
    assert "f45f71c271c3" in digests, "names of parameters are part of it, and of results"


def test_files_that_are_missing_or_of_the_other_network_are_said(tmp_path):
    alex, vgg = files(tmp_path, "alex"), files(tmp_path, "vgg")
    cases = [
        ({**alex, "backbone": None}, r"metric\.lpips\.backbone is null.*alexnet-owt"),
        ({**alex, "heads": None}, r"metric\.lpips\.heads is null.*v0\.1/alex\.pth"),
        ({**alex, "backbone": vgg["backbone"]}, "looks like VGG16.*and AlexNet of torchvision is"),
        (
            {**alex, "heads": vgg["heads"]},
            "the heads of LPIPS, and the heads of LPIPS for AlexNet",
        ),
        ({**alex, "heads": alex["backbone"]}, "looks like AlexNet"),
    ]
    for keys, words in cases:
        with pytest.raises(DataError, match=words):
            LPIPS(**keys)


def drawn():
    """Two pictures of 64 x 64, made by a formula."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    phases = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)
    a = 127.5 + 100 * torch.sin(x / 5 + y / 9 + phases)
    b = 127.5 + 100 * torch.sin(x / 5 + y / 9 + phases + 0.5 * torch.cos(y / 3))
    return a.round().byte()[None], b.round().byte()[None]


@needs_weights
@pytest.mark.parametrize(("net", "value"), [("alex", 0.0887415), ("vgg", 0.4369384)])
def test_the_value_that_the_package_of_its_authors_gives(net, value):
    """Values of lpips 0.1.4 with these files."""
    metric = LPIPS(
        net=net,
        backbone=str(WEIGHTS / REAL[net]),
        heads=str(WEIGHTS / f"lpips_v0.1_lin_{net}.pth"),
    )
    a, b = drawn()
    found = metric(Given(both=Pairs(a, b, torch.zeros(1, 1)))).values["lpips"]
    assert found == pytest.approx(value, rel=1e-4)


@pytest.mark.peer
@needs_weights
@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_it_is_the_package_of_its_authors(net):
    lpips = pytest.importorskip("lpips")
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    weights = torch.load(WEIGHTS / REAL[net], weights_only=True)
    for i in range(1, 6):
        for number, layer in getattr(theirs.net, f"slice{i}").named_children():
            for kind, tensor in layer.named_parameters():
                tensor.data.copy_(weights[f"features.{number}.{kind}"].float())
    ours = Perceptual({"alex": AlexNet, "vgg": VGG16}[net]())
    ours.load(WEIGHTS / REAL[net], WEIGHTS / f"lpips_v0.1_lin_{net}.pth")
    g = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, 64, 48, generator=g) * 2 - 1
    noise = torch.randn(a.shape, generator=g) * torch.tensor([0.1, 0.5, 2]).view(3, 1, 1, 1)
    pairs = [(a, (a + noise).clamp(-1, 1)), tuple(u.float() / 127.5 - 1 for u in drawn())]
    for x, y in pairs:
        with torch.no_grad():
            wanted = theirs(x, y).flatten()
            torch.testing.assert_close(ours.eval()(x, y), wanted, rtol=1e-5, atol=1e-6)
