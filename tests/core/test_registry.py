"""Names, signatures and values: from sources as text, held against what Python itself says."""

from __future__ import annotations

import importlib
import inspect
import math
import sys

import pytest

from genlab.core import registry
from genlab.core.errors import ConfigError, Refused
from genlab.core.registry import GROUPS, build, check, components, find, names, signature, suggest
from genlab.core.schema import coerce

CACHED = (components, signature, registry._module)
COMPONENTS = [(group, name) for group in GROUPS for name in components(group)]

SOURCE = '''
"""A group of a test."""
from __future__ import annotations
from typing import Literal
from genlab.registry import register
from genlab.schema import Count, Positive


@register
class First:
    """The first of them.

    More words.
    """

    def __init__(self, spec, extra=0, *, lr: Positive, kind: Literal["a", "b"], n: Count | None):
        self.lr, self.kind, self.n = lr, kind, n


# @register
class NotMarked:
    pass


@register("second", "zweiter")
class Second(First):
    """The second."""
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder whose group "model" has one file, first.py."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "first.py").write_text(SOURCE)
    (tmp_path / "model" / "__init__.py").write_text("")
    for cached in CACHED:
        cached.cache_clear()
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    yield tmp_path / "model"
    for cached in CACHED:
        cached.cache_clear()


def test_components_are_marked_classes_alone(package):
    assert set(components("model")) == {"first", "second", "zweiter"}
    assert {p.name for p in components("model").values()} == {"first.py"}


def test_a_name_registered_twice_is_our_mistake(package):
    (package / "other.py").write_text('@register("first")\nclass A: ...\n')
    with pytest.raises(AssertionError, match="registered twice"):
        components("model")


def test_signature_from_text(package):
    s = signature("model", "first")
    assert s.given == ("spec", "extra") and s.required == ("spec",)
    assert s.keys == {"lr": "Positive", "kind": "Literal['a', 'b']", "n": "Count | None"}
    assert s.doc == "The first of them."
    inherited = signature("model", "zweiter")
    assert inherited.keys == s.keys and inherited.doc == "The second."


INHERITS = """
from model.first import First
from {relative} import Third as Base

@register
class Heir(Base["of", "something"]):
    '''The heir.'''
    def __init__(self, codec, *given, kind: Literal["a"], more: bool, **rest): ...

@register("lazy")
class Lazy(Mixin, Heir):
    '''Has none of its own.'''
"""
THIRD = """
from model.first import First

class Third(First):
    def __init__(self, *given, third: int, **rest): ...
"""


@pytest.mark.parametrize("relative", ["model.third", ".third", ".again"])
def test_a_signature_goes_on_in_the_base_class(package, monkeypatch, relative):
    monkeypatch.syspath_prepend(package.parent)
    (package / "third.py").write_text(THIRD)
    (package / "again.py").write_text("from .third import Third\n")
    (package / "heir.py").write_text(INHERITS.format(relative=relative))
    for name in ("heir", "lazy"):
        s = signature("model", name)
        assert s.given == ("codec", "spec", "extra") and s.required == ("codec", "spec")
        assert s.keys == {
            "lr": "Positive",
            "kind": "Literal['a']",  # as the subclass has it
            "n": "Count | None",
            "third": "int",
            "more": "bool",
        }
    assert s.doc == "Has none of its own."
    good = {"name": "heir", "lr": 1, "kind": "a", "n": None, "third": 3, "more": True}
    assert check("model", {**good, "classes": "auto"}) == []
    (problem,) = check("model", {**good, "thrid": 3})
    assert "model.thrid" in problem and "'third'" in problem
    open_ended = "@register\nclass Open(nn.Module):\n    def __init__(self, **rest): ...\n"
    (package / "open.py").write_text(open_ended)
    components.cache_clear()
    with pytest.raises(ConfigError, match=r"class Open of .* takes \*\*rest, and no base class"):
        signature("model", "open")


def test_a_class_that_is_a_base_of_its_own_is_refused(package, monkeypatch):
    monkeypatch.syspath_prepend(package.parent)
    for one, other in (("one", "other"), ("other", "one")):
        text = f"from model.{other} import {other}\n@register\nclass {one}({other}): ...\n"
        (package / f"{one}.py").write_text(text)
    with pytest.raises(ConfigError, match=r"class one of .*one\.py is a base of its own"):
        signature("model", "one")


def test_check_finds_every_problem_at_once(package):
    good = {"name": "first", "lr": 1, "kind": "a", "n": None, "classes": "auto"}
    assert check("model", good) == []
    problems = check("model", {"name": "first", "lr": -1, "knid": "a", "n": 2.5})
    text = "\n".join(problems)
    assert "model.lr must be a finite number > 0, not -1" in text
    assert "model.knid" in text and "'kind'" in text
    assert "model.n must be a whole number >= 1 or null, not 2.5" in text
    assert "needs the key kind" in text and len(problems) == 4


def test_check_names_the_place_and_the_nearest_component(package):
    (problem,) = check("model", {"name": "frist"}, "model.inner")
    assert "no model 'frist'" in problem and "'first'" in problem
    assert check("model", {"lr": 1}, "a.b")[0].startswith("a.b.name is missing")


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (2e6, "int", 2_000_000),
        (1, "float", 1.0),
        (True, "bool", True),
        ("auto", "int | Literal['auto']", "auto"),
        (3, "int | Literal['auto']", 3),
        (None, "float | None", None),
        ([1, 2.0], "tuple[int, ...]", (1, 2)),
        ([1, 2], "list[float]", [1.0, 2.0]),
        ({"d": {"lr": 1}}, "dict[str, dict]", {"d": {"lr": 1}}),
        ([0.9, 1], "tuple[Fraction, ...]", (0.9, 1.0)),
        (0, "NonNegative", 0.0),
        (0, "Natural", 0),
    ],
)
def test_coerce(value, annotation, expected):
    result = coerce(value, annotation)
    assert result == expected and type(result) is type(expected)
    if isinstance(expected, (list, tuple)):
        assert [type(v) for v in result] == [type(v) for v in expected]


@pytest.mark.parametrize(
    ("value", "annotation", "words"),
    [
        (2.5, "int", "a whole number"),
        (True, "int", "a whole number"),
        (True, "float", "a finite number"),
        (math.nan, "float", "a finite number"),
        (math.inf, "Positive", "a finite number > 0"),
        (0, "Positive", "a finite number > 0"),
        (-1e-9, "NonNegative", "a finite number >= 0"),
        (1.1, "Fraction", "a number in [0, 1]"),
        (0, "Count", "a whole number >= 1"),
        (-1, "Natural", "a whole number >= 0"),
        ("1e-4", "float", "a finite number"),
        (1, "bool", "true or false"),
        (1, "Literal['a', 'b']", "a or b"),
        (True, "Literal[1, 2]", "1 or 2"),
        ("x", "list[int]", "a list like"),
        ([1, "x"], "list[int]", "a list like [2,1] of which each is a whole number"),
        ("x", "int | None", "a whole number or null"),
        (3, "dict[str, int]", "a mapping"),
    ],
)
def test_coerce_refuses(value, annotation, words):
    with pytest.raises(ValueError, match="^" + words.replace("[", r"\[").replace("]", r"\]")):
        coerce(value, annotation)


def test_suggest():
    assert suggest("glw", ["glow", "gan", "ddpm"]).startswith("Did you mean 'glow'")
    assert suggest("zzzz", ["glow", "gan"]) == ""


def test_names_of_a_group_with_folders_of_ones_own(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "deep" / "mine.yaml").touch()
    (tmp_path / "model" / "notes.txt").touch()
    assert set(names("model", tmp_path)) == {*names("model"), "deep/mine"}
    assert names("no_such_group") == []


# --- the components as they are -----------------------------------------------------------------


def parameters(cls):
    """Positional and keyword-only parameters of a class, on through **kwargs in Python's order."""
    positional, keyword = {}, {}
    for owner in cls.__mro__:
        init = vars(owner).get("__init__")
        if init is None or not owner.__module__.startswith("genlab"):
            continue
        found = list(inspect.signature(init).parameters.values())[1:]
        for p in found:
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
                (keyword if p.kind is p.KEYWORD_ONLY else positional).setdefault(p.name, p)
        if found and found[-1].kind is not found[-1].VAR_KEYWORD:
            break
    return positional, keyword


@pytest.mark.parametrize(("group", "name"), COMPONENTS)
def test_find_gives_the_class_and_signature_what_python_sees(group, name):
    cls = find(group, name)
    assert name in cls.registered
    positional, keyword = parameters(cls)
    read = signature(group, name)
    assert set(read.keys) == set(keyword) and set(read.given) == set(positional)
    assert read.keys == {k: p.annotation for k, p in keyword.items()}
    assert set(read.required) == {k for k, p in positional.items() if p.default is p.empty}
    assert all(p.default is p.empty for p in keyword.values()), "the yaml holds the defaults"
    doc = (inspect.getdoc(cls) or "").splitlines()
    assert read.doc == (doc[0] if doc else "") and 0 < len(read.doc) <= 72


@pytest.mark.parametrize("group", GROUPS)
def test_components_are_what_the_modules_register(group):
    registered = set()
    for path in (registry.PACKAGE / group).glob("[!_]*.py"):
        module = importlib.import_module(f"genlab.{group}.{path.stem}")
        for value in vars(module).values():
            if getattr(value, "__module__", None) == module.__name__:
                registered |= set(vars(value).get("registered", ()))
    assert registered == set(components(group))


def test_build_hands_over_what_is_named_and_reports_a_value_error():
    points = {"name": "points", "scale": 2.0}
    from genlab.core.contract import Spec

    codec = build("codec", points, spec=Spec((2,)), unused=1)
    assert codec.spec.shape == (2,)
    with pytest.raises(ConfigError, match="needs spec, which nothing gives"):
        build("codec", points)
    with pytest.raises(ConfigError, match=r"codec\.scale must be a finite number > 0"):
        build("codec", {**points, "scale": -1}, spec=Spec((2,)))
    with pytest.raises(ConfigError, match=r"^codec: "):
        build("codec", points, spec=Spec((3, 8, 8)))


def test_an_out_of_tree_component_needs_trust(tmp_path, monkeypatch):
    (tmp_path / "outside_genlab.py").write_text(
        "from genlab.core.contract import Dataset\n\n\nclass Mine(Dataset):\n    '''Mine.'''\n"
        "    def __init__(self, *, n: int): self.n = n\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"name": "outside_genlab:Mine", "n": 3}
    assert check("data", node) == []
    with pytest.raises(Refused, match="trust=true"):
        build("data", node, trust=False)
    assert build("data", node).n == 3
    for nowhere in ("nowhere_at_all:Mine", "os.path:join", "sys:exit", ".:x", ":"):
        assert "no module" in check("data", {"name": nowhere})[0]


def test_checking_an_out_of_tree_name_runs_none_of_its_code(tmp_path, monkeypatch):
    package = tmp_path / "foreign_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "inner.py").write_text("class Mine:\n    def __init__(self, *, n: int): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"name": "foreign_package.inner:Mine", "n": 3}
    assert check("data", node) == []
    with pytest.raises(Refused):
        build("data", node, trust=False)
    with pytest.raises(SystemExit, match="imported"):
        build("data", node)


def test_the_current_folder_is_looked_into_last_and_joins_the_path_for_trusted_code_alone(
    tmp_path, monkeypatch
):
    code = "from genlab.model.gan import GAN\n\n\nclass Mine(GAN):\n    pass\n"
    (tmp_path / "code_of_mine.py").write_text(code)
    (tmp_path / "yaml.py").write_text("raise SystemExit('the installed one comes first')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    registry.signature.cache_clear()
    assert "ema" in registry.signature("model", "code_of_mine:Mine").keys
    with pytest.raises(Refused, match="trust=true"):
        registry.find("model", "code_of_mine:Mine", trust=False)
    assert str(tmp_path) not in sys.path, "what is only read may be of somebody else"
    assert registry.find("model", "code_of_mine:Mine").__name__ == "Mine"
    assert sys.path[-1] == str(tmp_path)
    registry.signature.cache_clear()
    monkeypatch.delitem(sys.modules, "code_of_mine")
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    with pytest.raises(ConfigError, match="go where code_of_mine lies"):
        registry.signature("model", "code_of_mine:Mine")
