"""What the documentation says is run: spaces load, examples run, links lead somewhere, commands exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from torch import nn

from autocompress.cli import app
from autocompress.core.model_info import ModelInfo
from autocompress.core.rule_form import KEYS
from autocompress.core.rules import build_space, load_rules
from autocompress.core.shipped import shipped_dir
from autocompress.graph.info import runnable_resolutions, trace_model
from autocompress.tasks import load_task
from autocompress.tasks.builtin.resnet import resnet20

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SPACES = sorted(file for file in shipped_dir("search_spaces").iterdir() if file.suffix in (".yaml", ".yml", ".py"))

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*infos: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1].strip(), match[2]))
    return [block for block in found if block.info in infos]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def test_there_is_something_to_check() -> None:
    names = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/methods.md", "docs/spaces.md"} <= names
    assert len(blocks("yaml")) >= 5
    assert blocks("python run")
    assert blocks("bash")


# Spaces.


@cache
def model_info() -> ModelInfo:
    """The ResNet-20 of the task `digits`, with a student builder."""
    model, inputs = resnet20(in_channels=1), (torch.zeros(1, 1, 32, 32),)
    shares = runnable_resolutions(model, inputs, (1.0, 0.875, 0.75, 0.625, 0.5))
    return trace_model(model, inputs, shares, {"width": (16, 8, 4), "act": ("silu", "relu")}).info


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.name)
def test_shipped_spaces_build(path: Path) -> None:
    space = build_space(load_rules(str(path)), model_info())
    assert space == build_space(load_rules(path.stem), model_info())
    assert space.size > 1
    assert space.encode(space.decode(space.extreme_vector)) == space.extreme_vector


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_space_examples_build(block: Block, tmp_path: Path) -> None:
    assert set(yaml.safe_load(block.text)) <= set(KEYS), "a yaml block is a whole space"
    file = tmp_path / "example.yaml"
    file.write_text(block.text, encoding="utf-8")
    space = build_space(load_rules(str(file)), model_info())
    assert space.size > 1
    assert space.encode(space.decode(space.extreme_vector)) == space.extreme_vector


def test_an_example_offers_what_its_comments_say(tmp_path: Path) -> None:
    block = next(block for block in blocks("yaml") if block.page.name == "README.md")
    file = tmp_path / "my_space.yaml"
    file.write_text(block.text, encoding="utf-8")
    options = {d.name: d.options for d in build_space(load_rules(str(file)), model_info()).decisions}
    assert [getattr(option, "w_bits", None) for option in options["quantize:linear"]] == [8]
    assert [getattr(option, "w_bits", None) for option in options["quantize:layer1.0.conv1"]] == [None, 8, 6, 4]
    assert options["resolution"] == (1.0, 0.75)


def test_every_term_of_every_op_is_documented() -> None:
    from autocompress.core.plan import OPS

    table = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    for op, cls in OPS.items():
        assert f"| `{op}` |" in table
        assert [term for term in cls.__dataclass_fields__ if f"| `{term}` |" not in table] == []
    assert [key for key in KEYS if f"{key}:" not in table] == []


# Python.


@pytest.mark.parametrize("block", blocks("python", "python run"), ids=str)
def test_python_examples_parse_and_import(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("autocompress"):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("block", blocks("python run"), ids=str)
def test_python_examples_run(block: Block, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{block.text}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


class MyNet(nn.Sequential):
    """What the README's example takes from the reader's own project."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3))


def test_the_model_example_of_the_readme_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block.text for block in blocks("python") if block.text.startswith("# my_task.py"))
    assert len(code.splitlines()) <= 15
    (tmp_path / "my_task.py").write_text(code, encoding="utf-8")
    torch.save(MyNet().state_dict(), tmp_path / "weights.pt")
    project = types.ModuleType("my_project")
    project.MyNet = MyNet  # type: ignore[attr-defined]
    for split in ("train", "validation", "test"):
        setattr(project, split, (torch.randn(12, 1, 4, 4), torch.arange(12) % 3))
    monkeypatch.setitem(sys.modules, "my_project", project)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    task = load_task("my_task.py:build")
    assert task.name == "my-net"
    assert len(task.test) == 12
    sys.modules.pop("my_task")


# Links.


def slugs(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        inside = file == ROOT or ROOT in file.parents
        if not (inside and file.exists()) or (anchor and file.suffix == ".md" and anchor not in slugs(file)):
            broken.append(target)
    assert broken == []


def test_decisions_are_listed_and_short() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for record in sorted(folder.glob("0*.md")):
        text = record.read_text(encoding="utf-8")
        assert record.name in index
        assert len(text.splitlines()) <= 25, record.name
        assert all(part in text for part in ("**Context.**", "**Decision.**", "**Consequences.**")), record.name


# Commands.


def commands() -> list[tuple[str, list[str]]]:
    """Every line of a bash or indented block, and every `inline code`, that calls autocompress with arguments."""
    found = []
    for page in PAGES:
        lines = [line for block in blocks("bash") if block.page == page for line in block.text.splitlines()]
        lines += re.findall(r"^ {4}(autocompress .*)$", prose(page), re.MULTILINE)
        lines += [" ".join(code.split()) for code in re.findall(r"`(autocompress [^`]+)`", prose(page))]
        for line in lines:
            words = shlex.split(line, comments=True)
            if words[:1] == ["autocompress"] and len(words) > 1:
                found.append((f"{page.relative_to(ROOT)}: {line.split('  ')[0]}", words[1:]))
    return found


@pytest.mark.parametrize(("line", "words"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_commands_exist_with_their_options(line: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        name, *words = words
        assert name in command.commands, f"{line}: no command {name!r}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in words if word.startswith("--") and word.split("=")[0] not in known] == []
