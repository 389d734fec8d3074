"""What the compilers of runtimes run as one kernel, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ACTIVATIONS = (
    *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "gelu", "silu", "sigmoid", "tanh", "hardswish"),
    *("hardsigmoid", "leaky_relu", "elu", "mish"),
)


@dataclass(frozen=True)
class Fusion:
    """The rules of one runtime.

    Attributes:
        norms: Batch norms are folded into the layer before them.
        activations: What a layer takes along.
        additions: The dtypes in which a layer takes along one addition.
        sum_activations: An addition takes along its activation.
        pointwise: Elementwise operators in a row are one kernel.
        siblings: Convolutions of one window that read one tensor are one wider convolution.
        concat_in_place: What is concatenated is written to its place at once.
        repeated: An operator that is written twice runs once.
        zeros: `run` like anything else; `skipped`: a sum leaves them out; `dropped`: what only zeros flow through
            does not run either.
    """

    norms: bool = False
    activations: tuple[str, ...] = ()
    additions: tuple[str, ...] = ()
    sum_activations: bool = False
    pointwise: bool = False
    siblings: bool = False
    concat_in_place: bool = False
    repeated: bool = False
    zeros: str = "run"


# Sources: TensorRT developer guide ("Types of fusions": convolution and activation, pointwise, scale; horizontal
# merges and elimination of concatenations in "TensorRT: programmable inference accelerator"); ONNX Runtime's graph
# optimizations (ConvBN, ConvActivation, ConvAddActivation in fp32, CommonSubexpressionElimination; quantized sums are
# QLinearAdd, with clipping inside); OpenVINO's CPU plugin (convolutions with simple layers and sums, chains of
# element-wise ones; concatenations cost nothing); LiteRT's fused_activation_function of convolutions and sums.
FUSIONS: Mapping[str, Fusion] = {
    "tensorrt": Fusion(
        norms=True,
        activations=ACTIVATIONS,
        additions=("fp32", "fp16", "int8"),
        sum_activations=True,
        pointwise=True,
        siblings=True,
        concat_in_place=True,
        repeated=True,
        zeros="dropped",
    ),
    "tensorrt-vertical": Fusion(
        norms=True,
        activations=ACTIVATIONS,
        additions=("fp32", "fp16", "int8"),
        sum_activations=True,
        concat_in_place=True,
        zeros="skipped",
    ),
    "onnxruntime": Fusion(
        norms=True, activations=ACTIVATIONS, additions=("fp32", "fp16"), sum_activations=True, repeated=True
    ),
    "openvino": Fusion(
        norms=True,
        activations=ACTIVATIONS,
        additions=("fp32", "int8"),
        sum_activations=True,
        pointwise=True,
        concat_in_place=True,
        repeated=True,
    ),
    "litert": Fusion(
        norms=True,
        activations=("relu", "relu6", "hardtanh", "clamp", "clamp_min"),
        sum_activations=True,
    ),
    "eager": Fusion(),
}
RUNTIMES = tuple(FUSIONS)
ZEROS = ("run", "skipped", "dropped")
