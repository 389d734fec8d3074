"""YAML read strictly: a key that stands twice, or a file that says nothing, is an error with its file and line."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autocompress.errors import InputError


@dataclass(frozen=True)
class Place:
    """Says where a value stands, for error messages.

    Attributes:
        file: The file, or what else the data came from.
        lines: Line of every key path such as `rules[2].w_bits`; empty where the data did not come from YAML.
    """

    file: str
    lines: Mapping[str, int] = field(default_factory=dict)

    def at(self, path: str) -> str:
        """`file:line: path`, or without the line where it is not known."""
        line = self.lines.get(path)
        return f"{self.file}: {path}" if line is None else f"{self.file}:{line}: {path}"


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> tuple[dict[str, Any], Place]:
    """The mapping that a YAML file holds, and where each of its keys stands.

    Raises:
        InputError: the file cannot be read, is empty, is no mapping, is malformed, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InputError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: bytes that are no UTF-8, or a scalar such as the date 2020-99-99.
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if node is None or data is None:
        raise InputError(f"{path} is empty; write keys and values")
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__}; it must be a mapping of keys to values")
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines, set())
    return data, Place(str(path), lines)


def _collect_lines(node: yaml.Node, path: str, lines: dict[str, int], seen: set[int]) -> None:
    # An alias stands for a node that was seen already, perhaps for one that holds it.
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            lines[name] = key.start_mark.line + 1
            _collect_lines(value, name, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[f"{path}[{index}]"] = item.start_mark.line + 1
            _collect_lines(item, f"{path}[{index}]", lines, seen)
