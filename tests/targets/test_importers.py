from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import InputError
from autocompress.targets.importers.read import KINDS, read_profile_of
from autocompress.targets.importers.result import Imported, LayerTime
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.table import read_table, write_table
from tests.targets.chains import CHAIN, Link, build

RUNS = 7


def saved(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def by_name(imported: Imported) -> dict[str, LayerTime]:
    return {layer.name: layer for layer in imported.layers}


# ONNX Runtime: a profile is taken of a session that really runs.


def profiled(folder: Path, model: bytes, feeds: Mapping[str, Any]) -> tuple[Path, Path]:
    """The profile of `RUNS` runs, and the model as the session optimised it."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        session.run(None, dict(feeds))
    return Path(session.end_profiling()), folder / "optimised.onnx"


def residual_model() -> bytes:
    """A convolution with a ReLU, two of stride 2 that are added, a depthwise one, a pool, and a classifier."""
    shapes = {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 16, 1, 1), "w4": (32, 1, 3, 3), "w5": (1000, 32)}
    weights = [numpy_helper.from_array(np.full(shape, 0.01, np.float32), name) for name, shape in shapes.items()]
    same: dict[str, Any] = {"pads": [1] * 4}
    half: dict[str, Any] = {"strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", **same),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "second", **same, **half),
        helper.make_node("Conv", ["b", "w3"], ["d"], "shortcut", **half),
        helper.make_node("Add", ["c", "d"], ["e"], "add"),
        helper.make_node("Conv", ["e", "w4"], ["f"], "depthwise", **same, group=32),
        helper.make_node("MaxPool", ["f"], ["g"], "pool", kernel_shape=[2, 2], **half),
        helper.make_node("GlobalAveragePool", ["g"], ["h"], "mean"),
        helper.make_node("Flatten", ["h"], ["i"], "flatten"),
        helper.make_node("Gemm", ["i", "w5"], ["j"], "classifier", transB=1),
        helper.make_node("Softmax", ["j"], ["y"], "softmax"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3, 64, 64))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 1000))]
    graph = helper.make_graph(nodes, "residual", inputs, outputs, weights)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    feeds = {"x": np.ones((2, 3, 64, 64), np.float32)}
    return profiled(tmp_path_factory.mktemp("residual"), residual_model(), feeds)


def conv_key(inputs: tuple[Any, ...], out: tuple[int, ...], weight: tuple[int, ...], stride: int = 1) -> KernelKey:
    return KernelKey("conv2d", "", "fp32", inputs, out, weight, (stride,) * 2, (1, 1), batch=2)


def test_every_kernel_of_a_real_profile_has_its_key(residual: tuple[Path, Path], tmp_path: Path) -> None:
    profile, model = residual
    imported = read_profile_of(profile, companion=model)
    assert (imported.kind, imported.source) == ("onnxruntime", f"onnxruntime {profile.name}")
    table = imported.table()
    wide, small = (16, 64, 64), (32, 32, 32)
    expected = {
        replace(conv_key(((3, 64, 64),), wide, (16, 3, 3, 3)), fused=("relu",)),
        conv_key((wide,), small, (32, 16, 1, 1), 2),
        replace(conv_key((wide, small), small, (32, 16, 3, 3), 2), fused=("add",)),
        replace(conv_key((small,), small, (32, 1, 3, 3)), groups=32),
        KernelKey("pool", "max_pool2d", "fp32", (small,), (32, 16, 16), stride=(2, 2), batch=2, window=(2, 2)),
        KernelKey("global_pool", "mean", "fp32", ((32, 16, 16),), (32, 1, 1), batch=2),
        KernelKey("linear", "", "fp32", ((32,),), (1000,), (1000, 32), batch=2),
        KernelKey("softmax", "softmax", "fp32", ((1000,),), (1000,), batch=2),
    }
    assert set(table.rows) == expected
    assert {measurement.n for measurement in table.rows.values()} == {RUNS}
    assert {layer.op for layer in imported.unmapped()} <= {"Flatten", "ReorderInput", "ReorderOutput"}
    write_table(tmp_path / "latency.csv", table)
    assert read_table(tmp_path / "latency.csv") == table


def test_times_are_those_of_the_events(residual: tuple[Path, Path]) -> None:
    profile, model = residual
    layer = next(layer for layer in read_profile_of(profile, companion=model).layers if layer.op == "MaxPool")
    events = json.loads(profile.read_text(encoding="utf-8"))
    times_us = [one["dur"] for one in events if one["name"] == f"{layer.name}_kernel_time"]
    assert layer.n == len(times_us) == RUNS
    assert layer.p50_ms * 1e3 == pytest.approx(sorted(times_us)[RUNS // 2])
    assert layer.p90_ms == pytest.approx(np.quantile(times_us, 0.9) / 1e3)
    assert (layer.in_shapes, layer.out_shape) == (((2, 32, 32, 32),), (2, 32, 16, 16))


def test_without_the_model_what_has_weights_has_no_key(residual: tuple[Path, Path]) -> None:
    imported = read_profile_of(residual[0], "onnxruntime")
    assert {key.op for key in imported.table().rows} == {"global_pool", "softmax"}
    reasons = {layer.op: layer.unmapped for layer in imported.unmapped()}
    assert "give the optimised model" in reasons["Conv"]
    assert "give the optimised model" in reasons["Gemm"]
    assert "'Flatten' has no kernel of its own" in reasons["Flatten"]


def test_another_model_maps_nothing_wrong(residual: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(residual[1])
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros((7, 7, 3, 3), np.float32), tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    imported = read_profile_of(residual[0], companion=tmp_path / "other.onnx")
    assert not any(key.weight_shape for key in imported.table().rows)
    for node in model.graph.node:
        node.op_type = "Other"
    onnx.save(model, tmp_path / "other.onnx")
    imported = read_profile_of(residual[0], companion=tmp_path / "other.onnx")
    assert not imported.table().rows
    assert any("the model has a 'Other' of this name" in layer.unmapped for layer in imported.layers)


@given(st.lists(st.tuples(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 255)), max_size=8), st.booleans())
def test_no_damage_brings_the_reader_down(
    residual: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, bytes_at: list[tuple[float, int]], head: bool
) -> None:
    """The nodes stand at the head of the file, the weights after them."""
    content = bytearray(residual[1].read_bytes())
    for place, byte in bytes_at:
        content[int(place * (2500 if head else len(content)))] = byte
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(content)
    message = ""
    try:
        table = read_profile_of(residual[0], companion=path).table()
        write_table(path.with_name("latency.csv"), table)
        assert read_table(path.with_name("latency.csv")) == table
    except InputError as error:
        message = str(error)
    assert not message or str(path.parent) in message


@pytest.mark.parametrize(
    ("link", "op"),
    [
        (Link("conv", 32, 16, 3, 1, "int8"), "conv2d"),
        (Link("depthwise", 32, 16, 3, 2, "int8"), "conv2d"),
        (Link("linear", 256, dtype="int8"), "linear"),
        (Link("conv", 32, 8, 5), "conv2d"),
        (Link("linear", 256), "linear"),
    ],
)
def test_the_keys_of_a_real_profile_are_those_of_the_kernels_that_ran(tmp_path: Path, link: Link, op: str) -> None:
    built = build(link)
    profile, model = profiled(tmp_path, built.model, built.feeds)
    rows = read_profile_of(profile, companion=model).table().rows
    found = {key: measurement for key, measurement in rows.items() if key.op == op}
    assert set(found) == {KernelKey.of(kernel, link.dtype) for kernel in built.kernels}
    assert sum(measurement.n for measurement in found.values()) == RUNS * CHAIN


def event(name: str = "r_kernel_time", dur: Any = 12, **changes: Any) -> dict[str, Any]:
    shapes = [{"float": [1, 8, 4, 4]}]
    args: dict[str, Any] = {"op_name": "Relu", "provider": "CPUExecutionProvider", "node_index": "3"}
    args |= {"input_type_shape": shapes, "output_type_shape": shapes}
    return {"cat": "Node", "name": name, "dur": dur, "args": args | changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dur": 0}, "less than the microsecond"),
        ({"provider": "CUDAExecutionProvider"}, "ran in 'CUDAExecutionProvider'"),
        ({"input_type_shape": []}, "does not say the types and shapes"),
        ({"input_type_shape": [{"bfloat16": [1, 8]}]}, "does not say the types and shapes"),
        ({"input_type_shape": [{"float": [-1, 8, 4, 4]}]}, "do not begin with one batch"),
        ({"input_type_shape": [{"float": []}]}, "do not begin with one batch"),
        ({"op_name": "NonMaxSuppression"}, "'NonMaxSuppression' has no kernel"),
        ({"op_name": "Add", "input_type_shape": [{"float": [1, 8]}] * 2}, "give the optimised model"),
    ],
)
def test_what_cannot_be_mapped_says_why(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = saved(tmp_path, "profile.json", [event(), event(name="other_kernel_time", **changes)])
    layers = by_name(read_profile_of(path))
    assert layers["r"].key == KernelKey("elementwise", "relu", "fp32", ((8, 4, 4),), (8, 4, 4))
    assert layers["other"].key is None
    assert reason in layers["other"].unmapped


def test_kernels_of_one_key_are_one_measurement(tmp_path: Path) -> None:
    events = [event(dur=us) for us in (10, 12, 14)] + [event(name="again_kernel_time", node_index="9", dur=20)]
    imported = read_profile_of(saved(tmp_path, "profile.json", events))
    assert [(layer.name, layer.p50_ms, layer.n) for layer in imported.layers] == [("r", 0.012, 3), ("again", 0.02, 1)]
    (measurement,) = imported.table().rows.values()
    assert measurement.p50_ms == pytest.approx((3 * 0.012 + 0.02) / 4)
    assert (measurement.p90_ms, measurement.n) == (0.02, 4)
    assert imported.mapped_share == 1.0


# trtexec: written by hand in the form of its exporter, with layers as the engine inspector describes them.


def tensor(*sizes: int, dtype: str = "Row major linear FP32") -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": list(sizes), "Format/Datatype": dtype}


def described(name: str, kind: str, inputs: list[Any], output: Any, **more: Any) -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": [output], **more}


def convolution(name: str, inputs: list[Any], output: Any, kernel: int, count: int, **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "ParameterType": "Convolution",
        "Kernel": [kernel] * 2,
        "Stride": [1, 1],
        "Dilation": [1, 1],
    }
    base |= {"PrePadding": [kernel // 2] * 2, "PostPadding": [kernel // 2] * 2}
    base |= {"OutMaps": output["Dimensions"][1], "Groups": 1, "Weights": {"Type": "Half", "Count": count}}
    return described(name, "CaskConvolution", inputs, output, **(base | {"Activation": "NONE"} | more))


PLAIN = tensor(1, 16, 32, 32)
LAYERS = [
    convolution("conv + relu", [tensor(1, 3, 32, 32)], PLAIN, 3, 432, Activation="RELU"),
    convolution("conv + add + relu", [PLAIN, PLAIN], PLAIN, 3, 2304, Activation="RELU"),
    convolution("depthwise", [PLAIN], PLAIN, 5, 400, Groups=16, Weights={"Type": "Int8", "Count": 400}),
    convolution("wrong count", [PLAIN], PLAIN, 3, 2305),
    convolution("swish", [PLAIN], PLAIN, 3, 2304, Activation="SWISH"),
    convolution("conv + max pool", [PLAIN], tensor(1, 16, 16, 16), 3, 2304),
    convolution("conv + PWN(mish)", [PLAIN], PLAIN, 3, 2304),
    convolution("three-dimensional", [PLAIN], PLAIN, 3, 2304, Kernel=[3, 3, 3]),
    convolution("dynamic", [tensor(-1, 16, 8, 8)], tensor(-1, 16, 8, 8), 3, 2304),
    described(
        *("pool", "CudaPooling", [PLAIN], tensor(1, 16, 16, 16)),
        ParameterType="Pooling",
        PoolingType="MAX",
        WindowSize=[2, 2],
        Stride=[2, 2],
    ),
    convolution(
        *("up", [PLAIN], tensor(1, 8, 64, 64), 2, 512),
        ParameterType="Deconvolution",
        Stride=[2, 2],
        Weights={"Type": "Float", "Count": 512},
        Activation="RELU",
    ),
    described("copy", "Reformat", [PLAIN], PLAIN, ParameterType="Reformat"),
    described("no-op", "NoOp", [PLAIN], PLAIN),
]


def profile_json(median: bool = True) -> str:
    """As trtexec prints it, so that a change of `json.dumps` is no change of the test."""
    lines = ["[", '  { "count" : 50 }']
    for index, name in enumerate([*(str(layer["Name"]) for layer in LAYERS), "unheard of"]):
        ms = 0 if name == "no-op" else 0.25 * (index + 1)
        half = f', "medianMs" : {ms}' if median else ""
        lines.append(f', {{ "name" : "{name}", "timeMs" : {ms * 50}, "averageMs" : {ms}{half}, "percentage" : 1 }}')
    return "\n".join([*lines, "]", ""])


def test_trtexec_with_its_layer_info(tmp_path: Path) -> None:
    path = saved(tmp_path, "profile.json", profile_json())
    imported = read_profile_of(path, companion=saved(tmp_path, "layers.json", {"Layers": LAYERS, "Bindings": []}))
    layers, image, plain = by_name(imported), (3, 32, 32), (16, 32, 32)
    half = KernelKey("conv2d", "", "fp16", (image,), plain, (16, 3, 3, 3), (1, 1), (1, 1), fused=("relu",))
    assert layers["conv + relu"].key == half
    added = replace(half, in_shapes=(plain, plain), weight_shape=(16, 16, 3, 3), fused=("add", "relu"))
    assert layers["conv + add + relu"].key == added
    depthwise = replace(half, dtype="int8", in_shapes=(plain,), weight_shape=(16, 1, 5, 5), groups=16, fused=())
    assert layers["depthwise"].key == depthwise
    assert layers["pool"].key == KernelKey(
        "pool", "max_pool2d", "fp32", (plain,), (16, 16, 16), stride=(2, 2), window=(2, 2)
    )
    up = KernelKey("conv_transpose2d", "", "fp32", (plain,), (8, 64, 64), (16, 8, 2, 2), (2, 2), (1, 1))
    assert layers["up"].key == replace(up, fused=("relu",))
    reasons = {layer.name: layer.unmapped for layer in imported.unmapped()}
    assert len(reasons) == len(LAYERS) + 1 - 5
    assert "something else runs in it" in reasons["conv + max pool"]
    assert "what is fused into it is not known" in reasons["conv + PWN(mish)"]
    assert "no two-dimensional convolution" in reasons["three-dimensional"]
    assert "its weights are not 16x16x3x3" in reasons["wrong count"]
    assert "activation 'SWISH'" in reasons["swish"]
    assert "a dimension is dynamic" in reasons["dynamic"]
    assert "which operator a layer of type 'Reformat' is" in reasons["copy"]
    assert reasons["no-op"] == "it takes no time"
    assert "no layer of the layer info has this name" in reasons["unheard of"]
    times_ms = {layer.name: layer.p50_ms for layer in imported.layers}
    mapped_ms = sum(times_ms[name] for name in times_ms.keys() - reasons.keys())
    assert imported.mapped_share == pytest.approx(mapped_ms / sum(times_ms.values()))
    measurement = imported.table().rows[half]
    assert (measurement.p50_ms, measurement.p90_ms, measurement.n) == (0.25, None, 50)
    assert measurement.source == "trtexec profile.json"
    write_table(tmp_path / "latency.csv", imported.table())
    assert read_table(tmp_path / "latency.csv") == imported.table()


def test_means_of_an_older_trtexec_are_said_to_be_means(tmp_path: Path) -> None:
    path = saved(tmp_path, "profile.json", profile_json(median=False))
    imported = read_profile_of(path)
    assert imported.source == "trtexec profile.json, means"
    assert imported.layers[0].p50_ms == 0.25
    assert not imported.table().rows
    assert imported.mapped_share == 0.0
    assert "--exportLayerInfo" in imported.layers[0].unmapped


# benchncnn: whole models.

NCNN = """board:/tmp $ ./benchncnn 8 4 0 -1 0
[0 Some GPU]  queueC=0[1]  fp16=1
loop_count = 8
num_threads = 4
          squeezenet  min =    6.74  max =    7.02  avg =    6.81
      mobilenet_int8  min =   10.00  max =   12.50  avg =   11.00
"""


def test_benchncnn(tmp_path: Path) -> None:
    imported = read_profile_of(saved(tmp_path, "bench.txt", NCNN))
    assert imported.kind == "ncnn"
    assert [(one.name, one.min_ms, one.mean_ms, one.max_ms, one.n) for one in imported.models] == [
        ("squeezenet", 6.74, 6.81, 7.02, 8),
        ("mobilenet_int8", 10.0, 11.0, 12.5, 8),
    ]
    assert (imported.layers, imported.table().rows) == ((), {})


# What is refused.

MEDIAN = {"name": "a", "medianMs": 1.0}


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (None, "", r"is empty"),
        (None, "hello", r"looks like no profile of trtexec, onnxruntime, ncnn"),
        (None, "{}", r"looks like no profile"),
        ("trtexec", {"count": 1}, r"is no list of layers"),
        ("trtexec", "[", r"profile:1: not valid JSON.*was the tool stopped"),
        ("trtexec", "[" * 100_000, r"not valid JSON: .*nested too deep"),
        ("trtexec", f"[{'9' * 5000}]", r"not valid JSON: a number has too many digits"),
        (None, '[{"count": 5},\n{"name": "a", "medianMs": NaN}]', r"holds NaN"),
        (None, [{"count": 0}, MEDIAN], r"entry 0: count is 0; allowed: 1 or more"),
        (None, [{"count": True}, MEDIAN], r"entry 0: count is True; allowed: int"),
        (None, [{"count": 5}], r"holds no layer"),
        (None, [{"count": 5}, 3], r"entry 1: is 3; allowed: an object"),
        (None, [{"count": 5}, {"name": "a"}], r"entry 1: averageMs is missing"),
        (None, [{"count": 5}, {"name": 1, "medianMs": 1}], r"entry 1: name is 1; allowed: str"),
        (None, [{"count": 5}, {"name": "a", "medianMs": -1}], r"entry 1: medianMs is -1; allowed: 0 to 1e\+09"),
        (
            None,
            [{"count": 5}, {"name": "a", "medianMs": 10**400}],
            r"entry 1: medianMs is 10+\.\.\.0+; allowed: 0 to",
        ),
        (None, [{"count": 5}, {"name": "a", "medianMs": 1e300}], r"entry 1: medianMs is 1e\+300; allowed: 0 to 1e\+09"),
        ("onnxruntime", {"cat": "Node"}, r"is no list of events"),
        ("onnxruntime", [1], r"event 0: is 1; allowed: an object"),
        (None, [{"cat": "Session", "name": "model_loading_uri"}], r"holds no event of a kernel"),
        (None, [event(dur="12")], r"event 0: dur is '12'; allowed: int or float"),
        (None, [event(dur=-3)], r"event 0: dur is -3"),
        (None, [event(op_name=None)], r"event 0, args: op_name is None; allowed: str"),
        (None, [event(input_type_shape=[{"float": "8"}])], r"input_type_shape 0: float is '8'; allowed: list"),
        (None, [event(input_type_shape=[{"float": [1.5]}])], r"float is \[1\.5\]; allowed: up to 8 sizes"),
        (None, [event(output_type_shape=[{"float": [10**12]}])], r"output_type_shape 0: float is"),
        ("ncnn", "loop_count = 8", r"holds no line such as 'squeezenet"),
        (None, "a  min = 1.0  max = nan  avg = 2.0", r":1: is 'a  min = 1\.0  max = nan"),
        (None, "a  min = 3.0  max = 4.0  avg = 2.0", r":1: min, avg, max are 3\.0, 2\.0, 4\.0"),
        (None, "a  min = 0.00  max = 4.0  avg = 2.0", r":1: min, avg, max are 0\.0"),
        (None, "a  min = 1  max = 1  avg = 1\na  min = 1  max = 1  avg = 1", r":2: 'a' stands twice"),
    ],
)
def test_a_bad_profile_is_refused(tmp_path: Path, kind: str | None, content: Any, message: str) -> None:
    path = saved(tmp_path, "profile", content)
    with pytest.raises(InputError, match=message) as caught:
        read_profile_of(path, kind)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"is \[\]; allowed: an object"),
        ({"Layers": ["conv"]}, r"--profilingVerbosity=detailed"),
        ({"Layers": [{"LayerType": "x"}]}, r"layer 0: Name is missing"),
        ({"Layers": [LAYERS[0], LAYERS[0]]}, r"layer 1: 'conv \+ relu' stands twice"),
        ({"Layers": [LAYERS[0] | {"Inputs": [{"Dimensions": [1, "3"]}]}]}, r"layer 0, Inputs 0: Dimensions is"),
        ({"Layers": [LAYERS[0] | {"Activation": ["RELU"]}]}, r"layer 0: Activation is \['RELU'\]; allowed: str"),
        ({"Layers": [LAYERS[0] | {"Stride": None}]}, r"layer 0: Stride is None; allowed: list"),
    ],
)
def test_a_bad_layer_info_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = saved(tmp_path, "layers.json", content)
    with pytest.raises(InputError, match=message) as caught:
        read_profile_of(saved(tmp_path, "profile.json", profile_json()), companion=path)
    assert str(path) in str(caught.value)


def test_what_does_not_fit_together_is_refused(residual: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kind of profile is 'tensort'; allowed: ncnn, onnxruntime, trtexec"):
        read_profile_of(residual[0], "tensort")
    with pytest.raises(InputError, match=r"is no ONNX model with nodes"):
        read_profile_of(residual[0], companion=residual[0])
    with pytest.raises(InputError, match=r"missing\.onnx cannot be read"):
        read_profile_of(residual[0], companion=tmp_path / "missing.onnx")
    with pytest.raises(InputError, match=r"is not a file"):
        read_profile_of(tmp_path)
    with pytest.raises(InputError, match=r"take no second file"):
        read_profile_of(saved(tmp_path, "bench.txt", NCNN), companion=residual[1])
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\x00")
    with pytest.raises(InputError, match=r"is not UTF-8 text: .* at byte 0"):
        read_profile_of(binary)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["count", "name", "averageMs", "medianMs", "cat", "dur", "args", "op_name", "Layers"]),
            inner,
            max_size=5,
        ),
    ),
)


@given(value=JSON, kind=st.sampled_from([None, *KINDS]))
def test_no_json_brings_a_reader_down(tmp_path_factory: pytest.TempPathFactory, value: Any, kind: str | None) -> None:
    folder = tmp_path_factory.mktemp("json")
    path = saved(folder, "profile.json", json.dumps(value))
    for profile, companion in ((path, None), (saved(folder, "good.json", profile_json()), path)):
        message = ""
        try:
            imported = read_profile_of(profile, kind, companion)
        except InputError as error:
            message = str(error)
        assert str(folder) in message or imported.layers or imported.models
