"""Imports go one way, and the words of a command line never wait for torch."""

import ast
from functools import lru_cache
from pathlib import Path

import pytest

from genlab.core.registry import GROUPS, PACKAGE

ORDER = (
    "core < kernel < nn < components < config < run < report "
    "< assemble < sampling < evaluation < training < cli"
)
"""What a file may import: its own folder and those further left. A component is of one of the
config groups, and never imports another group."""

FILES = sorted(PACKAGE.rglob("*.py"))
RANK = {name.strip(): i for i, name in enumerate(ORDER.split("<"))}
RANK |= dict.fromkeys(GROUPS, RANK.pop("components"))


@lru_cache
def imported(path: Path, top_only: bool = False) -> set[str]:
    """Modules a file imports; top_only: only those that importing the file imports too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(tree.body) if top_only else list(ast.walk(tree))
    out = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            out |= {f"{node.module}.{a.name}" for a in node.names}
    return out


def folder(module: str) -> str | None:
    """genlab.core.files.disk -> run; None outside genlab and for what stands in genlab itself."""
    words = module.split(".")
    return words[1] if words[0] == "genlab" and len(words) > 1 and words[1] in RANK else None


def test_every_folder_has_its_place():
    folders = {p.relative_to(PACKAGE).parts[0] for p in FILES if p.parent != PACKAGE}
    assert folders == set(RANK)
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path):
    here = path.relative_to(PACKAGE).parts[0]
    for module in imported(path) if here in RANK else ():
        there = folder(module)
        assert there is None or there == here or RANK[there] < RANK[here], f"imports {module}"


def test_trainer_knows_no_component():
    reached = {folder(m) for m in imported(PACKAGE / "training" / "trainer.py")} - {None}
    assert reached <= {"core"}


def test_inits_are_empty():
    """core/ holds modules without torch beside modules with it: none may be pulled in unasked."""
    full = [p for p in PACKAGE.rglob("__init__.py") if p.read_text(encoding="utf-8").strip()]
    assert full == [PACKAGE / "__init__.py"]


HEAVY = {"torch", "hydra", "omegaconf", "numpy", "PIL", "rich", "sklearn", "safetensors"}
HEAVY |= {"wandb", "tensorboard"}


def closure(name: str, seen: set[str]) -> set[str]:
    """Every module that importing `name` imports at its top, heavy ones included."""
    for module in imported(path_of(name), top_only=True):
        if module.split(".")[0] == "genlab":
            for candidate in (module, module.rpartition(".")[0]):
                if path_of(candidate) and candidate not in seen:
                    seen.add(candidate)
                    closure(candidate, seen)
        else:
            seen.add(module.split(".")[0])
    return seen


@lru_cache
def path_of(name: str) -> Path | None:
    base = PACKAGE.parent / name.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def test_no_import_goes_round():
    """No file imports itself through others at the top; Python would allow some of those."""
    for path in FILES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        assert name not in closure(name, set()), name


TEXT = "cli.main cli.verb cli.help cli.list cli.completion core.registry core.console core.format"


@pytest.mark.parametrize("name", ["genlab", *(f"genlab.{n}" for n in TEXT.split())])
def test_help_list_and_tab_import_only_the_standard_library(name):
    assert not closure(name, set()) & HEAVY


@pytest.mark.parametrize("name", ["console", "format"])
def test_what_speaks_to_people_knows_neither_ranks_nor_names(name):
    reached = closure(f"genlab.core.{name}", set())
    assert not reached & {"genlab.core.dist", "genlab.core.registry"}


@pytest.mark.parametrize(
    "name",
    [
        *("genlab.config.compose", "genlab.cli.show", "genlab.training.verb"),
        *("genlab.report.report", "genlab.report.compare", "genlab.report.overview"),
    ],
)
def test_checking_a_config_and_reporting_import_no_torch(name):
    assert "torch" not in closure(name, set())


def test_a_long_file_says_why():
    """One subject a file; one of more than 500 lines gives its reason in its docstring."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        doc = ast.get_docstring(ast.parse(text)) or ""
        assert len(text.splitlines()) <= 500 or "one file because" in doc, path
