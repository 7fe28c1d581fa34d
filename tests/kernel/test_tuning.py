"""Which tiles run: what is offered, timed, passed over and kept; launches are pretended."""

import json

import pytest
import torch

pytest.importorskip("triton")

from genlab.kernel.tiles import BLOCK
from genlab.kernel.triton import launch, tuning
from genlab.kernel.triton.tuning import CONFIGS, Key, best, candidates

KEY = Key("bfloat16", 64, 1, 2048, 1)
OFFERED = candidates("forward", KEY)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """gpu(times) -> run: a device on which a configuration takes times(config) milliseconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tuning, "log_once", lambda line: None)

    def made(times):
        monkeypatch.setattr(tuning, "_CHOSEN", {})
        ran = []

        def run(config):
            if times(config) is None:
                raise RuntimeError("out of resource: shared memory")
            ran.append(config)

        monkeypatch.setattr(tuning, "_milliseconds", lambda run, config: times(config))
        run.ran = ran
        return run

    return made


def test_tiles_divide_the_blocks_of_the_lists():
    every = [c for configs in CONFIGS.values() for c in configs]
    assert all(BLOCK % c.bm == BLOCK % c.bn == 0 and min(c.bm, c.bn) >= 16 for c in every)


def test_every_kind_of_call_has_a_configuration_for_any_gpu():
    for kernel, width, size in CONFIGS:
        for length in (16, 512, 16384):
            key = Key("float32" if size == 4 else "float16", width, 2, length, 1)
            assert not any(c.descriptors for c in candidates(kernel, key))
            assert candidates(kernel, key) and candidates(kernel, key, descriptors=True)


def test_the_quickest_is_taken_and_kept(gpu):
    wanted = OFFERED[-1]
    assert best("forward", KEY, gpu(lambda c: 1.0 if c == wanted else 2.0)) == wanted
    later = gpu(lambda c: 1.0 if c == OFFERED[0] else 2.0)
    assert best("forward", KEY, later) == wanted and not later.ran, "read, not timed again"
    other = KEY._replace(features="dropout")
    assert best("forward", other, later) == OFFERED[0], "another kind is timed for itself"


def test_what_does_not_run_is_passed_over(gpu):
    wanted = OFFERED[1]
    assert best("forward", KEY, gpu(lambda c: 1.0 if c == wanted else None)) == wanted
    short = KEY._replace(length=64)
    fit = candidates("forward", short)
    assert best("forward", short, gpu(lambda c: 1.0 if c == fit[-1] else None)) == fit[-1]
    with pytest.raises(RuntimeError, match="out of resource"):
        best("forward", KEY._replace(group=2), gpu(lambda c: None))


def test_short_calls_are_not_timed(gpu):
    run = gpu(lambda c: pytest.fail("timed") if len(run.ran) > 1 else 1.0)
    short = KEY._replace(length=256)
    assert best("forward", short, run) == candidates("forward", short)[0]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"bm": 48, "bn": 64, "warps": 4, "stages": 3}', '{"bm": "x"}']
)
def test_a_file_that_is_no_choice_is_timed_anew(gpu, text):
    run = gpu(lambda c: 1.0 if c == OFFERED[0] else 2.0)
    best("forward", KEY, run)
    (path,) = tuning._folder().iterdir()
    path.write_text(text)
    found = best("forward", KEY, gpu(lambda c: 1.0 if c == OFFERED[1] else 2.0))
    assert found == OFFERED[1]
    assert json.loads(path.read_text())["bn"] == found.bn


def test_whoever_keeps_a_choice_first_decides(gpu):
    """Ranks time at once, and compute with the same tiles."""
    gpu(lambda c: 1.0)
    name, fit = "forward-x", OFFERED
    assert tuning._keep(name, fit[1], fit) == fit[1]
    assert tuning._keep(name, fit[0], fit) == fit[1]
    assert tuning._keep("another", fit[0], fit) == fit[0]
    assert len(list(tuning._folder().iterdir())) == 2, "a file each, and nothing left over"


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(gpu, monkeypatch, tmp_path):
    run = gpu(lambda c: 1.0 if c == OFFERED[1] else 2.0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = []
    monkeypatch.setattr(tuning, "log_once", said.append)
    assert best("forward", KEY, run) == OFFERED[1]
    assert "cannot be kept" in said[-1]


# --- descriptors ---------------------------------------------------------------------------------


class OnGPU:
    """A tensor that says it lies on a Hopper GPU."""

    is_cuda, device = True, "cuda"

    def __init__(self, t, offset=0):
        self.t, self.shape, self.offset = t, t.shape, offset

    def stride(self, axis=None):
        return self.t.stride() if axis is None else self.t.stride(axis)

    def element_size(self):
        return self.t.element_size()

    def data_ptr(self):
        return 256 + self.offset


@pytest.fixture
def capability(monkeypatch):
    def put(major):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))

    put(9)
    return put


def test_descriptors_are_for_matrices_that_the_hardware_can_read(capability):
    heads = torch.zeros(2, 100, 3, 64, dtype=torch.float16)
    whole = heads.transpose(1, 2)
    assert launch._describable(OnGPU(whole), OnGPU(whole))
    for reason, t in {
        "the width is not the inner axis": whole.mT,
        "rows of 10 bytes": heads[..., :5].contiguous().transpose(1, 2),
        "every row is the same": whole[:, :, :1].expand(-1, -1, 100, -1),
    }.items():
        assert not launch._describable(OnGPU(t)), reason
    assert not launch._describable(OnGPU(whole, offset=2)), "begins between 16 bytes"
    capability(8)
    assert not launch._describable(OnGPU(whole)), "an older GPU"
