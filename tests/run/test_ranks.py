"""What ranks of one run must have in common, and what is told where they have not."""

from __future__ import annotations

import pytest
import torch

from genlab.core.errors import ConfigError, DataError, DeviceError
from genlab.run.ranks import check_ranks, data_facts, difference, facts
from tests.helpers.configs import composed


def test_facts_are_versions_and_keys_without_those_of_a_machine():
    config = composed("model=gan outputs=/a data.root=/b hardware.threads=1")
    found = facts(config)
    assert found["torch"] == torch.__version__ and found["optimizer.lr"] == "0.0002"
    assert found == facts(composed("model=gan outputs=/c data.root=/d hardware.threads=2"))
    assert found != facts(composed("model=gan every.eval=100")), "ranks evaluate together"
    check_ranks(found, torch.device("cpu"))  # alone


def test_the_first_differences_are_told_in_one_sentence():
    a = {"genlab": "1", "torch": "2", "optimizer.lr": "0.1", "data": "abc"}
    assert difference([a, dict(a), dict(a)]) is None
    error = difference([a, a, {**a, "optimizer.lr": "0.2", "data": "def"}])
    assert isinstance(error, ConfigError)
    assert str(error) == (
        "ranks differ: optimizer.lr is 0.1 on rank 0, 0.2 on rank 2, data is abc on rank 0, def "
        "on rank 2; start all with the same words and data"
    )
    older = {k: v for k, v in {**a, "genlab": "0"}.items() if k != "data"}
    error = difference([a, older])
    assert isinstance(error, DeviceError)
    assert "genlab is 1 on rank 0, 0 on rank 1, data is abc on rank 0, not there on" in str(error)
    assert isinstance(difference([a, {**a, "data": "def"}]), DataError)
    many = difference([{str(i): "0" for i in range(9)}, {str(i): "1" for i in range(9)}])
    assert " and 4 more;" in str(many)


@pytest.mark.parametrize("value", [None, [1, 2], {}, "a b"])
def test_values_of_any_kind_are_compared(value):
    config = composed("model=gan")
    config["model"]["r1"] = value
    assert facts(config)["model.r1"] != facts(composed("model=gan"))["model.r1"]


def test_data_are_compared_by_their_digests():
    here = data_facts({"count": 64, "shape": [1, 8, 8], "values": "abc"})
    error = difference([here, here, {**here, "data values": '"def"'}])
    assert isinstance(error, DataError)
    assert str(error) == (
        'ranks differ: data values is "abc" on rank 0, "def" on rank 2; '
        "start all with the same data"
    )
