"""Imports go one way, and the words of a command line never wait for torch."""

import ast
from pathlib import Path

import pytest

from genlab.registry import PACKAGE, ROOMS

SHARED = {"contract", "evidence", "registry", "schema", "noise", "dist", "errors", "progress"}
SHARED |= {"signals", "rooms", "gaussian", "nn", "kernel"}
"""What every room may import."""

FILES = sorted(PACKAGE.rglob("*.py"))


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


def part(module: str) -> str | None:
    """genlab.run.files.disk -> run; None outside genlab."""
    words = module.split(".")
    return words[1] if words[0] == "genlab" and len(words) > 1 else None


IN_ROOMS = [p for p in FILES if p.relative_to(PACKAGE).parts[0] in ROOMS]


@pytest.mark.parametrize("path", IN_ROOMS, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_rooms_import_no_other_room_and_no_verb(path):
    room = path.relative_to(PACKAGE).parts[0]
    for module in imported(path):
        where = part(module)
        assert where is None or where in SHARED or where == room, f"{path} imports {module}"


def test_trainer_knows_no_room():
    reached = {part(m) for m in imported(PACKAGE / "trainer.py")} - {None}
    assert reached <= {"contract", "dist", "errors", "noise"}


def test_only_build_wires_rooms():
    allowed = {"build.py", "doctor.py"}  # doctor asks each room what would be used
    for path in FILES:
        top = path.relative_to(PACKAGE).parts[0]
        rooms = {part(m) for m in imported(path)} & set(ROOMS)
        if top in ROOMS or top in allowed:
            continue
        # hardware is the one room whose types pass through the verbs
        assert rooms <= {"hardware"}, f"{path} imports {rooms}"


HEAVY = {"torch", "hydra", "omegaconf", "numpy", "PIL", "rich", "sklearn", "safetensors"}
HEAVY |= {"wandb", "tensorboard"}


def closure(name: str, seen: set[str]) -> set[str]:
    """Every module that importing `name` imports at its top, heavy ones included."""
    for module in imported(path_of(name), top_only=True):
        if part(module):
            for candidate in (module, module.rpartition(".")[0]):
                if path_of(candidate) and candidate not in seen:
                    seen.add(candidate)
                    closure(candidate, seen)
        else:
            seen.add(module.split(".")[0])
    return seen


def path_of(name: str) -> Path | None:
    base = PACKAGE.parent / name.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@pytest.mark.parametrize(
    "name", ["genlab", "genlab.cli", "genlab.registry", "genlab.listing", "genlab.completion"]
)
def test_help_list_and_tab_import_only_the_standard_library(name):
    assert not closure(name, set()) & HEAVY


@pytest.mark.parametrize("name", ["genlab.config", "genlab.show", "genlab.train"])
def test_checking_a_config_imports_no_torch(name):
    assert "torch" not in closure(name, set())


def test_no_source_file_is_long():
    long = [f"{p.name}: {n}" for p in FILES if (n := len(p.read_text().splitlines())) > 350]
    assert not long
