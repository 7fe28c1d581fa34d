"""Writes tests/golden/digests.json: what every yaml of configs/ composes to, as hashes.

Run it when a config was added, or changed on purpose (the commit says which and why):

    python scripts/make_digests.py

A line holds the words typed (with a model that fits, where the usual one does not), the digest of
the config, which names run directories and finds a sweep that is typed again, and a hash of all
its keys, those that the digest leaves out too.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from genlab.core.errors import ConfigError
from genlab.core.registry import names
from tests.helpers.configs import DIGESTS, WORDS, printed


def line(word):
    for words in (word, *(f"model={m} {word}" for m in names("model"))):
        try:
            return f"{json.dumps(words)}: {json.dumps(printed(words))}"
        except ConfigError as e:
            problem = e
    raise problem


DIGESTS.write_text("{\n" + ",\n".join(map(line, WORDS)) + "\n}\n")
print(DIGESTS, len(WORDS))
