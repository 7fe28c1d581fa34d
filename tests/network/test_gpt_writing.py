"""The Transformer over tokens writes: its sampler and what that refuses."""

import pytest
import torch

from genlab.core.random import SampleNoise
from genlab.kernel.mask import MaskSpec
from tests.network.test_gpt import SLOPES, gpt, tokens


@torch.no_grad()
def test_generated_text_is_the_likeliest_where_only_that_is_left():
    net, text = gpt(), tokens(2, 3)
    drawn = net.generate(text, 6, SampleNoise(0, range(2), "cpu"), top_k=1)
    for _ in range(6):
        text = torch.cat([text, net(text)[:, -1:].argmax(2)], 1)
    assert torch.equal(drawn, text)


@pytest.mark.parametrize("sloped", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@torch.no_grad()
def test_options_of_writing_are_those_of_the_masks(whole, sloped):
    """Step by step, all that is written so far read anew under one mask."""
    net, text = gpt(tied=False), tokens(8, 5)
    slopes = {False: lambda mask: mask, True: lambda mask: mask.sloped(4 * SLOPES)}

    def written(whole, sloped):
        noise, options = SampleNoise(0, range(8), "cpu"), {"whole": whole, "adapt": slopes[sloped]}
        return net.generate(text, 7, noise, top_k=1, **options)

    wanted = text
    for length in range(5, 12):
        mask = MaskSpec.prefix(5, length) if whole else MaskSpec.causal(length)
        wanted = torch.cat([wanted, net(wanted, slopes[sloped](mask))[:, -1:].argmax(2)], 1)
    drawn = written(whole, sloped)
    assert torch.equal(drawn, wanted)
    assert not torch.equal(drawn, written(not whole, sloped))
    assert not torch.equal(drawn, written(whole, not sloped))


def test_temperature_and_top_p_change_the_draw():
    net, prompt = gpt(scale=2.0), tokens(8, 4)

    def drawn(**options):
        return net.generate(prompt, 8, SampleNoise(0, range(8), "cpu"), **options)

    likeliest = drawn(top_k=1)
    assert not torch.equal(drawn(), likeliest)
    assert torch.equal(drawn(top_p=1e-6), likeliest)
    assert torch.equal(drawn(temperature=1e-4), likeliest)
    same = [(drawn(temperature=t) == likeliest)[:, 4:].float().mean() for t in (0.3, 1.0)]
    assert same[0] > same[1]


def test_nothing_is_dropped_in_writing():
    net, prompt = gpt(dropout=0.5), tokens(2, 4)
    noise = [SampleNoise(0, range(2), "cpu") for _ in range(2)]
    calm = net.generate(prompt, 6, noise[0])
    net.train()
    assert torch.equal(net.generate(prompt, 6, noise[1]), calm)
    assert all(module.training for module in net.modules())


def test_prompts_and_noise_that_do_not_fit_are_refused():
    net = gpt()
    for prompt in (tokens(2, 4)[0], tokens(2, 4)[:, :0]):
        with pytest.raises(ValueError, match="a prompt is"):
            net.generate(prompt, 3, SampleNoise(0, range(2), "cpu"))
    with pytest.raises(ValueError, match="noise is for 3 texts, and there are 2"):
        net.generate(tokens(2, 4), 3, SampleNoise(0, range(3), "cpu"))


def test_a_text_depends_on_neither_its_company_nor_the_others_noise():
    net, prompt = gpt(), tokens(3, 4)
    together = net.generate(prompt, 5, SampleNoise(1, range(3), "cpu"), top_p=0.9)
    alone = [
        net.generate(prompt[i : i + 1], 5, SampleNoise(1, [i], "cpu"), top_p=0.9) for i in range(3)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(
        together[:, 4:], net.generate(prompt, 5, SampleNoise(2, range(3), "cpu"))[:, 4:]
    )
