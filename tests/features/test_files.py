"""Feature networks read from files: names, sizes, preparation, and what is said of wrong ones."""

import math

import pytest
import torch
from torch import nn

from genlab.core.contract import Spec
from genlab.core.errors import DataError
from genlab.features import classifiers
from genlab.features.classifiers import AlexNetFeatures, VGG16Features
from genlab.features.clip import CLIP
from genlab.features.dinov2 import DINOv2
from genlab.nn.backbones import VGG16, AlexNet
from genlab.nn.pretrained_weights import renamed
from genlab.nn.vit import ViT
from tests.helpers.feature_files import WEIGHTS, random_backbone, saved

GREY, COLOUR = Spec((1, 20, 20)), Spec((3, 20, 20))
BACKBONES = {"vgg16": (VGG16, VGG16Features, 512), "alexnet": (AlexNet, AlexNetFeatures, 256)}


def images(n=3, c=3, h=20, w=20, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, c, h, w), generator=g, dtype=torch.uint8)


# --- VGG16 and AlexNet ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_the_mean_of_the_last_map(tmp_path, monkeypatch, name):
    """Of 64 pixels here; a network of convolutions takes any number."""
    monkeypatch.setattr(classifiers, "SIZE", 64)
    backbone, features, width = BACKBONES[name]
    net = backbone()
    weights = random_backbone(net)
    net.load_state_dict(weights)
    classifier = {"classifier.1.weight": torch.ones(3, 3)}  # of the whole file of torchvision
    file = saved(weights | classifier, tmp_path / "w.pth")
    network = features(GREY, torch.device("cpu"), file=file)
    assert network.outputs == {"pool": width}
    u = images(1, 1)
    x = network.preprocess(u)
    for layer in net.features[: net.taps[-1] + 1]:
        x = layer(x)
    pool = network(u)["pool"]
    assert (pool.dtype, pool.shape) == (torch.float32, (1, width))
    torch.testing.assert_close(pool, x.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert pool.std() > 0.01


@pytest.mark.parametrize("net", [VGG16(), AlexNet()], ids=["vgg16", "alexnet"])
def test_the_smallest_image_leaves_a_pixel_at_the_last_tap(net):
    maps = net(torch.zeros(1, 3, net.least, net.least))
    assert [m.shape[1] for m in maps] == list(net.widths)
    assert maps[-1].shape[2:] == (1, 1)
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 3, net.least - 1, net.least - 1))


@pytest.mark.peer
@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_are_those_of_torchvision(name):
    models = pytest.importorskip("torchvision.models")
    theirs = getattr(models, name)(weights=None).eval()
    ours = BACKBONES[name][0]()
    weights = {n: t for n, t in theirs.state_dict().items() if n.startswith("features.")}
    assert ours.state_dict().keys() == weights.keys()
    ours.load_state_dict(weights)
    x = torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y, wanted = x, []
        for number, layer in enumerate(theirs.features):
            y = layer(y)
            if number in ours.taps:
                wanted.append(y.clone())
        torch.testing.assert_close(ours(x), wanted)


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs the weights")
@pytest.mark.parametrize(
    ("features", "file"),
    [(VGG16Features, "vgg16_features_fp16.pth"), (AlexNetFeatures, "alexnet_features.pth")],
)
def test_real_weights_tell_pictures_from_their_blurred_copies(features, file):
    """Two crops of a picture are nearer to each other than to what has lost its detail."""
    network = features(COLOUR, file=str(WEIGHTS / file))
    coarse = nn.functional.interpolate(images(4, 3, 8, 8).float(), 64, mode="bicubic").clamp(
        0, 255
    )
    fine = (coarse + 60 * torch.randn(coarse.shape)).clamp(0, 255)
    blurred = nn.functional.avg_pool2d(fine, 5, 1, 2)
    u = torch.cat([fine, fine.flip(3), blurred]).byte()
    a, b, c = network(u)["pool"].chunk(3)
    assert ((a - b).norm(dim=1) < (a - c).norm(dim=1)).all()


