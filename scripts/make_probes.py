"""Makes the networks that the law of this machine is learnt from, and writes `hardware_profiles/local/networks.tar.xz`.

python scripts/make_probes.py [--networks 160]

Random networks, never trained, each as the file that an artifact of it would be: in floats, in 8 bits, and every second
one with only half of its layers in 8 bits. Takes about three seconds for each network on one core.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from networks import CLASSES
from random_networks import random_network

from autocompress.core.fusion import fuse
from autocompress.core.plan import Plan
from autocompress.core.space import Space
from autocompress.emit.onnx_export import export_onnx
from autocompress.proxy.context import Context
from autocompress.proxy.evaluate import realise
from autocompress.run.settings import SearchConfig
from autocompress.targets.probes import Probe, emptied, probes_path, write_probes
from autocompress.targets.profile import Target, load_target
from autocompress.tasks import classification
from autocompress.wired import wire

SAMPLES = 32
# What takes longer than some ten milliseconds would be timed for too long.
MOST_MACS = 600_000_000


def plans_of(space: Space, seed: int) -> Iterator[tuple[str, Plan]]:
    """The plans that a network is exported with, by name."""
    yield "fp32", Plan()
    eight_bits = next(plan for label, plan in space.uniform_plans() if label.startswith("uniform w8"))
    yield "int8", eight_bits
    if seed % 2:
        half = np.random.default_rng(seed).random(len(space.decisions)) < 0.5
        vector = np.where(half, space.encode(eight_bits), 0)
        yield "both", space.decode(tuple(map(int, vector)))


@cache
def target() -> Target:
    """This machine as a target, with the laws of another one: nobody asks it for a time."""
    law = load_target("raspberry-pi-5").laws["fp32"]
    return replace(load_target("local"), laws={"fp32": law, "int8": law})


def probes_of(seed: int, folder: Path) -> Iterator[Probe]:
    """The files of one random network."""
    drawn = random_network(seed)
    images = torch.randn(SAMPLES, 3, drawn.side, drawn.side)
    data = images, torch.arange(SAMPLES) % CLASSES
    task = classification(drawn.family, drawn.model, data, data, data)
    wired = wire(SearchConfig(task=drawn.family, target="local", space="quantize"), task, target=target())
    for precision, plan in plans_of(wired.space, seed):
        yield probe_of(f"{drawn.family}-{seed}-{precision}", plan, wired.context, folder)


def probe_of(name: str, plan: Plan, context: Context, folder: Path) -> Probe:
    """One plan as a file."""
    target = context.target
    steps = fuse(context.network(plan), target.fusion)
    file = folder / "probe.onnx"
    export_onnx(realise(plan, context).module, context.dense.inputs, file, opset=target.profile.opset)
    return Probe(name, tuple(step.kernel for step in steps if step.kernel is not None), emptied(onnx.load(file)))


def main() -> None:
    """Exports all networks and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=160)
    parser.add_argument("--first", type=int, default=0, help="Seed of the first one.")
    parser.add_argument("--output", type=Path, default=probes_path())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: list[Probe] = []
    with TemporaryDirectory() as folder:
        for seed in range(arguments.first, arguments.first + arguments.networks):
            start = time.perf_counter()
            made = list(probes_of(seed, Path(folder)))
            kept = made[0].macs <= MOST_MACS
            found += made if kept else []
            told = f"{made[0].macs / 1e6:.1f} million MACs{'' if kept else ', left out'}"
            print(f"{made[0].name}: {told}, {time.perf_counter() - start:.1f} s", flush=True)
    write_probes(arguments.output, found)
    print(f"{len(found)} networks in {arguments.output}, {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
