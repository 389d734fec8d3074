"""Times ONNX models where they are to run; needs Python 3.8, NumPy and ONNX Runtime (or OpenVINO, or
trtexec), and nothing of ours.

One file that is copied to a device and started there: `python3 runner.py onnxruntime 1` (runtime and threads). It
speaks JSON lines. The first line out says what the machine is. Then every line in is a job, and every job is answered
at once, so that a connection that breaks loses only the job in flight:

    -> {"id": 7, "models": [[zlib of ONNX as base64, [[input, shape, element, below], ...]], ...],
        "repeats": 30, "precision": "fp32"}
    <- {"id": 7, "p50_ms": [...], "p90_ms": [...], "n": [...], "disturbed": [...]}  or  {"id": 7, "error": "why"}

The models of a job are timed in the same rounds. A line `{"error": kind, "detail": text}` without
an id is the last one: the machine lacks something.
"""

from __future__ import annotations

import base64
import errno
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

# A sample that takes so many times as long as the fastest one was disturbed.
DISTURBED = 1.1
SHORTEST_SAMPLE_S = 2e-4
WARM_UP_S = 0.02
# Disturbed samples are taken again until there are this many times as many as wanted.
MOST_SAMPLES = 4
ENGINE_ROUNDS = 3
ENGINE_TIMEOUT_S = 900
TRTEXEC = ("trtexec", "/usr/src/tensorrt/bin/trtexec")


class Missing(Exception):
    """The machine lacks what is needed: `args` are the kind and what it says."""


def main(runtime: str, threads: int) -> int:
    """Answers jobs from the standard input until it ends."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(line: dict[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    try:
        measure, version = RUNTIMES[runtime](threads)
        answer({"runtime": runtime, "version": version, "threads": threads, **machine()})
        for line in sys.stdin.buffer:
            job = json.loads(line)
            models = [(zlib.decompress(base64.b64decode(model)), feeds) for model, feeds in job["models"]]
            try:
                found = measure(models, job)
            except JOB_ERRORS as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    raise Missing("disk", first_line(error)) from error
                found = {"error": first_line(error)}
            answer({"id": job["id"], **found})
    except Missing as missing:
        answer({"error": missing.args[0], "detail": missing.args[1]})
        return 3
    except BrokenPipeError:
        # Nobody listens any more; what is left in the buffer must not be tried again on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())
    return 0


def machine() -> dict[str, Any]:
    """What decides the times of this machine, as far as it tells."""
    clock = "/sys/devices/system/cpu/cpu0/cpufreq/"
    return {
        "machine": platform.machine(),
        "board": text_of("/proc/device-tree/model"),
        "cpu": cpu_name() or platform.processor(),
        "cores": os.cpu_count() or 0,
        "governor": text_of(clock + "scaling_governor"),
        "clock_khz": text_of(clock + "scaling_cur_freq"),
        "python": platform.python_version(),
    }


def text_of(path: str) -> str:
    """The first line of a small file, or nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(200).strip().strip("\0")
    except OSError:
        return ""


def cpu_name() -> str:
    """The processor's name from the first entry of /proc/cpuinfo."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            pairs = [line.split(":", 1) for line in file.read(20_000).split("\n\n")[0].splitlines() if ":" in line]
    except OSError:
        return ""
    found = {key.strip(): value.strip() for key, value in pairs}
    return found.get("model name") or found.get("Model") or found.get("CPU part") or ""


def first_line(error: BaseException) -> str:
    """The first line of an error, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def onnxruntime_here(threads: int) -> tuple[Callable[..., dict[str, Any]], str]:
    """Times in ONNX Runtime on the CPU, one operator after another."""
    try:
        numpy, ort = importlib.import_module("numpy"), importlib.import_module("onnxruntime")
    except ImportError as error:
        raise Missing(error.name or "onnxruntime", first_line(error)) from error
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    # What it raises shares no base class.
    errors = tuple(getattr(state, name) for name in ORT_ERRORS if hasattr(state, name))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4

    def opened(model: bytes, feeds: list[Any]) -> Callable[[], float]:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs = {name: values(numpy, *what) for name, *what in feeds}
        return sampler(lambda: session.run(None, inputs))

    def measure(models: list[tuple[bytes, list[Any]]], job: dict[str, Any]) -> dict[str, Any]:
        try:
            samplers = [opened(*model) for model in models]
        except errors as error:
            raise RuntimeError(first_line(error)) from error
        return summary(rounds(samplers, job["repeats"]))

    return measure, ort.__version__


def openvino_here(threads: int) -> tuple[Callable[..., dict[str, Any]], str]:
    """Times in OpenVINO on the CPU, in 32 bits where a model asks for floats: it would take fewer where it can."""
    try:
        numpy, openvino = importlib.import_module("numpy"), importlib.import_module("openvino")
    except ImportError as error:
        raise Missing(error.name or "openvino", first_line(error)) from error
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.onnx")

    def opened(model: bytes, feeds: list[Any]) -> Callable[[], float]:
        with open(source, "wb") as file:
            file.write(model)
        request = core.compile_model(core.read_model(source), "CPU", settings).create_infer_request()
        for name, *what in feeds:
            request.set_tensor(name, openvino.Tensor(values(numpy, *what)))
        return sampler(request.infer)

    def measure(models: list[tuple[bytes, list[Any]]], job: dict[str, Any]) -> dict[str, Any]:
        samplers = [opened(*model) for model in models]
        return summary(rounds(samplers, job["repeats"]))

    return measure, openvino.get_version().split("-")[0]


