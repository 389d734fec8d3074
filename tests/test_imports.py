"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "autocompress"
# A package may import what stands before it; those of one line may not import each other.
ORDER = (
    ("errors",),
    ("core",),
    ("graph", "tasks"),
    ("compress",),
    ("targets",),
    ("emit",),
    ("proxy",),
    ("search",),
    ("run",),
    ("wired",),
    ("answers", "config"),
    ("cli_options",),
    ("cli_targets",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            if node.module == "autocompress":
                found.update(f"autocompress.{alias.name}" for alias in node.names)
    return found


def part(module: str) -> str | None:
    """The part of autocompress that a module belongs to."""
    names = module.split(".")
    return names[1] if names[0] == "autocompress" and len(names) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    parts = {part(module) for module in imported(path)} - {None, own}
    if own == "__init__":
        assert "cli" not in parts
        return
    if own in ("__main__",):
        assert parts <= {"cli"}
        return
    assert own in RANK, f"{own} has no place in the order"
    for other in sorted(str(p) for p in parts):
        assert RANK.get(other, -1) < RANK[own], f"{own} may not import {other}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_does_without_torch(path: Path) -> None:
    heavy = {"torch", "onnx", "onnxruntime", "optuna", "ray", "tensorly"}
    assert not {module.split(".")[0] for module in imported(path)} & heavy


def test_every_package_has_a_place() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages <= set(RANK)


def test_what_reads_a_run_or_shows_help_needs_no_pytorch() -> None:
    look = "import sys, autocompress.cli, autocompress.run.folder; print({'torch', 'ray', 'optuna'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True).stdout == "set()\n"
