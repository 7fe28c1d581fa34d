"""The Transformer over tokens: what its masks hide, its cache, and what it refuses."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from genlab.assemble.components import build
from genlab.config.compose import compose
from genlab.core.contract import Spec
from genlab.core.errors import ConfigError
from genlab.core.random import SampleNoise
from genlab.kernel import chunked, dispatch, flex
from genlab.kernel.mask import MaskSpec
from genlab.network.gpt import GPT
from genlab.nn.kv_cache import KVCache
from genlab.nn.position import alibi_slopes

T, K = 12, 11
KEYS = {"width": 32, "depth": 2, "head_width": 8, "kv_heads": None, "mlp": 2.0, "dropout": 0.0}
KEYS |= {"position": "rope", "base": 10000.0, "stretch": "none", "factor": 1.0, "reach": None}
KEYS |= {"logn": False, "qk_norm": False, "tied": True}
PLACED = {
    "rope": {},
    "learned": {"position": "learned"},
    "sincos": {"position": "sincos", "tied": False},
    "none": {"position": "none"},
    "rerope": {"reach": 3},
    "logn": {"logn": True, "qk_norm": True},
    "shared": {"kv_heads": 2, "stretch": "ntk", "factor": 2.0},
}
ORDER = torch.tensor([3, 0, 5, 1, 10, 2, 4, 6, 11, 9, 8, 7])
SLOPES = alibi_slopes(4)
MASKS = {
    "bidirectional": MaskSpec.bidirectional(T),
    "causal": MaskSpec.causal(T),
    "prefix": MaskSpec.prefix(5, T),
    "blocks": MaskSpec.block_causal([2, 4, 1, 5]),
    "content": MaskSpec.permuted(ORDER),
    "streams": MaskSpec.permuted(ORDER, stream="both"),
    "targets": MaskSpec.permuted(ORDER, ORDER % 3 > 0, stream="both"),
    "window": MaskSpec.sliding_window(T, left=2),
    "packed": MaskSpec.packed([5, 4, 3], causal=True),
    "alibi": MaskSpec.causal(T).sloped(SLOPES),
    "padded": MaskSpec.bidirectional(T).padded(torch.arange(T) < 9),
}


def gpt(length=T, vocabulary=K, seed=0, scale=5.0, **keys):
    """A small network; scale: of its starting weights, so that what it sees matters."""
    torch.manual_seed(seed)
    net = GPT(Spec((length,), vocabulary=vocabulary), **{**KEYS, **keys}).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() == 2:
                p.mul_(scale)
    return net


def tokens(rows=2, length=T, seed=0):
    return torch.randint(K, (rows, length), generator=torch.Generator().manual_seed(seed))


# --- what a mask hides ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("reach", [None, 3])
@torch.no_grad()
def test_logits_depend_on_exactly_what_the_mask_shows(name, reach):
    """Through two layers: on what a token sees, and on what that sees in the layer below."""
    mask = MASKS[name]
    if mask.slopes is not None and reach:
        pytest.skip("distances are bounded or sloped, not both")
    net, x = gpt(reach=reach), tokens(1)
    allowed = mask.dense()[0]
    content = allowed[:T].int() + torch.eye(T, dtype=torch.int32)
    if mask.queries == 2 * T:
        seen = allowed[T:].int() @ content > 0
    else:
        seen = content @ content > 0
    before = net(x, mask)
    for j in range(T):
        other = x.clone()
        other[:, j] = (other[:, j] + 1) % K
        moved = (net(other, mask) - before).abs().amax(2)[0]
        assert torch.equal(moved > 1e-5, seen[:, j]), j
        assert (moved[~seen[:, j]] < 1e-6).all()


@torch.no_grad()
def test_a_mask_may_be_another_for_every_text():
    net, x = gpt(), tokens(3)
    prefix = torch.tensor([0, 4, 12])
    whole = net(x, MaskSpec.prefix(prefix, T))
    for i, n in enumerate(prefix.tolist()):
        assert_close(whole[i : i + 1], net(x[i : i + 1], MaskSpec.prefix(n, T)))


@torch.no_grad()
def test_a_masked_token_is_one_more_value_that_is_never_predicted():
    net, x = gpt(), tokens(1)
    masked = x.masked_fill(torch.arange(T) == 3, net.mask_token)
    logits = net(masked, MASKS["bidirectional"])
    assert logits.shape == (1, T, K)
    assert not torch.allclose(logits, net(x, MASKS["bidirectional"]), atol=1e-3)


@pytest.mark.parametrize("name", ["rope", "learned", "rerope", "logn"])
@torch.no_grad()
def test_texts_packed_into_one_are_those_texts(name):
    net, x, lengths = gpt(**PLACED[name]), tokens(2), [5, 1, 6]
    packed = net(x, MaskSpec.packed(lengths, causal=True))
    alone = [net(part) for part in x.split(lengths, 1)]
    assert_close(packed, torch.cat(alone, 1))


def under(net, backend, *given):
    for block in net.blocks:
        block.attention.backend = backend
    return net(*given)


@pytest.mark.parametrize("name", MASKS)
@torch.no_grad()
def test_backends_agree(name, monkeypatch):
    net, x, mask = gpt(kv_heads=2), tokens(), MASKS[name]
    plain = under(net, "plain", x, mask)
    assert_close(under(net, "sdpa", x, mask), plain, rtol=1e-4, atol=1e-4)
    used = []
    for module in (flex, chunked):
        attend = module.attend
        monkeypatch.setattr(
            module, "attend", lambda *a, attend=attend, m=module: used.append(m) or attend(*a)
        )
    assert_close(under(net, "flex", x, mask), plain, rtol=1e-4, atol=1e-4)
    assert used == [flex] * len(net.blocks)
    monkeypatch.setattr(dispatch, "LONG", 4)
    assert_close(under(net, "auto", x, mask), plain, rtol=1e-4, atol=1e-4)
    ranks = mask.kind == "rank_mask" or mask.slopes is not None
    assert used[2:] == [chunked] * (len(net.blocks) if ranks else 0)


@pytest.mark.parametrize("name", MASKS)
@torch.no_grad()
def test_half_precision_is_as_good_as_its_rounding(name):
    """bf16 keeps 8 bits, and a score of a few units is off by its 2^-8, in two layers."""
    net, x, mask = gpt(scale=2.0), tokens(), MASKS[name]
    exact = under(net, "plain", x, mask)
    for backend in ("plain", "sdpa", "flex", "auto"):
        with torch.autocast("cpu", torch.bfloat16):
            near = under(net, backend, x, mask)
        assert near.dtype == torch.float32
        assert 0 < (near - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("name", ["prefix", "streams"])
def test_it_compiles_whole(name):
    net, x, mask = gpt(), tokens(), MASKS[name]
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert_close(compiled(x, mask), net(x, mask), rtol=1e-4, atol=1e-4)


def test_two_streams_need_places():
    net = gpt(position="none")
    with pytest.raises(ValueError, match="position=none"):
        net(tokens(), MASKS["streams"])
    assert net(tokens(), MASKS["streams"].sloped(SLOPES)).isfinite().all()


def test_learned_places_end():
    net = gpt(position="learned")
    with pytest.raises(ValueError, match="12 places, and 13"):
        net(tokens(1, T + 1))
    with pytest.raises(ValueError, match="12 places, and 15"):
        net.generate(tokens(), 3, SampleNoise(0, range(2), "cpu"))
    for stream in ("content", "both"):
        with pytest.raises(ValueError, match="12 places, and 13"):
            net(tokens(1, T + 1), MaskSpec.permuted(torch.arange(T + 1), stream=stream))
    with pytest.raises(ValueError, match="12 places, and 13"):
        net(tokens(1, T + 2), MaskSpec.packed([1, T + 1], causal=True))
    with pytest.raises(ValueError, match="12 places, and 13"):
        net(tokens(1, 2), cache=KVCache(2, 1, 4, T + 1, 8))
    early = MaskSpec(2, 2, position_q=torch.tensor([[-1, 0]]))
    with pytest.raises(ValueError, match="from 0 on, and the mask has a token at -1"):
        net(tokens(1, 2), early)
    assert net(tokens(1, 18), MaskSpec.packed([9, 9], causal=True)).isfinite().all()


@pytest.mark.parametrize("position", ["rope", "learned", "sincos", "none"])
def test_a_mask_of_other_lengths_is_refused(position):
    net = gpt(position=position)
    for mask in (
        MaskSpec.causal(7),
        MaskSpec.bidirectional(8, 9),
        MaskSpec.permuted(torch.arange(7), stream="both"),
        MaskSpec.causal(8).with_memory(2),
    ):
        with pytest.raises(ValueError, match="and there are 8 tokens and 8 keys"):
            net(tokens(1, 8), mask)
    cache = net.cache(1, T)
    with pytest.raises(ValueError, match="there are 8 tokens and 12 keys"):
        net(tokens(1, 8), MaskSpec.causal(8), cache)


# --- the cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("chunks", [[1] * T, [7, 1, 1, 1, 1, 1], [3, 4, 5]])
@torch.no_grad()
def test_reading_in_chunks_is_reading_at_once(name, chunks):
    net, x = gpt(**PLACED[name]), tokens()
    cache = net.cache(2, T if name == "learned" else T + 5)
    parts = [net(chunk, cache=cache) for chunk in x.split(chunks, 1)]
    assert_close(torch.cat(parts, 1), net(x, MaskSpec.causal(T)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "more", [lambda m: m.sloped(SLOPES), lambda m: m.within(2, 0)], ids=["alibi", "window"]
)
@torch.no_grad()
def test_what_the_masks_had_besides_is_there_in_decoding(more):
    net, x = gpt(), tokens()
    cache = net.cache(2, T)
    parts = [net(t, more(cache.mask(t.shape[1])), cache) for t in x.split([4, 1, 1, 6], 1)]
    assert_close(torch.cat(parts, 1), net(x, more(MaskSpec.causal(T))), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_prefix_that_sees_itself_is_read_whole():
    net, x = gpt(), tokens()
    cache = net.cache(2, T)
    parts = [net(x[:, :5], cache.mask(5, whole=True), cache)]
    parts += [net(t, cache=cache) for t in x[:, 5:].split(1, 1)]
    assert_close(torch.cat(parts, 1), net(x, MASKS["prefix"]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_token_is_read_by_one_compiled_step():
    net, x, counter = gpt(), tokens(), CompileCounter()
    step = torch.compile(net, fullgraph=True, dynamic=False, backend=counter)
    cache = net.cache(2, T)
    parts = [step(t, None, cache) for t in x.split(1, 1)]
    assert counter.frame_count == 1
    assert_close(torch.cat(parts, 1), net(x), rtol=1e-4, atol=1e-4)


# --- where there are no tokens -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "shape"),
    [(["network=gpt"], "[1, 8, 8]"), (["experiment=toy/flow_matching", "network=gpt"], "[2]")],
)
def test_data_that_are_no_tokens_are_refused(words, shape):
    config = compose([*words, "hardware=cpu"])
    with pytest.raises(ConfigError) as e:
        build(config)
    assert e.value.code == 2
    (problem,) = e.value.problems
    assert problem.startswith("network.net: gpt takes tokens")
    assert shape in problem


@pytest.mark.parametrize(
    "keys", [{"stretch": "ntk"}, {"reach": 4}, {"factor": 2.0}, {"base": 500.0}]
)
def test_ways_of_rotation_need_rotation(keys):
    with pytest.raises(ValueError, match="position=learned"):
        gpt(position="learned", **keys)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"factor": 2.0}, "factor=2.0 .* stretch=none"),
        ({"head_width": 1}, "even head_width, and 1 is not"),
        ({"position": "sincos", "width": 15, "head_width": 5}, "even width, and 15 is not"),
        ({"mlp": 0.001}, "use a larger mlp"),
        ({"dropout": 1.0}, "below 1, and not 1.0"),
    ],
)
def test_refusals_name_the_key(keys, says):
    with pytest.raises(ValueError, match=says):
        gpt(**keys)
