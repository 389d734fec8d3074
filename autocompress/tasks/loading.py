"""Finds a task by name or in the user's own code."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from autocompress.core.user_code import USER_CODE_ERRORS, first_line, place
from autocompress.errors import InputError, nearest
from autocompress.tasks.builtin import BUILTIN
from autocompress.tasks.task import Task

# What was imported from a file by its path, by name: another process would not find it.
USER_MODULES: dict[str, ModuleType] = {}
_FORMS = "a task is a built-in name, file.py:function or package.module:function"


def load_task(ref: str) -> Task:
    """The task that `ref` names: a built-in, `file.py:function` or `package.module:function`.

    The user's function is called without arguments and returns a Task. The folder of the file goes on the import
    path, so that it may import its neighbours.

    Raises:
        InputError: no such task, file, module or function; the code fails (with file and line); no Task comes back.
    """
    if ref in BUILTIN:
        return BUILTIN[ref].build()
    source, colon, function = ref.rpartition(":")
    if not colon or not source or not function.isidentifier():
        hint = f"write {ref}:build, with the function that returns the Task" if ref.endswith(".py") else ""
        raise InputError(f"unknown task {ref!r}; {hint or nearest(ref, BUILTIN)} ({_FORMS})")
    task = call_user_function(ref, "task")
    if not isinstance(task, Task):
        raise InputError(f"task {ref!r}: {function}() returns a {type(task).__name__}; it must return a Task")
    return task


def call_user_function(ref: str, what: str) -> object:
    """What `file.py:function` or `package.module:function` returns when it is called without arguments.

    Args:
        ref: Names the function, behind the last colon.
        what: A word for it in errors.

    Raises:
        InputError: no such file, module or function, or the code fails (with file and line).
    """
    source, _, function = ref.rpartition(":")
    try:
        module = _import_file(Path(source), what) if source.endswith(".py") else importlib.import_module(source)
    except USER_CODE_ERRORS as error:
        raise InputError(f"{what} {ref!r}: cannot import {source}: {_told(error, source)}") from error
    build = getattr(module, function, None)
    if not callable(build):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise InputError(f"{what} {ref!r}: {source} has no function {function!r}; {nearest(function, names)}")
    try:
        made: object = build()
    except USER_CODE_ERRORS as error:
        raise InputError(f"{what} {ref!r}: {function}() fails: {_told(error, module.__file__)}") from error
    return made


def _told(error: BaseException, file: str | None) -> str:
    return f"{first_line(error)} ({place(error, str(Path(file).resolve()) if file else None)})"


def _import_file(path: Path, what: str) -> ModuleType:
    """Imports a file under its own name, so that what it defines can be pickled."""
    path = path.resolve()
    if not path.is_file():
        raise InputError(f"{what} file {path} does not exist; check the path, which starts at the working directory")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) != str(path):
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    USER_MODULES[name] = module
    return module
