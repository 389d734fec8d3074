"""ONNX Runtime on the CPU, opened the same way wherever a file is run or timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from autocompress.errors import InputError

# What ONNX Runtime raises; its errors share no public base class.
RUNTIME_ERRORS = (
    _ort.Fail,
    _ort.InvalidArgument,
    _ort.InvalidGraph,
    _ort.InvalidProtobuf,
    _ort.NoSuchFile,
    _ort.NotImplemented,
    _ort.RuntimeException,
    RuntimeError,
    ValueError,
)
# Of inputs, by the names that ONNX Runtime gives them.
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def open_session(model: Path | bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """Opens an ONNX file, or its content, one operator after another.

    Raises:
        InputError: there is no such file, or it is no valid ONNX model that this runtime can run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    name = "the model" if isinstance(model, bytes) else str(model)
    if isinstance(model, Path) and not model.is_file():
        raise InputError(f"{name}: there is no such file")
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        version = onnxruntime.__version__
        raise InputError(f"{name}: ONNX Runtime {version} cannot open it: {first_line(error)}") from error


def feeds_of(session: onnxruntime.InferenceSession) -> dict[str, NDArray[Any]]:
    """For every input of a session one sample: floats around 0, or zeros, which are in every table, for integers."""
    random = np.random.default_rng(0)
    feeds = {}
    for entry in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in entry.shape]
        dtype = _DTYPES[entry.type]
        is_float = np.issubdtype(dtype, np.floating)
        feeds[entry.name] = (random.standard_normal(shape) if is_float else np.zeros(shape)).astype(dtype)
    return feeds


def first_line(error: BaseException) -> str:
    """The first line of what ONNX Runtime says, cut to a readable length."""
    return str(error).strip().splitlines()[0][:200]
