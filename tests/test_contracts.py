"""What a component can do is declared on its base class, and nothing goes by its name."""

import ast
import re

import pytest

from genlab.core import registry
from genlab.core.registry import BASES, GROUPS, PACKAGE

FOLDERS = ("core", "assemble", "sampling", "evaluation", "training")
"""What is written for all components alike."""

FILES = [path for folder in FOLDERS for path in sorted((PACKAGE / folder).rglob("*.py"))]
COMPONENTS = [(group, name) for group in BASES for name in registry.components(group)]

WORDS = {
    "core/contract.py": {"points", "raw"},
    "core/dist.py": {"cuda"},
    "core/gaussian_path.py": {"cpu", "edm"},
    "core/memory.py": {"cuda"},
    "core/metric.py": {"points"},
    "core/schema.py": {"auto", "edm"},
    "assemble/compatibility.py": {"auto"},
    "assemble/components.py": {"cpu"},
    "assemble/pretrained.py": {"cpu"},
    "sampling/from_images.py": {"psnr"},
    "evaluation/cache.py": {"cpu", "cuda"},
    "evaluation/streams.py": {"points"},
    "evaluation/target.py": {"auto", "cpu", "folder", "raw"},
    "evaluation/verb.py": {"auto", "cpu"},
    "training/dry_run.py": {"cpu"},
    "training/cadence.py": {"auto"},
    "training/preview.py": {"raw"},
    "training/setup.py": {"auto"},
    "training/stream.py": {"cuda"},
}
"""Names of components that are words of another meaning too, and where.

auto: a value that the program chooses. cpu, cuda: types of a device, as torch has them. raw:
weights that are no average. points: a kind of data. edm: a weighting of the loss. psnr: a number
of a reconstruction. folder: a key of what is recorded.
"""


def ids(path):
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_attribute_is_looked_for_by_a_string(path):
    """Each base class declares all that is asked of its components, with a default."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            by_name = node.func.id in ("getattr", "hasattr") and len(node.args) > 1
            found = ast.unparse(node)
            assert not (by_name and isinstance(node.args[1], ast.Constant)), found


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_component_is_known_by_its_name(path):
    """Sentences may name one, as advice; code may not compare with it or build it."""
    names = {name for group in GROUPS for name in registry.components(group)}
    found = {
        node.value: node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert found.keys() == WORDS.get(ids(path), set()), f"{found}; see WORDS"


def test_what_sentences_advise_is_there():
    """`use sampler=heun`: a group and a component, or a config, of that name."""
    advised = re.compile(r"\b(" + "|".join(GROUPS) + r")=([a-z][a-z0-9_]*)\b(?!\.)")
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for group, name in advised.findall(node.value):
                    assert name in registry.names(group), f"{path.name}: {group}={name}"


@pytest.mark.parametrize(("group", "name"), COMPONENTS, ids=lambda part: part)
def test_every_component_is_derived_from_the_base_of_its_group(group, name):
    module, _, base = BASES[group].partition(":")
    wanted = getattr(__import__(module, fromlist=[base]), base)
    assert issubclass(registry.find(group, name), wanted)
