"""Task - model, data, loss, metric; the built-in tasks; loading a user's task."""

from autocompress.tasks.check import check_task
from autocompress.tasks.classification import classification, top1_percent
from autocompress.tasks.data import Split
from autocompress.tasks.evaluate import collect_outputs, evaluate_metric
from autocompress.tasks.loading import load_task
from autocompress.tasks.task import Task, distillation_loss
from autocompress.tasks.weights import load_state_dict

__all__ = [
    "Split",
    "Task",
    "check_task",
    "classification",
    "collect_outputs",
    "distillation_loss",
    "evaluate_metric",
    "load_state_dict",
    "load_task",
    "top1_percent",
]
