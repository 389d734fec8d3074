"""autocompress: one search over sparsity, bits, rank and architecture for a real device.

run = autocompress.search(task, target="jetson-nano", space="joint", budget=50)
model = autocompress.load(run.artifact(run.points[0]["id"]))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.compress.apply import apply
    from autocompress.config import fork, resume, search
    from autocompress.core.plan import LowRank, Plan, Prune, Quantize, Sparsify, Student
    from autocompress.core.rules import SpaceRules
    from autocompress.core.space import Space
    from autocompress.emit.artifact import load
    from autocompress.run.folder import Run
    from autocompress.targets.profile import Target
    from autocompress.tasks import Split, Task, classification

__version__ = "0.1.0"

# Where each public name lives; imported when it is first used, so that `import autocompress` costs nothing.
_PUBLIC = {
    "LowRank": "autocompress.core.plan",
    "Plan": "autocompress.core.plan",
    "Prune": "autocompress.core.plan",
    "Quantize": "autocompress.core.plan",
    "Run": "autocompress.run.folder",
    "Space": "autocompress.core.space",
    "SpaceRules": "autocompress.core.rules",
    "Sparsify": "autocompress.core.plan",
    "Split": "autocompress.tasks",
    "Student": "autocompress.core.plan",
    "Target": "autocompress.targets.profile",
    "Task": "autocompress.tasks",
    "apply": "autocompress.compress.apply",
    "classification": "autocompress.tasks",
    "fork": "autocompress.config",
    "load": "autocompress.emit.artifact",
    "resume": "autocompress.config",
    "search": "autocompress.config",
}

__all__ = [
    "LowRank",
    "Plan",
    "Prune",
    "Quantize",
    "Run",
    "Space",
    "SpaceRules",
    "Sparsify",
    "Split",
    "Student",
    "Target",
    "Task",
    "apply",
    "classification",
    "fork",
    "load",
    "resume",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
