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
    with torch.device("meta"):
        net = registry.build("network", dict(keys), spec=spec)
    return size(net)


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: f"{p.config}-{p.spec.shape[1]}")
def test_parameters_are_those_of_the_paper(paper):
    found = parameters({**node(paper.config), **paper.keys}, paper.spec)
    assert found == paper.counted + paper.more, paper.read
    millions, digits = paper.published
    assert round(found / 1e6, digits) == millions, paper.read


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
