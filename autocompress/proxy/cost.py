"""What a plan costs, from tables alone: bytes, MACs, memory and latency of the model it would give."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from autocompress.compress.apply import compress
from autocompress.compress.quantize import activation_quantizers
from autocompress.core.collector import collector_paused
from autocompress.core.fusion import fuse
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan
from autocompress.core.target import LatencyEstimate
from autocompress.emit.onnx_export import payload_of
from autocompress.graph.info import total_macs
from autocompress.graph.kernels import network_of
from autocompress.proxy.context import Context
from autocompress.proxy.memory import peak_activation_bytes


@dataclass(frozen=True)
class Cost:
    """Metrics that need no data, and the latency kernel by kernel."""

    metrics: dict[str, Metric]
    latency: LatencyEstimate


def cost_of_plan(plan: Plan, context: Context, bytes_per_node: float | None = None) -> Cost:
    """The cost of a plan without training or calibrating anything.

    Args:
        plan: The plan.
        context: Of the model and the target.
        bytes_per_node: What an operator takes in the file besides its weights; None finds it from the dense file.

    Raises:
        UnsupportedError: it is None, and the dense model cannot be written as a file.
    """
    compressed = compress(context.traced(plan), plan, weights=False)
    return cost_of_model(compressed.module, context, bytes_per_node)


def latency_of_plan(plan: Plan, context: Context) -> LatencyEstimate:
    """The latency alone, as `cost_of_plan` gives it and a hundred times as fast: no compressed model is made.

    Raises:
        PlanError: the plan names what the model does not have, or starts from a model that there is not.
    """
    with collector_paused():
        steps = fuse(context.network(plan), context.target.fusion)
        return context.target.estimate_steps(steps, context.precision)


def peak_memory_of_plan(plan: Plan, context: Context) -> int:
    """The peak activation memory alone, in bytes, as `cost_of_plan` gives it, from the plan alone.

    Raises:
        PlanError: as `latency_of_plan`.
    """
    with collector_paused():
        network = context.network(plan)
        precision = context.target.profile.runs_as(context.precision)
        return peak_activation_bytes(network, fuse(network, context.target.fusion), precision)


def structure_cost_of_plan(plan: Plan, context: Context) -> dict[str, float]:
    """Latency, MACs and weights from the plan alone: exact, but for the weights that stand in no kernel.

    Raises:
        PlanError: as `latency_of_plan`.
    """
    with collector_paused():
        steps = fuse(context.network(plan), context.target.fusion)
        kernels = [step.kernel for step in steps if step.kernel is not None]
        return {
            "latency_ms": context.target.estimate_steps(steps, context.precision).ms,
            "macs": float(sum(kernel.macs for kernel in kernels)),
            "params": float(sum(kernel.weight_elements for kernel in kernels)),
        }


def cost_of_model(module: fx.GraphModule, context: Context, bytes_per_node: float | None = None) -> Cost:
    """The cost of a compressed model; bytes are predicted from what packing takes, as in `cost_of_plan`."""
    network = network_of(module)
    steps = fuse(network, context.target.fusion)
    latency = context.target.estimate_steps(steps, context.precision)
    nodes = len(module.graph.nodes) - len(activation_quantizers(module))
    rest = nodes * (context.overhead_bytes_per_node if bytes_per_node is None else bytes_per_node)
    payload = payload_of(module)
    # A trial trains: what a file takes less now, for its zeros, it need not take less then.
    least, size = round(payload.now + rest), round(payload.filled + rest)
    precision = context.target.profile.runs_as(context.precision)
    metrics = {
        "size_bytes": Metric(size, round(least * 0.97), round(size * 1.03), "analytic", "bytes"),
        "latency_ms": Metric(latency.ms, latency.low_ms, latency.high_ms, latency.origin, "ms"),
        "macs": Metric.exact(total_macs(module), "macs", "table"),
        "peak_memory_bytes": Metric.exact(peak_activation_bytes(network, steps, precision), "bytes", "analytic"),
        "params": Metric.exact(_params(module), "count", "table"),
    }
    return Cost(metrics, latency)


def _params(module: fx.GraphModule) -> int:
    """Weights and biases, without the scales of quantizers."""
    return sum(p.numel() for name, p in module.named_parameters() if not name.endswith(".scale"))