# --- DINOv2 and CLIP -----------------------------------------------------------------------------


class Weights(dict):
    """Random weights by name, drawn in the order in which they are asked for."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def drawn(self, name, *shape, scale=1.0, center=0.0):
        self[name] = center + scale * (torch.randn(shape, generator=self.generator) * 0.1)

    def norm(self, name, width):
        self.drawn(f"{name}.weight", width, center=1.0)
        self.drawn(f"{name}.bias", width)

    def linear(self, name, out, *into, dot="."):
        self.drawn(f"{name}{dot}weight", out, *into)
        self.drawn(f"{name}{dot}bias", out)


def tiny_dino(grid=3, registers=0, width=128, depth=2, patch=14, seed=0):
    """Random weights in the official names."""
    w = Weights(seed)
    w.drawn("cls_token", 1, 1, width)
    w.drawn("mask_token", 1, width)
    w.drawn("pos_embed", 1, 1 + grid**2, width, scale=3.0)
    w.linear("patch_embed.proj", width, 3, patch, patch)
    w.norm("norm", width)
    if registers:
        w.drawn("register_tokens", 1, registers, width)
    for i in range(depth):
        block = f"blocks.{i}."
        w.norm(block + "norm1", width)
        w.linear(block + "attn.qkv", 3 * width, width)
        w.linear(block + "attn.proj", width, width)
        w.drawn(block + "ls1.gamma", width, center=1.0)
        w.norm(block + "norm2", width)
        w.linear(block + "mlp.fc1", 2 * width, width)
        w.linear(block + "mlp.fc2", width, 2 * width)
        w.drawn(block + "ls2.gamma", width, center=1.0)
    return dict(w)


def tiny_clip(grid=3, width=128, depth=2, patch=16, out=48, seed=0):
    """Random weights in the names of OpenAI, with a text tower."""
    w = Weights(seed)
    w.drawn("visual.class_embedding", width)
    w.drawn("visual.positional_embedding", 1 + grid**2, width)
    w.drawn("visual.proj", width, out)
    w.drawn("visual.conv1.weight", width, 3, patch, patch)
    w.norm("visual.ln_pre", width)
    w.norm("visual.ln_post", width)
    for i in range(depth):
        block = f"visual.transformer.resblocks.{i}."
        w.norm(block + "ln_1", width)
        w.linear(block + "attn.in_proj", 3 * width, width, dot="_")
        w.linear(block + "attn.out_proj", width, width)
        w.norm(block + "ln_2", width)
        w.linear(block + "mlp.c_fc", 4 * width, width)
        w.linear(block + "mlp.c_proj", width, 4 * width)
    text = {"logit_scale": (), "positional_embedding": (7, 32), "text_projection": (32, out)}
    text |= {"transformer.resblocks.0.ln_1.weight": (32,), "ln_final.bias": (32,)}
    for name, shape in text.items():
        w.drawn(name, *shape)
    return dict(w)


def layer_norm(x, weights, name, eps):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(x, weight, bias, heads):
    """Softmax attention of one image [T, D], a head at a time."""
    q, k, v = (x @ weight.T + bias).chunk(3, 1)
    parts = [
        torch.softmax(a @ b.T / a.shape[1] ** 0.5, 1) @ c
        for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True)
    ]
    return torch.cat(parts, 1)


def patches_of(x, weight, bias):
    """[3, S, S] -> [T, D], cut out one by one."""
    p = weight.shape[-1]
    cut = [
        x[:, i : i + p, j : j + p]
        for i in range(0, x.shape[1], p)
        for j in range(0, x.shape[2], p)
    ]
    return torch.stack([(weight * c).sum((1, 2, 3)) + bias for c in cut])


def dino_by_hand(w, x, registers=0, depth=2, heads=2):
    """The class token of one image, every step written out; w in float64."""
    h = patches_of(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"])
    h = torch.cat([w["cls_token"][0], h]) + w["pos_embed"][0]
    if registers:
        h = torch.cat([h[:1], w["register_tokens"][0], h[1:]])
    for i in range(depth):
        b = {n.removeprefix(f"blocks.{i}."): t for n, t in w.items()}
        y = attend(
            layer_norm(h, b, "norm1", 1e-6), b["attn.qkv.weight"], b["attn.qkv.bias"], heads
        )
        h = h + b["ls1.gamma"] * (y @ b["attn.proj.weight"].T + b["attn.proj.bias"])
        y = layer_norm(h, b, "norm2", 1e-6) @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        y = y * (1 + torch.erf(y / 2**0.5)) / 2
        h = h + b["ls2.gamma"] * (y @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"])
    return layer_norm(h, w, "norm", 1e-6)[0]


def clip_by_hand(w, x, gelu, depth=2, heads=2):
    """The embedding of one image, every step written out; w in float64."""
    w = {n.removeprefix("visual."): t for n, t in w.items() if n.startswith("visual.")}
    h = torch.cat([w["class_embedding"][None], patches_of(x, w["conv1.weight"], 0)])
    h = layer_norm(h + w["positional_embedding"], w, "ln_pre", 1e-5)
    for i in range(depth):
        b = {n.removeprefix(f"transformer.resblocks.{i}."): t for n, t in w.items()}
        y = attend(
            layer_norm(h, b, "ln_1", 1e-5), b["attn.in_proj_weight"], b["attn.in_proj_bias"], heads
        )
        h = h + y @ b["attn.out_proj.weight"].T + b["attn.out_proj.bias"]
        y = layer_norm(h, b, "ln_2", 1e-5) @ b["mlp.c_fc.weight"].T + b["mlp.c_fc.bias"]
        h = h + gelu(y) @ b["mlp.c_proj.weight"].T + b["mlp.c_proj.bias"]
    return layer_norm(h, w, "ln_post", 1e-5)[0] @ w["proj"]


def double(weights):
    return {n: t.double() for n, t in weights.items()}


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_is_its_equations(tmp_path, registers):
    weights = tiny_dino(16, registers)
    network = DINOv2(COLOUR, file=saved(weights, tmp_path / "w.pth"))
    assert network.outputs == {"pool": 128}
    u = images(2)
    x = network.preprocess(u).double()
    wanted = torch.stack([dino_by_hand(double(weights), i, registers) for i in x])
    torch.testing.assert_close(network(u)["pool"].double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_is_its_equations(tmp_path, activation):
    weights = tiny_clip()
    file = saved({n: t.half() for n, t in weights.items()}, tmp_path / "w.pt")
    network = CLIP(GREY, file=file, activation=activation)
    assert network.outputs == {"pool": 48}
    assert "48 x 48" in network.resizer
    u = images(2, 1)
    x = network.preprocess(u).double()
    gelu = {
        "gelu": lambda y: y * (1 + torch.erf(y / 2**0.5)) / 2,
        "quick_gelu": lambda y: y / (1 + torch.exp(-1.702 * y)),
    }[activation]
    rounded = {n: t.half().double() for n, t in weights.items()}
    wanted = torch.stack([clip_by_hand(rounded, i, gelu) for i in x])
    torch.testing.assert_close(network(u)["pool"].double(), wanted, rtol=1e-3, atol=1e-4)


def test_the_two_activations_of_clip_are_two_protocols(tmp_path):
    file = saved(tiny_clip(), tmp_path / "w.pt")
    a, b = (CLIP(GREY, file=file, activation=name) for name in ("gelu", "quick_gelu"))
    assert a.digest != b.digest


def test_digests_are_those_of_earlier_results(tmp_path):
    """Names of parameters are part of them: another name would be another protocol."""
    networks = {
        "c7d75fde8616": AlexNetFeatures(
            GREY, file=saved(random_backbone(AlexNet()), tmp_path / "a.pth")
        ),
        "766978881270": DINOv2(COLOUR, file=saved(tiny_dino(), tmp_path / "d.pth")),
        "a46eb205fa5d": DINOv2(COLOUR, file=saved(tiny_dino(5, 1), tmp_path / "r.pth")),
        "4c9896252c5d": CLIP(
            COLOUR, file=saved(tiny_clip(), tmp_path / "c.pt"), activation="gelu"
        ),
    }
    assert [network.digest for network in networks.values()] == list(networks)


def cubic(distance):
    """Keys' kernel with a = -3/4, the one of torch."""
    a, d = -0.75, abs(distance)
    if d < 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


