"""Runs an exported file and compares it with the PyTorch model it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.compress.quantizer import ActivationQuantizer
from autocompress.errors import InputError
from autocompress.targets.session import RUNTIME_ERRORS, first_line, open_session

Outputs = tuple[Tensor, ...]
# A rounding step that falls the other way moves quantized activations; floats only differ in the order of sums.
COSINE = 0.999
COSINE_QUANTIZED = 0.99
TOP1 = 0.99
RELATIVE_ERROR = 1e-3
RELATIVE_ERROR_QUANTIZED = 0.05
# Scores closer than this share of the output range are equal.
_TIE = 1e-5


@dataclass(frozen=True)
class Agreement:
    """How close two models' outputs are, over every value of an output; where there are several, of the worst one.

    Attributes:
        max_abs_error: Largest difference.
        cosine: Of all values as one vector; 1.0 if both are zero.
        top1_agreement: Share of rows of the first output with the same largest entry; None if it holds no scores.
        relative_error: `max_abs_error` over the range (largest minus smallest) of the reference.
    """

    max_abs_error: float
    cosine: float
    top1_agreement: float | None
    relative_error: float


@dataclass(frozen=True)
class Verification:
    """Whether a file does what its model does, and the reason if it does not."""

    agreement: Agreement
    passed: bool
    reason: str


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits; one changed byte changes it.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def check_digest(path: Path, expected: str) -> None:
    """Checks a file against the digest in its manifest.

    Raises:
        InputError: the file was changed, or cannot be read.
    """
    found = file_digest(path)
    if found != expected:
        raise InputError(f"{path}: SHA-256 is {found}, the manifest says {expected}; the file was changed")


def run_onnx(path: Path, batches: Iterable[tuple[Tensor, ...]], *, threads: int = 1) -> Outputs:
    """Runs a file on batches of inputs and returns each output, concatenated over the batches.

    Raises:
        InputError: the file cannot be opened, or does not take these inputs.
    """
    session = open_session(path, threads)
    names = [value.name for value in session.get_inputs()]
    collected: list[list[NDArray[np.generic]]] = []
    for batch in batches:
        if len(batch) != len(names):
            raise InputError(
                f"{path}: a batch has {len(batch)} inputs; the model takes {len(names)}: {', '.join(names)}"
            )
        feeds = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, batch, strict=True)}
        try:
            collected.append(session.run(None, feeds))
        except RUNTIME_ERRORS as error:
            raise InputError(f"{path}: ONNX Runtime cannot run it: {first_line(error)}") from error
    if not collected:
        raise InputError(f"{path}: there are no batches to run")
    return tuple(torch.from_numpy(np.concatenate(parts)) for parts in zip(*collected, strict=True))


def agreement(reference: Outputs, outputs: Outputs, *, scores: bool | None = None) -> Agreement:
    """Compares outputs; top-1 is counted where the first output is `[batch, classes]` with two classes or more.

    Args:
        reference: What the PyTorch model gives.
        outputs: What the file gives, in the same order.
        scores: Whether the first output holds class scores; None decides by its shape.

    Raises:
        InputError: number or shape of the outputs differ.
    """
    shapes = [tuple(tensor.shape) for tensor in reference], [tuple(tensor.shape) for tensor in outputs]
    if shapes[0] != shapes[1]:
        raise InputError(f"the file's outputs have the shapes {shapes[1]}, the model's have {shapes[0]}")
    errors, cosines, shares = zip(*map(_closeness, reference, outputs), strict=True)
    first, other = reference[0], outputs[0]
    if scores is None:
        scores = first.dim() == 2 and first.shape[1] > 1
    top1 = _top1(first, other) if scores else None
    return Agreement(max(errors), min(cosines), top1, max(shares))


def verify(
    path: Path,
    model: nn.Module,
    batches: Iterable[tuple[Tensor, ...]],
    *,
    cosine: float | None = None,
    top1: float = TOP1,
    scores: bool | None = None,
) -> Verification:
    """Compares the file in ONNX Runtime with the PyTorch model on the same inputs.

    It passes if the outputs are finite, their cosine is at least `cosine` (0.999; 0.99 where activations are quantized,
    since integer kernels may round one step differently) and, for scores, at least `top1` of the rows agree, or all but
    one. Outputs whose largest error is within 0.1 % of their range (5 % with quantized activations) need no cosine.

    Raises:
        InputError: the file cannot be opened or run, or its outputs have other shapes.
    """
    held = [tuple(batch) for batch in batches]
    quantized = any(isinstance(module, ActivationQuantizer) for module in model.modules())
    limit = cosine if cosine is not None else COSINE_QUANTIZED if quantized else COSINE
    outputs = run_onnx(path, held)
    found = agreement(_reference(model, held), outputs, scores=scores)
    reason = ""
    near = found.relative_error <= (RELATIVE_ERROR_QUANTIZED if quantized else RELATIVE_ERROR)
    if not all(bool(torch.isfinite(output.float()).all()) for output in outputs):
        reason = "the file's outputs are not finite"
    elif found.cosine < limit and not near:
        reason = f"cosine to the PyTorch model is {found.cosine:.6f}; at least {limit} is needed"
    elif found.top1_agreement is not None and found.top1_agreement < min(top1, 1 - 1 / len(outputs[0])):
        reason = f"top-1 agrees on {found.top1_agreement:.2%} of the rows; at least {top1:.0%} is needed"
    return Verification(found, not reason, reason)


def measure_file(
    path: Path, split: Iterable[tuple[tuple[Tensor, ...], Tensor]], metric: Callable[[Tensor, Tensor], float]
) -> float:
    """The metric of the exported file itself, called once on all outputs (the first one) and all targets.

    Raises:
        InputError: the file cannot be opened or run.
    """
    targets: list[Tensor] = []

    def inputs() -> Iterable[tuple[Tensor, ...]]:
        for batch, target in split:
            targets.append(target)
            yield batch

    outputs = run_onnx(path, inputs())
    return float(metric(outputs[0], torch.cat(targets)))


def _reference(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> Outputs:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        results = [model(*batch) for batch in batches]
    model.train(was_training)
    rows = [result if isinstance(result, (tuple, list)) else (result,) for result in results]
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))


def _closeness(reference: Tensor, output: Tensor) -> tuple[float, float, float]:
    """Largest error, cosine, and the error as a share of the range."""
    a, b = reference.flatten().double(), output.flatten().double()
    error = float((a - b).abs().max())
    norms = float(a.norm() * b.norm())
    cosine = float(a @ b) / norms if norms else float(bool(a.norm() == b.norm()))
    spread = float(a.max() - a.min())
    return error, cosine, error / spread if spread else error


def _top1(reference: Tensor, outputs: Tensor) -> float:
    chosen, spread = outputs.argmax(1), float(reference.max() - reference.min())
    best = reference.max(1).values
    behind = best - reference.gather(1, chosen[:, None])[:, 0]
    return float((behind <= _TIE * spread).double().mean())
