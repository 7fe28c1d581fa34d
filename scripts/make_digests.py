"""Writes tests/golden/digests.json: what every yaml of configs/ composes to, as hashes.

Run it when a config was added, or changed on purpose (the commit says which and why):

    python scripts/make_digests.py [model=ddpm ...]

New lines are added. One that is there changes, or goes with its yaml, only if its last word is
given: a run is found by its digest. If others would change, nothing is written and it returns 1.

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
    """The words that compose, and the two hashes."""
    for words in (word, *(f"model={m} {word}" for m in names("model"))):
        try:
            return words, printed(words)
        except ConfigError as e:
            problem = e
    raise problem


found = dict(map(line, WORDS))
kept = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
changed = {words.split()[-1] for words in kept if found.get(words) != kept[words]}
if unnamed := sorted(changed - set(sys.argv[1:])):
    sys.exit(f"these would change; give those that should: {' '.join(unnamed)}")
lines = (f"{json.dumps(words)}: {json.dumps(hashes)}" for words, hashes in found.items())
DIGESTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
print(DIGESTS, len(found))
