"""Nearest codes, sums and k-means against brute force and scikit-learn; the codebook by hand."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from genlab.core.contract import Spec
from genlab.network.vq import VectorQuantizer
from genlab.nn.quantize import kmeans, nearest, straight_through, sums

SPEC = Spec((1, 8, 8))


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Rows:
    """Noise whose uniform numbers are given."""

    def __init__(self, values):
        self.n, self.values = len(values), torch.tensor(values)

    def uniform(self, *shape):
        return self.values.view(-1, *[1] * len(shape)).expand(self.n, *shape)


def quantizer(codes=4, width=2, **keys):
    given = {"codebook": "ema", "commitment": 0.25, "decay": 0.9, "restart": 0.0, "kmeans": 10}
    return VectorQuantizer(SPEC, codes=codes, code_width=width, **{**given, **keys})


def on_plane(points):
    """[T, 2] as z [1, 2, T, 1]."""
    return torch.as_tensor(points, dtype=torch.float32).t()[None, :, :, None]


def set_codes(q, points, count=1.0):
    q.codebook.data.copy_(torch.tensor(points))
    q.count.fill_(count)
    q.total.copy_(q.codebook * count)


# --- nearest code -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 255, 256, 300, 1000, 1024, 3001])
@pytest.mark.parametrize("d", [2, 64])
def test_nearest_is_brute_force(k, d):
    z, codes = rand(777, d), rand(k, d, seed=1)
    far = torch.cdist(z.double(), codes.double())
    found = nearest(z, codes)
    chosen = far.gather(1, found[:, None])[:, 0]
    assert found.dtype == torch.int64
    assert torch.equal(found, far.argmin(1)) or torch.allclose(chosen, far.amin(1), rtol=1e-6)


def test_of_near_ties_the_loser_is_farther_by_rounding_alone():
    """A thousand codes crowd around each vector: distances differ by less than fp32 can tell."""
    z = 5 + rand(50, 16)
    codes = (z[:, None] + 1e-3 * rand(50, 40, 16, seed=1)).flatten(0, 1)
    far = torch.cdist(z.double(), codes.double()).square()
    chosen = far.gather(1, nearest(z, codes)[:, None])[:, 0]
    scale = z.double().square().sum(1)
    assert ((chosen - far.amin(1)) / scale).max() < 16 * torch.finfo(torch.float32).eps


def test_nearest_is_fp32_under_autocast():
    z, codes = rand(500, 64), rand(1024, 64, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(z, codes), torch.cdist(z.double(), codes.double()).argmin(1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_vector_that_is_not_finite_gets_a_code_that_exists(bad):
    z = rand(10, 4)
    z[3] = bad
    found = nearest(z, rand(1000, 4, seed=1))
    assert 0 <= int(found.min()) <= int(found.max()) < 1000


class Largest(TorchDispatchMode):
    """The most numbers any result had."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.most = max(self.most, out.numel())
        return out


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_no_table_of_all_scores_and_no_one_hot(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    q = quantizer(codes=1024, width=8)
    z = rand(1, 8, 128, 128).requires_grad_()
    with Largest() as seen:
        out = q(z)
        q.collect(z, out.indices, Rows([0.5]))
        (out.z.sum() + sum(out.losses.values())).backward()
        q.commit()
    assert seen.most <= 128 * 128 * 1024 / 4, "16 MiB of scores, on however many cores"


# --- gradients --------------------------------------------------------------------------------


def test_the_gradient_passes_straight_through():
    z, weight = rand(2, 2, 3, 3).requires_grad_(), rand(2, 2, 3, 3, seed=1)
    q = quantizer()
    out = q(z)
    assert torch.equal(out.z, q.codes(out.indices)), "q to the last bit"
    ((out.z * weight).sum() + sum(out.losses.values())).backward()
    wanted = weight + 0.25 * 2 * (z.detach() - q.codes(out.indices)) / z.numel()
    torch.testing.assert_close(z.grad, wanted)
    assert torch.autograd.functional.jacobian(
        lambda v: straight_through(v, v.detach().round()), rand(5)
    ).equal(torch.eye(5))


def test_a_learned_codebook_gets_the_codebook_loss_alone():
    q, z = quantizer(codebook="loss"), rand(1, 2, 4, 4).requires_grad_()
    out = q(z)
    (out.z.square().sum() + sum(out.losses.values())).backward()
    flat, hit = z.detach().permute(0, 2, 3, 1).reshape(-1, 2), out.indices.flatten()
    wanted = torch.zeros(4, 2)
    for v, k in zip(flat, hit, strict=True):
        wanted[k] += 2 * (q.codebook.detach()[k] - v) / z.numel()
    torch.testing.assert_close(q.codebook.grad, wanted)


# --- the moving codebook ----------------------------------------------------------------------


def test_one_step_of_the_averages_by_hand():
    q = quantizer(codes=2, decay=0.9)
    set_codes(q, [[0.0, 0.0], [10.0, 0.0]], count=2.0)
    z = on_plane([[1, 1], [-1, 0], [2, 0], [9, 3]])
    q.collect(z, q(z).indices, Rows([0.0]))
    q.commit()
    n = torch.tensor([0.9 * 2 + 0.1 * 3, 0.9 * 2 + 0.1 * 1])
    m = torch.tensor([[0.1 * 2, 0.1 * 1], [0.9 * 20 + 0.1 * 9, 0.1 * 3]])
    smooth = (n + 1e-5) / (n.sum() + 2e-5) * n.sum()
    torch.testing.assert_close(q.count, n)
    torch.testing.assert_close(q.codebook, m / smooth[:, None])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_moves_no_code(bad):
    """In fp16 such steps come now and then, and the optimizer leaves them out."""
    q = quantizer(restart=0.9)
    before = {k: v.clone() for k, v in q.state_dict().items()}
    z = rand(2, 2, 3, 3)
    z[0, 0, 0, 0] = bad
    q.collect(z, q(z).indices, Rows([0.1, 0.9]))
    q.commit()
    assert all(torch.equal(before[k], v) for k, v in q.state_dict().items() if k != "restarts")
    q.collect(rand(2, 2, 3, 3), q(z).indices, Rows([0.1, 0.9]))
    q.commit()
    assert not torch.equal(before["codebook"], q.codebook)


def test_codes_converge_to_the_means_of_what_is_assigned():
    q = quantizer(codes=3, decay=0.9)
    set_codes(q, [[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]])
    points = rand(90, 2) * 0.3 + q.codebook.repeat_interleave(30, 0)
    z = on_plane(points)
    index = torch.arange(3).repeat_interleave(30).view(1, 90, 1)
    for _ in range(200):
        q.collect(z, index, Rows([0.0]))
        q.commit()
    torch.testing.assert_close(q.codebook, points.view(3, 30, 2).mean(1), rtol=1e-4, atol=1e-4)


def test_micro_batches_are_the_whole_batch():
    whole, parts = quantizer(restart=0.5), quantizer(restart=0.5)
    parts.load_state_dict(whole.state_dict())
    z = rand(6, 2, 3, 3)
    keys = [0.1, 0.9, 0.3, 0.5, 0.7, 0.2]
    index = whole(z).indices
    whole.collect(z, index, Rows(keys))
    for i in range(0, 6, 2):
        parts.collect(z[i : i + 2], index[i : i + 2], Rows(keys[i : i + 2]))
    whole.commit()
    parts.commit()
    for a, b in zip(whole.buffers(), parts.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_restarts_touch_dead_codes_alone_and_survive_the_next_step():
    live, dead = [[0.0, 0.0], [4.0, 4.0]], [[100.0, 0.0], [0.0, 100.0]]
    plain, q = quantizer(decay=0.5), quantizer(decay=0.5, restart=0.5)
    for one in (plain, q):
        set_codes(one, [live[0], dead[0], live[1], dead[1]])
        one.count[1::2], one.total[1::2] = 0.1, one.codebook[1::2] * 0.1
    points = [[0.1, 0], [0.3, 0], [4, 4.2], [4.4, 4], [0, 0.5], [4, 3.9], [-1, 0], [5, 4]]
    z = on_plane(points).view(1, 2, 4, 2).transpose(0, 3).reshape(2, 2, 4, 1)
    for one in (plain, q):
        one.collect(z, one(z).indices, Rows([0.99, 0.0]))
        one.commit()
    assert q.restarts == 2
    torch.testing.assert_close(q.codebook[0::2], plain.codebook[0::2])
    torch.testing.assert_close(q.count[0::2], plain.count[0::2])
    fresh = torch.stack([z[0, :, 3, 0], z[1, :, 0, 0]])
    torch.testing.assert_close(q.codebook[1::2], fresh)
    far = on_plane([[-50.0, -50.0]] * 8).reshape(1, 2, 8, 1)
    q.restart = 0.0
    q.collect(far, torch.zeros(1, 8, 1, dtype=torch.int64), Rows([0.0]))
    q.commit()
    torch.testing.assert_close(q.codebook[1::2], fresh, rtol=1e-3, atol=1e-3)


def test_a_code_restarts_below_its_share_of_an_even_use():
    """Eight vectors to four codes are two each, and half of that is one."""
    q = quantizer(decay=0.5, restart=0.5)
    set_codes(q, [[0.0, 0.0], [4.0, 4.0], [100.0, 0.0], [0.0, 100.0]])
    q.count[2:] = torch.tensor([2.02, 1.98])  # 1.01 and 0.99 after a step without hits
    q.total.copy_(q.codebook * q.count[:, None])
    z = on_plane([[0.5, 0.0]] * 4 + [[4.0, 5.0]] * 4)
    q.collect(z, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).view(1, 8, 1), Rows([0.99]))
    q.commit()
    assert q.restarts == 1
    expected = torch.tensor([[100.0, 0.0], [4.0, 5.0]])
    torch.testing.assert_close(q.codebook[2:], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.count[2:], torch.tensor([1.01, 2.0]))


def test_forward_and_recomputation_move_no_state():
    q = quantizer(restart=0.5)
    before = {k: v.clone() for k, v in q.state_dict().items()}
    z = rand(2, 2, 4, 4).requires_grad_()
    out = checkpoint(lambda v: q(v).z, z, use_reentrant=False)
    out.sum().backward()
    q.eval()(z)
    q.commit()
    assert all(torch.equal(v, before[k]) for k, v in q.state_dict().items())
    assert torch.equal(z.grad, torch.ones_like(z))


# --- the start --------------------------------------------------------------------------------


def test_codes_that_start_on_no_vectors_are_uniform_of_variance_one_over_their_width():
    """sonnet/src/nets/vqvae.py: VarianceScaling(distribution="uniform") of [width, codes]."""
    torch.manual_seed(0)
    q = quantizer(codes=512, width=64, codebook="loss", kmeans=None)
    before = q.codebook.detach().clone()
    q.start(iter(()))
    assert torch.equal(q.codebook, before)
    bound = (3 / 64) ** 0.5
    assert 0.999 * bound < before.abs().max() <= bound
    assert before.mean().abs() < 0.005
    assert before.var() == pytest.approx(1 / 64, rel=0.02)


def test_kmeans_is_that_of_scikit_learn():
    from sklearn.cluster import KMeans

    middle = 10 * rand(12, 5)
    z = (middle.repeat_interleave(40, 0) + rand(480, 5, seed=1))[torch.randperm(480)]
    first = middle + rand(12, 5, seed=2)
    theirs = KMeans(12, init=first.numpy(), n_init=1, max_iter=10, tol=0).fit(z.numpy())
    centres, count = kmeans(z, first, 10)
    inertia = float((z - centres[nearest(z, centres)]).square().sum())
    assert inertia == pytest.approx(theirs.inertia_, rel=1e-5)
    assert sorted(count.tolist()) == sorted(np.bincount(theirs.labels_).tolist())


def test_an_empty_cluster_stays_where_it_is():
    centres, count = kmeans(rand(20, 2), torch.tensor([[0.0, 0.0], [99.0, 99.0]]), 3)
    assert count.tolist() == [20, 0]
    assert centres[1].tolist() == [99.0, 99.0]


def test_sums_are_those_of_the_rows():
    z, index = rand(100, 3), torch.arange(100) % 7
    count, total = sums(z, index, 9)
    assert count.tolist() == [15, 15] + [14] * 5 + [0, 0]
    torch.testing.assert_close(total[2], z[2::7].sum(0))


def batches(z):
    """Endless (z, noise) of given [N, d, h, w] in batches of 2."""
    while True:
        for i in range(0, len(z), 2):
            yield z[i : i + 2], Rows([0.25, 0.75])


def test_the_start_takes_as_many_batches_as_there_are_codes():
    q = quantizer(codes=20)
    q.start(batches(rand(10, 2, 2, 2)))
    assert len(torch.unique(q.codebook, dim=0)) == 20
    assert float(q.count.sum()) == pytest.approx(8, rel=0.2), "hits a step, not of the start"
    torch.testing.assert_close(q.total, q.codebook * q.count[:, None])


def test_a_start_with_fewer_vectors_than_codes_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"codes=50, but .* only 16 different ones .* fewer codes"
    ):
        quantizer(codes=50).start(batches(rand(4, 2, 2, 2)))
