"""The networks of papers: their parameters beside those of papers and official codes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from genlab.config.compose import added_to, config_of
from genlab.core import registry
from genlab.core.contract import Spec
from genlab.nn.attention import SelfAttention2d
from tests.helpers.configs import composed

CIFAR10, CELEBA = Spec((3, 32, 32)), Spec((3, 64, 64))
IMAGENET = Spec((3, 64, 64), 1000)


class Paper(NamedTuple):
    """A network, what its paper says, and what the official code makes.

    published: millions of parameters, as printed, and their digits after the point. counted:
    parameters of the official code, layer by layer from the file named. more: parameters that
    ours has besides, and why.
    """

    config: str
    spec: Spec
    published: tuple[float, int]
    counted: int
    read: str
    more: int = 0
    why: str = ""
    keys: Mapping[str, Any] = MappingProxyType({})


PAPERS = [
    Paper("unet_ddpm", CIFAR10, (35.7, 1), 35_746_307,
          "arXiv 2006.11239, appendix B; hojonathanho/diffusion, diffusion_tf/models/unet.py, "
          "scripts/run_cifar.py"),
    Paper("unet_ddpm", Spec((3, 256, 256)), (114, 0), 113_673_219,
          "arXiv 2006.11239, appendix B (CelebA-HQ and LSUN); scripts/run_celebahq.py",
          keys={"mults": [1, 1, 2, 2, 4, 4]}),
    Paper("unet_ddpm_celeba", CELEBA, (78.7, 1), 78_700_803,
          "no number in arXiv 2010.02502; ermongroup/ddim, models/diffusion.py"),
    Paper("unet_iddpm", CIFAR10, (52.5, 1), 52_546_438,
          "arXiv 2102.09672, appendix A; openai/improved-diffusion, improved_diffusion/unet.py",
          keys={"outputs": 2}),
    Paper("unet_torchcfm", CIFAR10, (35.7, 1), 35_746_307,
          "atong01/conditional-flow-matching, examples/images/cifar10/train_cifar10.py"),
    Paper("unet_adm", IMAGENET, (296, 0), 295_904_454,
          "arXiv 2105.05233, table 4; NVlabs/edm, training/networks.py (DhariwalUNet)",
          more=768, why="the vector of no label", keys={"outputs": 2}),
    Paper("unet_ddpmpp_song", CIFAR10, (61.8, 1), 61_804_419,
          "no number in arXiv 2011.13456; yang-song/score_sde_pytorch, models/ncsnpp.py, "
          "configs/vp/cifar10_ddpmpp_continuous.py"),
    Paper("unet_ncsnpp_song", CIFAR10, (62.8, 1), 62_758_787,
          "no number in arXiv 2011.13456; models/ncsnpp.py, "
          "configs/ve/cifar10_ncsnpp_continuous.py"),
    Paper("unet_ddpmpp", CIFAR10, (55.7, 1), 55_732_739,
          "NVlabs/edm, training/networks.py, without the 1,152 weights of augmentation labels"),
    Paper("unet_ncsnpp", CIFAR10, (56.4, 1), 56_395_523,
          "NVlabs/edm, training/networks.py, without the 2,304 weights of augmentation labels"),
    Paper("unet_mp", IMAGENET, (280, 0), 280_209_253,
          "arXiv 2312.02696, table 2 (S); NVlabs/edm2, training/networks_edm2.py",
          more=768, why="the vector of no label"),
    Paper("dit", Spec((4, 32, 32), 1000), (33, 0), 32_865_056,
          "arXiv 2212.09748, table 1 (S/2); facebookresearch/DiT, models.py, without the fixed "
          "positions", keys={"outputs": 2}),
]  # fmt: skip


def node(config: str) -> dict[str, Any]:
    """A yaml of configs/network, of a single network."""
    return OmegaConf.to_container(config_of("network", config))["net"]


def parameters(keys: Mapping[str, Any], spec: Spec) -> int:
    """Trainable numbers of a network."""
    return size(shape_of(keys, spec))


def shape_of(keys: Mapping[str, Any], spec: Spec) -> nn.Module:
    """A network without numbers."""
    with torch.device("meta"):
        return registry.build("network", dict(keys), spec=spec)


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: f"{p.config}-{p.spec.shape[1]}")
def test_parameters_are_those_of_the_paper(paper):
    found = parameters({**node(paper.config), **paper.keys}, paper.spec)
    assert found == paper.counted + paper.more, paper.read
    millions, digits = paper.published
    assert round(found / 1e6, digits) == millions, paper.read


HIDDEN = {
    "unet_ddpm unet_ddpm_celeba": "resample ddpm, norm_eps 1e-6, init ddpm, heads 1, "
    "modulation shift, skip_scale 1, embed closed",  # nn.py for starts, tf_contrib for the eps
    "unet_iddpm": "resample iddpm, norm_eps 1e-5, init torch, heads 4, modulation scale_shift, "
    "skip_scale 1, embed sinusoids",  # unet.py, nn.py, script_util.py
    "unet_torchcfm": "resample iddpm, norm_eps 1e-5, init torch, heads 4, modulation shift, "
    "skip_scale 1, embed sinusoids",
    "unet_ddpmpp_song unet_ddpmpp": "resample block, norm_eps 1e-6, init song, heads 1, "
    "modulation shift, skip_scale 0.7071067811865476, embed closed",  # models/layerspp.py
    "unet_ncsnpp_song unet_ncsnpp": "resample fir, norm_eps 1e-6, init song, heads 1, "
    "modulation shift, skip_scale 0.7071067811865476, embed fourier",
    "unet_adm": "resample block, norm_eps 1e-5, init torch, modulation scale_shift, "
    "skip_scale 1, embed sinusoids",
    "unet_mp": "clip 256, balance 0.3, head_width 64",  # networks_edm2.py, Block
    "dit": "gelu tanh, position sincos, mlp 4, qk_norm false",  # models.py, DiTBlock
}
"""What no count of parameters shows, of the files above."""


@pytest.mark.parametrize(
    ("config", "told"), [(c, t) for k, t in HIDDEN.items() for c in k.split()]
)
def test_what_parameters_do_not_show(config, told):
    keys = node(config)
    wanted = dict(pair.split() for pair in told.split(", "))
    heads = wanted.pop("heads", None)
    for key, value in wanted.items():
        assert str(keys[key]).lower() == value or keys[key] == float(value), key
    if heads:
        net = shape_of(keys, CELEBA)
        attends = [m for m in net.modules() if isinstance(m, SelfAttention2d)]
        assert {m.heads for m in attends} == {int(heads)} and len(attends) > 2


RECIPES = {
    "cifar10/ho2020": "unet_ddpm",
    "celeba/song2020": "unet_ddpm_celeba",
    "cifar10/nichol2021": "unet_iddpm",
    "cifar10/tong2023": "unet_torchcfm",
    "folder/karras2022": "unet_adm",
    "cifar10/song2021_vp": "unet_ddpmpp_song",
    "cifar10/song2021_ve": "unet_ncsnpp_song",
    "cifar10/karras2022": "unet_ddpmpp",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_the_network_of_its_paper(recipe):
    """With the outputs that its model needs, and no other key of its own."""
    paper = next(p for p in PAPERS if p.config == RECIPES[recipe])
    learned = {"outputs": 2} if recipe == "cifar10/nichol2021" else {}
    found = composed(f"experiment={recipe}")["network"]["net"]
    assert found == {**node(paper.config), **learned}


def test_the_sum_of_a_loss_is_the_mean_with_another_eps():
    """Adam by gradients of D times the size steps alike where its eps is D times as large."""
    size, steps = 3072, []
    for factor, eps in ((size, 1e-8), (1, 1e-8 / size), (1, 1e-8)):
        weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = torch.optim.Adam([weight], lr=1e-3, eps=eps)
        for _ in range(3):
            optimizer.zero_grad()
            (factor * (weight * torch.tensor([1e-3, 1e-7, 1e-9])).sum()).backward()
            optimizer.step()
        steps.append(1 - weight.detach())
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-6, atol=0)
    assert steps[2][2] < 0.2 * steps[0][2], "weights that are told little"


def test_parameters_of_glow_are_those_of_its_code():
    """44,519,604 in openai/glow, model.py and tfops.py, without the prior of the last level.

    Ours are more by the factors L and U of the 1x1 convolutions, which have two whole matrices
    and a diagonal for one matrix, and by a prior of each number instead of a convolution of zeros.
    """
    keys = composed("experiment=cifar10/glow")["network"]["net"]
    net = registry.build("network", keys, spec=CIFAR10)  # on the meta device rotations take longer
    channels = (12, 24, 48)
    factors = sum(32 * (c * c + c) for c in channels)
    assert size(net) - factors - 2 * 4 * 4 * 48 == 44_519_604


OLD = [
    ("unet_ddpm", {"head_width": 256, "init": "xavier"}, CIFAR10, 36_024_835),
    ("unet_iddpm", {"outputs": 2}, CIFAR10, 52_824_966),
    ("unet_ddpm_celeba", {"head_width": 256, "init": "xavier"}, CELEBA, 80_093_443),
    ("unet_ddpmpp", {"init": "xavier"}, CIFAR10, 55_469_571),
]


@pytest.mark.parametrize(("config", "keys", "spec", "count"), OLD, ids=lambda v: str(v)[:12])
def test_a_run_made_before_has_the_network_it_had(config, keys, spec, count):
    """Its config has none of the later keys; these were the sizes of the networks of that name."""
    now = node(config)
    if now["resample"] != "block":
        keys = {**keys, "resample": "conv"}
    later = added_to("network", "unet")
    saved = {k: v for k, v in {**now, **keys}.items() if k not in later}
    assert {"resample_proj", "norm_eps"} <= set(later) & set(now)
    assert parameters({**saved, **later}, spec) == count
