"""Searches on a Ray cluster of several nodes: one of them dies, more come, none is there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from autocompress.config import resume
from autocompress.core.constraint import Budget
from autocompress.errors import InputError, RunError
from autocompress.run import cluster as run_cluster
from autocompress.run.executors import InProcess, Workers, make_executor
from autocompress.run.jobs import Shared, TrialJob
from autocompress.run.settings import SearchConfig, read_config
from autocompress.run.show import status_of, verify_artifacts
from autocompress.run.trials import run_trials
from autocompress.search.record import Record
from tests.run.regenerate_golden_run import GOLDEN, TRIALS
from tests.run.tiny import Told, make_trials, tiny_context, tiny_space

# Two Rays that start at the same moment on one machine get into each other's way.
pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Three nodes of one processor each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


class ChangesTheCluster(Told):
    """Takes a node away, without a word, when a few trials have ended, and brings another one later."""

    def __init__(self, nodes: Cluster) -> None:
        super().__init__()
        self._nodes = nodes

    def trial(self, record: Record, done: int, budget: Budget, seconds: float) -> None:
        super().trial(record, done, budget, seconds)
        if done == 4:
            # A driver whose own node dies goes with it.
            own = ray.get_runtime_context().get_node_id()
            victim = next(node for node in self._nodes.list_all_nodes() if not node.head and node.node_id != own)
            self._nodes.remove_node(victim, allow_graceful=False)
        if done == 8:
            self._nodes.add_node(num_cpus=1)


def test_nodes_come_and_go_and_the_search_goes_on(nodes: Cluster, tmp_path: Path) -> None:
    """Four workers are asked for, and there is never room for more than three."""
    context = tiny_context(steps=8)
    space = tiny_space(context)
    shared = Shared(context, space)
    executor = make_executor(shared, Workers(4, address=nodes.address))
    try:
        trials = replace(make_trials(tmp_path, context, listener=ChangesTheCluster(nodes)), executor=executor)
        assert run_trials(trials, Budget(trials=14))
    finally:
        executor.stop()
    records = trials.study.records()
    assert [record.state for record in records] == ["complete"] * 14
    assert len({record.vector for record in records}) == 14
    here = InProcess(shared)
    for record in records[::4]:
        path = tmp_path / "again" / f"{record.number}.safetensors"
        here.start("again", TrialJob(record.number, record.vector, record.label, (), trials.dense, path))
        assert here.next().result.metrics == record.metrics


def test_a_run_goes_on_on_a_cluster(nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    run = tmp_path / "run"
    shutil.copytree(GOLDEN, run)
    resumed = resume(run, "+3", workers=2, ray_address=nodes.address)
    assert status_of(resumed)["trials"] == {"complete": TRIALS + 3}
    settings = read_config(resumed)
    assert (settings.workers, settings.ray_address, settings.budget) == (2, nodes.address, str(TRIALS + 3))
    assert all(row["passed"] for row in verify_artifacts(run))


def test_a_cluster_without_room_is_given_up(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    context = tiny_context()
    monkeypatch.setattr(run_cluster, "PATIENCE_S", 3.0)
    executor = make_executor(Shared(context, tiny_space(context)), Workers(1, threads=2, address=nodes.address))
    try:
        executor.start("trial 0", TrialJob(0, (), "", (), {}, Path("unused")))
        with pytest.raises(RunError, match="no room for one of 2 CPUs and 0 GPUs; `resume` goes on"):
            executor.next()
    finally:
        executor.stop()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no.such.host.invalid:6379"])
def test_no_cluster_at_an_address(address: str) -> None:
    context = tiny_context()
    start = time.monotonic()
    with pytest.raises(InputError, match="no Ray cluster answers there"):
        make_executor(Shared(context, tiny_space(context)), Workers(2, address=address))
    assert time.monotonic() - start < 60


def test_what_is_asked_of_a_cluster() -> None:
    with pytest.raises(InputError, match="ray_address needs workers"):
        SearchConfig(ray_address="auto")
    with pytest.raises(InputError, match="cpus_per_trial is 0"):
        SearchConfig(cpus_per_trial=0)
    with pytest.raises(InputError, match=r"gpus_per_trial is 0\.25 with device 'cpu'"):
        SearchConfig(gpus_per_trial=0.25, device="cpu")
    pool = SearchConfig(ray_address="auto", workers=3, cpus_per_trial=2, gpus_per_trial=0.5, device="cuda").worker_pool
    assert pool == Workers(3, 2, True, "auto", 0.5)
    assert SearchConfig(ray_address="auto", workers=1).worker_pool.threads == 1
