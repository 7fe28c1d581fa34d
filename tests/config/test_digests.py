"""Every yaml composes to what it composed to before: runs and sweeps are found by that."""

import json

import pytest

from tests.helpers.configs import DIGESTS, WORDS, printed

KEPT = json.loads(DIGESTS.read_text())


def test_every_yaml_is_kept():
    assert {words.split()[-1] for words in KEPT} == set(WORDS), "run scripts/make_digests.py"


@pytest.mark.parametrize("words", KEPT)
def test_it_composes_to_the_same_config(words):
    assert printed(words) == KEPT[words]
