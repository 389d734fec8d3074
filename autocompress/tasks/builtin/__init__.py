"""The built-in tasks: a name, what it is, and the function that builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autocompress.tasks.builtin import cifar10, digits, mnist
from autocompress.tasks.task import Task


@dataclass(frozen=True)
class Builtin:
    """A task that `--task` takes by name; `build` raises InputError where its files are missing."""

    description: str
    build: Callable[[], Task]


BUILTIN: dict[str, Builtin] = {
    "digits": Builtin(
        "ResNet-20 on 1,797 handwritten digits; needs no files, trains once in about half a minute", digits.build
    ),
    "mnist-lenet5": Builtin("LeNet-5 (Caffe variant) on MNIST; reads AUTOCOMPRESS_DATA", mnist.build),
    "cifar10-resnet20": Builtin("ResNet-20 on CIFAR-10; reads AUTOCOMPRESS_DATA", cifar10.build_resnet20),
    "cifar10-resnet56": Builtin("ResNet-56 on CIFAR-10; reads AUTOCOMPRESS_DATA", cifar10.build_resnet56),
}