def values(numpy: Any, shape: list[int], element: str, below: int) -> Any:
    """The same input every time: floats around 1, or integers from 0 to `below` - 1."""
    generator = numpy.random.RandomState(0)
    if element == "float32":
        return (generator.random_sample(shape) + 0.5).astype(element)
    return generator.randint(0, below, shape).astype(element)


def sampler(run: Callable[[], object]) -> Callable[[], float]:
    """Runs a model until it is warm; what comes back takes one sample: the milliseconds of one run."""
    start, runs = time.perf_counter(), 0
    while runs < 3 or time.perf_counter() - start < WARM_UP_S:
        run()
        runs += 1
    count = max(1, round(SHORTEST_SAMPLE_S * runs / (time.perf_counter() - start)))

    def sample() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - begin) * 1e3 / count

    return sample


def rounds(samplers: list[Callable[[], float]], repeats: int) -> list[list[float]]:
    """One sample of each in turn, until each has `repeats` undisturbed ones or enough were tried."""
    taken: list[list[float]] = [[] for _ in samplers]
    for number in range(MOST_SAMPLES * repeats):
        for at, sample in enumerate(samplers):
            taken[at].append(sample())
        if number + 1 >= repeats and all(len(undisturbed(one)) >= repeats for one in taken):
            break
    return taken


def undisturbed(samples_ms: list[float]) -> list[float]:
    """The samples that were taken while nothing else ran, which only ever slows one down."""
    return sorted(ms for ms in samples_ms if ms <= DISTURBED * min(samples_ms))


def summary(taken: list[list[float]]) -> dict[str, Any]:
    """For each model the median of its undisturbed samples, the 90 % quantile of all, and the number of each."""
    best = [undisturbed(one) for one in taken]
    return {
        "p50_ms": [one[len(one) // 2] for one in best],
        "p90_ms": [sorted(one)[min(len(one) - 1, len(one) * 9 // 10)] for one in taken],
        "n": [len(one) for one in best],
        "disturbed": [len(taken[at]) - len(one) for at, one in enumerate(best)],
    }


def tensorrt_here(threads: int) -> tuple[Callable[..., dict[str, Any]], str]:
    """Times in TensorRT through trtexec: every model is built once, then its engine runs in rounds with the others."""
    program = next((path for path in map(shutil.which, TRTEXEC) if path), None)
    if program is None:
        raise Missing("trtexec", "it is neither on PATH nor in /usr/src/tensorrt/bin")
    folder = os.path.dirname(os.path.abspath(__file__))
    found = re.search(r"TensorRT v(\d+)", trtexec(program, ["--help"]))

    def measure(models: list[tuple[bytes, list[Any]]], job: dict[str, Any]) -> dict[str, Any]:
        precision = {"fp16": ["--fp16"], "int8": ["--int8"]}.get(job["precision"], [])
        engines = []
        for at, (model, _) in enumerate(models):
            source, engine = os.path.join(folder, "model.onnx"), os.path.join(folder, f"engine{at}")
            with open(source, "wb") as file:
                file.write(model)
            trtexec(
                program, ["--onnx=" + source, "--saveEngine=" + engine, "--iterations=1", "--duration=0", *precision]
            )
            engines.append(engine)
        taken: list[list[float]] = [[] for _ in engines]
        for _ in range(ENGINE_ROUNDS):
            for at, engine in enumerate(engines):
                taken[at] += engine_times(program, folder, engine, -(-job["repeats"] // ENGINE_ROUNDS))
        return summary(taken)

    return measure, found.group(1) if found else "unknown"


def engine_times(program: str, folder: str, engine: str, count: int) -> list[float]:
    """Milliseconds on the GPU of `count` runs of an engine after a warm-up."""
    path = os.path.join(folder, "times.json")
    trtexec(
        program,
        ["--loadEngine=" + engine, f"--iterations={count}", "--duration=0", "--avgRuns=1", "--exportTimes=" + path],
    )
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    return [float(entry["computeMs"]) for entry in entries][-count:]


def trtexec(program: str, arguments: list[str]) -> str:
    """What trtexec prints.

    Raises:
        RuntimeError: it failed; with the last error that it printed.
    """
    done = subprocess.run(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=ENGINE_TIMEOUT_S, check=False
    )
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        errors = [line for line in text.splitlines() if "[E]" in line] or text.splitlines() or [""]
        raise RuntimeError(f"trtexec ended with {done.returncode}: {errors[-1].strip()}")
    return text


RUNTIMES = {"onnxruntime": onnxruntime_here, "openvino": openvino_here, "tensorrt": tensorrt_here}
ORT_ERRORS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# This model does not run here; others may.
JOB_ERRORS = (RuntimeError, ValueError, KeyError, TypeError, MemoryError, OSError, subprocess.TimeoutExpired)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
