"""Whether the first map of a network can lose pixels: of a run, or of a config that has not run.

For each network with patches: numbers of a patch, width of the map, its rank and condition number
as it starts and, of a run, as it is now. Then what an image holds, at so many bits a byte, beside
what its tokens would hold if they were words of a vocabulary.

    python scripts/audit_patches.py run=<path, id or latest>
    python scripts/audit_patches.py network=dit_small data=fashion_mnist [bits=3]
"""

import math
import sys

from torch import nn

import genlab
from genlab.assemble.components import build
from genlab.config.compose import compose
from genlab.nn.patch import audit, budget

HEAD = "| network | weights | patch | numbers | width | rank | condition | |"
WORDS = (2**10, 2**13, 2**16)  # vocabularies of tokenizers


def stems(model):
    """(role, network) of those that read an image patch by patch."""
    found = []
    for role, network in model.named_children():
        if isinstance(getattr(network, "stem", None), (nn.Linear, nn.Conv2d)):
            if hasattr(network, "patch"):
                found.append((role, network))
    return found


def row(role, network, weights):
    found = audit(network.stem.weight)
    verdict = "lossless" if found.lossless else "loses"
    sizes = f"{network.patch} | {found.numbers} | {found.width} | {found.rank}"
    return f"| {role} | {weights} | {sizes} | {found.condition:.3g} | {verdict} |"


def entropy(shape, patch, bits):
    """Lines about an image of `shape` as tokens of a patch each."""
    tokens = (shape[1] // patch) * (shape[2] // patch)
    whole, each = budget(shape, tokens, bits)
    yield (
        f"{shape[1]}x{shape[2]}x{shape[0]} at {bits:g} bits a byte: {whole:,.0f} bits; "
        f"{tokens} tokens would need a vocabulary of 2^{math.ceil(each)}"
    )
    for words in WORDS:
        held = tokens * math.log2(words)
        yield f"  {tokens} tokens of {words:,} words hold {held:,.0f} bits, {held / whole:.1%}"


def lines(words):
    """The report for words of a command line."""
    bits = next((float(w.partition("=")[2]) for w in words if w.startswith("bits=")), 3.0)
    run = next((w.partition("=")[2] for w in words if w.startswith("run=")), None)
    rest = [w for w in words if not w.startswith(("bits=", "run="))]
    pipeline = genlab.load(run, overrides=rest) if run else None
    built = build(pipeline.config if pipeline else compose(["hardware=cpu", *rest]))
    found = stems(built.model)
    if not found:
        yield "no network here reads images patch by patch"
        return
    yield HEAD
    yield "|---" * (HEAD.count("|") - 1) + "|"
    for role, network in found:
        yield row(role, network, "start")
    for role, network in stems(pipeline.model) if pipeline else ():
        yield row(role, network, pipeline.checkpoint.folder.name)
    yield ""
    for patch in sorted({network.patch for _, network in found}):
        yield from entropy(built.spec.shape, patch, bits)


if __name__ == "__main__":
    for text in lines(sys.argv[1:]):
        print(text)