@pytest.mark.parametrize("grid", [3, 7])
def test_the_position_embedding_is_resampled_as_in_the_official_program(grid):
    weights = renamed(tiny_dino(5), {"pos_embed": "position"})["position"][0]
    net = ViT(width=128, depth=0, patch=14, grid=5, hidden=1, registers=0, projection=None,
              bias=True, first=False, scaled=True, gelu=nn.functional.gelu, eps=1e-6)  # fmt: skip
    net.position.data = weights
    net.regrid(grid, offset=0.1, antialias=False)
    rows = torch.zeros(grid, 5)
    for i in range(grid):
        place = (i + 0.5) * 5 / (grid + 0.1) - 0.5
        for k in range(math.floor(place) - 1, math.floor(place) + 3):
            rows[i, min(max(k, 0), 4)] += cubic(place - k)
    plane = torch.einsum("ia,jb,abd->ijd", rows, rows, weights[1:].view(5, 5, -1))
    torch.testing.assert_close(net.position[1:], plane.flatten(0, 1), rtol=1e-4, atol=1e-5)
    assert torch.equal(net.position[0], weights[0])


def test_rows_of_a_batch_do_not_influence_each_other(tmp_path):
    networks = [
        DINOv2(COLOUR, file=saved(tiny_dino(5, 1), tmp_path / "d.pth")),
        CLIP(COLOUR, file=saved(tiny_clip(), tmp_path / "c.pth"), activation="gelu"),
        AlexNetFeatures(COLOUR, file=saved(random_backbone(AlexNet()), tmp_path / "a.pth")),
    ]
    assert "224 x 224" in networks[-1].resizer
    u = images(5)
    for network in networks:
        whole = network(u)["pool"]
        parts = torch.cat([network(part)["pool"] for part in u.flip(0).split(2)]).flip(0)
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
        assert whole.std(0).mean() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(tmp_path, monkeypatch):
    """Also where a run has switched TF32 on for its own networks."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    u = images(5)
    files = {
        DINOv2: saved(tiny_dino(16), tmp_path / "d.pth"),
        AlexNetFeatures: saved(random_backbone(AlexNet()), tmp_path / "a.pth"),
    }
    for features, file in files.items():
        with torch.autocast("cuda", torch.bfloat16):
            found = features(COLOUR, torch.device("cuda"), file=file)(u)["pool"]
        wanted = features(COLOUR, file=file)(u)["pool"]
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-4)
    assert torch.backends.cudnn.allow_tf32


# --- wrong files ---------------------------------------------------------------------------------


def lacking(weights, name):
    return {n: t for n, t in weights.items() if n != name}


def test_a_file_of_another_network_is_said_with_both_names(tmp_path):
    vgg, alex = random_backbone(VGG16()), random_backbone(AlexNet())
    dino, clip = tiny_dino(), tiny_clip()
    resnet = {"conv1.weight": torch.ones(2), "layer1.0.conv1.weight": torch.ones(2)}
    giant = {"blocks.0.mlp.w12.weight": torch.ones(2)} | lacking(dino, "blocks.0.mlp.fc1.weight")
    deeper = vgg | {"features.32.weight": torch.ones(1), "features.34.weight": torch.ones(1)}

    def clip_of(spec, file):
        return CLIP(spec, file=file, activation="gelu")

    cases = [
        (VGG16Features, alex, "looks like AlexNet of torchvision, and VGG16 of torchvision is"),
        (VGG16Features, deeper, r"looks like VGG19.*features\.32\.weight is one too many"),
        (AlexNetFeatures, vgg, r"VGG16.*64 x 3 x 3 x 3 and not 64 x 3 x 11 x 11"),
        (AlexNetFeatures, resnet, "looks like a ResNet"),
        (VGG16Features, lacking(vgg, "features.5.bias"), r"it has no features\.5\.bias"),
        (DINOv2, clip, "looks like CLIP as OpenAI names it, and DINOv2 .* is wanted"),
        (DINOv2, giant, "ViT-g/14"),
        (DINOv2, lacking(dino, "blocks.1.ls1.gamma"), r"it has no blocks\.1\.scale1"),
        (DINOv2, tiny_dino(width=1280, depth=0), "another network"),
        (DINOv2, {"a": torch.ones(3, 2)}, r"1 tensors from a \(3 x 2\) on"),
        (clip_of, dino, "vision transformer"),
        (clip_of, {"visual.attnpool.positional_embedding": torch.ones(2)}, "with a ResNet"),
        (clip_of, lacking(clip, "visual.proj"), "it has no projection"),
    ]
    for i, (features, tensors, words) in enumerate(cases):
        file = saved(tensors, tmp_path / f"{i}.safetensors")
        with pytest.raises(DataError, match=words):
            features(COLOUR, file=file)


FEATURES = {
    "vgg16": VGG16Features,
    "alexnet": AlexNetFeatures,
    "dinov2": DINOv2,
    "clip": lambda spec, file: CLIP(spec, file=file, activation="gelu"),
}


@pytest.mark.parametrize("name", FEATURES)
def test_without_a_file_it_is_said_where_one_is(name):
    with pytest.raises(DataError, match=r"features\.file is null.*(https://|huggingface\.co)"):
        FEATURES[name](COLOUR, file=None)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("shape", [(2,), (2, 8, 8)])
def test_data_that_are_no_images_are_refused(name, shape):
    with pytest.raises(ValueError, match=f"features={name} sees images.*use features=raw"):
        FEATURES[name](Spec(shape), file=None)


# --- transformers --------------------------------------------------------------------------------


def randomized(model, scale=0.1):
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = p.data + scale * torch.randn(p.shape, generator=g)
    return model.eval()


@pytest.mark.peer
@pytest.mark.parametrize(("registers", "side"), [(0, 224), (4, 224), (4, 518)])
def test_dinov2_is_that_of_transformers(tmp_path, registers, side):
    """518 pixels: with a resampled position embedding, which transformers without registers
    resamples for 16 samples rather than 16.1."""
    transformers = pytest.importorskip("transformers")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    more = {"num_register_tokens": registers} if registers else {}
    sizes = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"image_size": side, "patch_size": 14}
    config = getattr(transformers, f"{kind}Config")(**sizes, **more)
    theirs = randomized(getattr(transformers, f"{kind}Model")(config))
    theirs.save_pretrained(tmp_path)
    network = DINOv2(COLOUR, file=str(tmp_path / "model.safetensors"))
    u = images(3)
    with torch.no_grad():
        wanted = theirs(pixel_values=network.preprocess(u)).last_hidden_state[:, 0]
    torch.testing.assert_close(network(u)["pool"], wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std(0).mean() > 0.01


@pytest.mark.peer
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_is_that_of_transformers(tmp_path, activation):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 2, "image_size": 96, "patch_size": 32, "projection_dim": 48}
    config = transformers.CLIPVisionConfig(**sizes, hidden_act=activation)
    theirs = randomized(transformers.CLIPVisionModelWithProjection(config))
    theirs.save_pretrained(tmp_path)
    network = CLIP(COLOUR, file=str(tmp_path / "model.safetensors"), activation=activation)
    u = images(3)
    with torch.no_grad():
        wanted = theirs(pixel_values=network.preprocess(u)).image_embeds
    torch.testing.assert_close(network(u)["pool"], wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std(0).mean() > 0.01
