"""The recipes of papers: their numbers beside those of the official codes, and where they stand.

A number of TABLE is as the code has it: steps end in s (of the generator, where there is a
critic), other lengths are in images; eps and clip are of its loss, which is the mean over the
numbers of an image, their sum, or half the sum. An ema is a decay of a step, or a half-life in
images. heads: side of a map, number of heads there, the last one in the middle of the U-Net.
parameters: millions, as published or as READ says. A point: the paper has none. A star: from
memory, unverified.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from genlab.core import registry
from genlab.core.contract import Spec
from tests.helpers.configs import composed

TABLE = """
recipe              lr    rate      betas      eps   clip  loss  batch  warmup  length    ema    dropout  flip  shift  heads            critic  parameters
cifar10/ho2020      2e-4  constant  .9 .999    1e-8  1     mean  128    5000s   800000s*  .9999  .1       yes   0      16:1 4:1         .       35.7
celeba/song2020     2e-4  constant  .9 .999    1e-8  1     sum   128    0       500000s*  .9999  .1       yes   0      16:1 4:1         .       78.7
cifar10/nichol2021  1e-4  constant  .9 .999    1e-8  .     mean  128    0       500000s   .9999  .3       no    0      16:4 8:4 4:4     .       52.5
cifar10/song2021_vp 2e-4  constant  .9 .999    1e-8  1     mean  128    5000s   1300000s  .9999  .1       yes   0      16:1 4:1         .       61.8
cifar10/song2021_ve 2e-4  constant  .9 .999    1e-8  1     half  128    5000s   1300000s  .999   .1       yes   0      16:1 4:1         .       62.8
cifar10/karras2022  1e-3  constant  .9 .999    1e-8  .     sum   512    10M     200M      .5M    .13      yes   0      16:1 8:1         .       55.7
folder/karras2022   1e-4  constant  .9 .999    1e-8  .     sum   4096   10M     2500M     50M    .1       no    0      32:6 16:9 8:12   .       296
cifar10/tong2023    2e-4  constant  .9 .999    1e-8  1     mean  128    5000s   400000s   .9999  .1       yes   0      16:4 4:4         .       35.7
cifar10/glow        1e-3  constant  .9 .9898   1e-8  .     mean  512    .5M     90M*      .9898  .        no    .1     .                .       .
celeba/glow         1e-3  constant  .9 .9898   1e-8  .     mean  128    .125M   81.385M*  .9898  .        no    0      .                .       .
cifar10/vqvae       3e-4  constant  .9 .999    1e-8  .     mean  32     0       100000s   .      .        no    0      .                .       .
cifar10/wgan_gp     2e-4  linear    0 .9       1e-8  .     mean  64     0       100000s   .      .        no    0      .                5       .
"""  # noqa: E501

READ = {
    "cifar10/ho2020": {
        "lr rate batch warmup clip dropout flip loss": "hojonathanho/diffusion "
        "scripts/run_cifar.py",
        "betas eps": "diffusion_tf/utils.py: make_optimizer, and TensorFlow's defaults",
        "ema": "diffusion_tf/tpu_utils/tpu_utils.py: run_training",
        "heads": "diffusion_tf/models/unet.py: attn_block has no heads",
        "parameters": "scripts/run_cifar.py: 'unet2d16b2'",
        "length": "*, of arXiv 2006.11239, appendix B",
    },
    "celeba/song2020": {
        "lr betas eps clip batch ema dropout flip": "ermongroup/ddim configs/celeba.yml, as "
        "locuslab/deq-ddim has it",
        "rate warmup": "ermongroup/ddim runners/diffusion.py: train, which has neither",
        "loss": "functions/losses.py: noise_estimation_loss, as HengtongZhang/ddim has it",
        "heads": "models/diffusion.py: AttnBlock",
        "parameters": "models/diffusion.py, counted",
        "length": "*",
    },
    "cifar10/nichol2021": {
        "lr batch dropout length": "openai/improved-diffusion README.md, CIFAR-10 with L_hybrid "
        "(cifar10_uncond_50M_500K.pt)",
        "rate betas eps clip warmup ema": "scripts/image_train.py, "
        "improved_diffusion/train_util.py and torch's AdamW without weight decay",
        "loss": "improved_diffusion/gaussian_diffusion.py: mean_flat",
        "flip": "improved_diffusion/image_datasets.py, which mirrors nothing",
        "heads": "improved_diffusion/script_util.py",
        "parameters": "arXiv 2102.09672, appendix A",
    },
    "cifar10/song2021_vp": {
        "lr rate betas eps clip batch warmup length dropout flip": "yang-song/score_sde_pytorch "
        "configs/default_cifar10_configs.py, and losses.py for the second beta",
        "ema loss": "configs/vp/cifar10_ddpmpp_continuous.py: ema_rate, reduce_mean",
        "heads": "models/layerspp.py: AttnBlockpp",
        "parameters": "models/ncsnpp.py, counted",
    },
    "cifar10/song2021_ve": {
        "lr rate betas eps clip batch warmup length dropout flip": "yang-song/score_sde_pytorch "
        "configs/default_cifar10_configs.py, and losses.py for the second beta",
        "ema": "configs/ve/cifar10_ncsnpp_continuous.py",
        "loss": "losses.py: get_sde_loss_fn without reduce_mean",
        "heads": "models/layerspp.py: AttnBlockpp",
        "parameters": "models/ncsnpp.py, counted",
    },
    "cifar10/karras2022": {
        "lr betas eps batch length ema dropout": "NVlabs/edm train.py",
        "rate warmup clip loss": "training/training_loop.py",
        "flip": "config E mirrors images, config F by its augmentation alone: arXiv 2206.00364, "
        "appendix F, as quoted",
        "heads": "training/networks.py: SongUNet",
        "parameters": "training/networks.py without augmentation labels, counted",
    },
    "folder/karras2022": {
        "lr batch length ema dropout": "NVlabs/edm README.md, imagenet-64x64-cond-adm",
        "betas eps flip": "train.py; --augment=0 and no --xflip",
        "rate warmup clip loss": "training/training_loop.py",
        "heads": "training/networks.py: DhariwalUNet",
        "parameters": "arXiv 2105.05233, table 4",
    },
    "cifar10/tong2023": {
        "lr rate clip batch warmup length ema dropout flip loss heads": "atong01/"
        "conditional-flow-matching examples/images/cifar10/train_cifar10.py",
        "betas eps": "the same: torch's Adam",
        "parameters": "torchcfm/models/unet/unet.py, counted",
    },
    "cifar10/glow": {
        "lr rate batch warmup": "openai/glow train.py, by mpiexec -n 8 as in README.md",
        "betas eps clip ema": "optim.py: adamax with 1 - 1 / 98, of ceil(50000 / 512) steps",
        "loss": "model.py: bits_x",
        "flip shift": "data_loaders/get_mnist_cifar.py at --dal 1",
        "length": "*",
    },
    "celeba/glow": {
        "lr rate batch warmup": "openai/glow train.py: 64 images at 32 pixels are 16 at 64, 8 "
        "workers; n_processed counts 512 a step",
        "betas eps clip ema": "optim.py: adamax with 1 - 1 / 98, since n_train is 50,000",
        "loss": "model.py: bits_x",
        "flip shift": "data_loaders/get_data.py",
        "length": "*, 500 epochs of CelebA",
    },
    "cifar10/vqvae": {
        "lr rate betas eps clip loss batch warmup length ema": "google-deepmind/sonnet "
        "examples/vqvae_example.ipynb, and snt.optimizers.Adam's defaults",
        "flip": "the same: no augmentation",
    },
    "cifar10/wgan_gp": {
        "lr rate betas batch length critic": "igul222/improved_wgan_training gan_cifar_resnet.py",
        "eps clip loss warmup ema": "the same, and TensorFlow's AdamOptimizer",
        "flip": "tflib/cifar10.py, which mirrors nothing",
    },
}
"""Where each number of a row was read; files without a repository are of the one before them."""

MORE: dict[str, dict[str, Any]] = {
    "cifar10/ho2020": {"sampler.steps": 1000, "sampler.variance": "large"},
    "cifar10/nichol2021": {"process.steps": 4000, "optimizer.weight_decay": 0.0},
    "cifar10/song2021_ve": {"sampler.snr": 0.16, "sampler.corrections": 1},
    "cifar10/karras2022": {"model.location": -1.2, "model.scale": 1.2, "model.label_dropout": 0},
    "folder/karras2022": {"sampler.churn": 40, "sampler.noise": 1.003, "model.label_dropout": 0},
    "cifar10/glow": {"network.net.levels": 3, "network.net.depth": 32, "network.net.width": 512},
    "celeba/glow": {"network.net.levels": 4, "network.net.depth": 48, "network.net.width": 512},
    "cifar10/vqvae": {
        "network.quantizer.codes": 512,
        "network.quantizer.codebook": "loss",
        "network.quantizer.commitment": 0.25,
        "network.quantizer.restart": 0,
        "network.quantizer.kmeans": None,
    },
    "cifar10/wgan_gp": {"model.g_batches": 2, "model.weight": 10, "model.center": 1},
}
"""Keys that only some recipes have, of the files above."""

SHAPES = {"cifar10": (3, 32, 32), "celeba": (3, 64, 64), "folder": (3, 64, 64)}

HEAD, *LINES = (re.split(r"  +| (?=[\d.]+e-)", line) for line in TABLE.strip().splitlines())
ROWS = {row[0]: dict(zip(HEAD[1:], row[1:], strict=True)) for row in LINES}


def number(text: str) -> float:
    """A number of the table, without its star; M are millions."""
    text = text.rstrip("s*")
    value = float(text.removesuffix("M"))
    return round(value * 1e6) if text.endswith("M") else value


def read(folder: Path, name: str) -> str:
    return (folder / f"{name}.yaml").read_text()


def images(text: str, batch: float) -> float:
    return number(text) * (batch if text.rstrip("*").endswith("s") else 1)


def heads(node: dict[str, Any], side: int) -> str:
    """side:heads of the maps with attention, and of the middle."""
    found, last = {}, len(node["mults"]) - 1
    for level, mult in enumerate(node["mults"]):
        if side >> level in node["attention"] or level == last:
            width = node["width"] * mult
            found[side >> level] = width // (node["head_width"] or width)
    return " ".join(f"{k}:{v}" for k, v in found.items())


def told(recipe: str) -> dict[str, Any]:
    """What a row says, in the words and units of a config."""
    row = ROWS[recipe]
    size = math.prod(SHAPES[recipe.partition("/")[0]])
    unit = {"mean": 1, "sum": size, "half": size / 2}[row["loss"]]
    batch = number(row["batch"])
    steps = batch * (1 if row["critic"] == "." else number(row["critic"]))
    ema = 0.0 if row["ema"] == "." else number(row["ema"])
    return {
        "lr": number(row["lr"]),
        "rate": row["rate"],
        "betas": [float(b) for b in row["betas"].split()],
        "eps": number(row["eps"]) / unit,
        "clip": None if row["clip"] == "." else number(row["clip"]) / unit,
        "batch": batch,
        "warmup": images(row["warmup"], batch),
        "length": images(row["length"], steps),
        "ema": ema if ema >= 1 or not ema else {"decay": ema},
        "flip": row["flip"] == "yes",
        "shift": number(row["shift"]),
    }


def had(config: dict[str, Any]) -> dict[str, Any]:
    """The same of a composed config."""
    optimizer, schedule, data = config["optimizer"], config["schedule"], config["data"]
    assert optimizer["players"] == {}
    return {
        **{key: optimizer[key] for key in ("lr", "betas", "eps", "clip")},
        "rate": schedule["name"],
        "batch": schedule["batch"],
        "warmup": schedule["warmup"],
        "length": schedule["images"],
        "ema": config["model"].get("ema", 0),
        "flip": data["flip"],
        "shift": data["shift"],
    }


def test_every_recipe_of_a_paper_has_its_row():
    folder = registry.configs_dir() / "experiment"
    names = {n for n in registry.names("experiment") if "\npromise:" in read(folder, n)}
    assert set(ROWS) == names == set(READ)


@pytest.mark.parametrize("recipe", ROWS)
def test_every_number_says_where_it_was_read(recipe):
    said = [column for columns in READ[recipe] for column in columns.split()]
    assert len(said) == len(set(said))
    assert {c for c, v in ROWS[recipe].items() if v not in (".", "0")} <= set(said)
    stars = {c for c, v in ROWS[recipe].items() if v.endswith("*")}
    assert stars == {c for c, where in READ[recipe].items() if where.startswith("*")}


@pytest.mark.parametrize("recipe", ROWS)
def test_a_recipe_has_the_numbers_of_its_paper(recipe):
    wanted, found = told(recipe), had(composed(f"experiment={recipe}"))
    for key in ("eps", "clip"):  # in units of another loss they are rounded to three digits
        wanted[key] = wanted[key] and float(f"{wanted[key]:.2e}")
    assert found == wanted


@pytest.mark.parametrize("recipe", [r for r, row in ROWS.items() if row["heads"] != "."])
def test_a_recipe_has_the_network_of_its_paper(recipe):
    row, node = ROWS[recipe], composed(f"experiment={recipe}")["network"]["net"]
    shape = SHAPES[recipe.partition("/")[0]]
    assert node["dropout"] == number(row["dropout"])
    assert heads(node, shape[1]) == row["heads"]
    with torch.device("meta"):
        spec = Spec(shape, 1000 if recipe.startswith("folder") else None)
        net = registry.build("network", node, spec=spec)
    digits = len(row["parameters"].partition(".")[2])
    counted = sum(p.numel() for p in net.parameters()) / 1e6
    assert f"{counted:.{digits}f}" == row["parameters"]


@pytest.mark.parametrize(("recipe", "key"), [(r, k) for r, keys in MORE.items() for k in keys])
def test_a_key_that_only_some_have(recipe, key):
    value: Any = composed(f"experiment={recipe}")
    for part in key.split("."):
        value = value[part]
    assert value == MORE[recipe][key]


@pytest.mark.parametrize("recipe", [r for r, row in ROWS.items() if row["critic"] != "."])
def test_a_critic_steps_as_often_as_in_its_paper(recipe):
    assert composed(f"experiment={recipe}")["model"]["n_critic"] == number(ROWS[recipe]["critic"])
