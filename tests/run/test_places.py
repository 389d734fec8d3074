"""Weights and artifacts of workers that do not see the run folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from ray.cluster_utils import Cluster
from upath import UPath

from autocompress.config import resume, search
from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.proxy.evaluate import evaluate
from autocompress.run.folder import Run
from autocompress.run.places import Place, place_of, try_place
from autocompress.run.settings import SearchConfig
from autocompress.run.show import status_of, verify_artifacts
from autocompress.run.weights import KeptTraining, checkpoint_path, collect, drop_rungs, load_weights, save_weights
from tests.run.test_full_disk import alone
from tests.run.tiny import FILE_RULES, TASK, tiny_context

# Two Rays that start at the same moment on one machine get into each other's way.
pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return place_of(f"file://{tmp_path}")
    fsspec.filesystem("memory").store.clear()
    return place_of("memory://bucket/runs")


def test_weights_go_to_a_place_and_come_back(place: Place) -> None:
    context = tiny_context(steps=1)
    result = evaluate(Plan(), "short", context)
    for number in range(3):
        save_weights(checkpoint_path(place, number), result)
    kept = load_weights(checkpoint_path(place, 1), Plan())
    assert kept is not None
    state = result.module.state_dict()
    assert all(torch.equal(kept[name], state[name]) for name in state)
    assert load_weights(checkpoint_path(place, 7), Plan()) is None
    training = KeptTraining(checkpoint_path(place, 1), Plan())
    training.save({"done": 4})
    assert training.load() == {"done": 4}
    assert sorted(path.name for path in place.iterdir()) == [
        "trial-0000.safetensors",
        "trial-0001.rung",
        "trial-0001.safetensors",
        "trial-0002.safetensors",
    ]
    collect(place, {0}, 2)
    drop_rungs(place)
    assert sorted(path.name for path in place.iterdir()) == ["trial-0000.safetensors", "trial-0002.safetensors"]


def test_damaged_weights_in_a_place_are_not_used(place: Place) -> None:
    path = checkpoint_path(place, 0)
    save_weights(path, evaluate(Plan(), "short", tiny_context(steps=1)))
    path.write_bytes(path.read_bytes()[:100])
    assert load_weights(path, Plan()) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("runs/here", "must be a URL, such as s3://bucket/runs"),
        ("s3://", "must be a URL"),
        ("s4://bucket", r"of the protocol 's4'; .*did you mean 's3'"),
    ],
)
def test_what_is_no_place(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SearchConfig(checkpoints=url)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        try_place(f"file://{tmp_path / 'file' / 'runs'}")
    try_place(f"file://{tmp_path / 'new' / 'runs'}")
    assert list((tmp_path / "new" / "runs").iterdir()) == []
    assert isinstance(place_of("memory://bucket"), UPath)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a cluster whose one worker does not see what is in a folder, and the folder."""
    words = alone()
    if words is None:
        pytest.skip("mounting a file system is not allowed here, not even in a namespace of its own")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    start = f"{sys.executable} -m ray.scripts.scripts start --block --address {cluster.address} --num-cpus 1"
    node = subprocess.Popen(
        [*words, "sh", "-c", f"mount -t tmpfs tmpfs {hidden} && exec {start}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield cluster.address, hidden
    finally:
        node.terminate()
        try:
            node.wait(60)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        cluster.shutdown()


def test_workers_need_not_see_the_run_folder(
    apart: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, hidden = apart
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(root)
    (tmp_path / "space.yaml").write_text(FILE_RULES)
    config = SearchConfig(
        workers=1, ray_address=address, checkpoints=f"file://{tmp_path / 'bucket'}", controller="random",
        short_steps=4, final_epochs=0.5, final_points=2,
    )  # fmt: skip
    run = search(
        TASK, space=str(tmp_path / "space.yaml"), budget=4, output=hidden / "run", config=config
    )  # fmt: skip
    assert status_of(run)["trials"] == {"complete": 4}
    assert run.points
    assert all(row["passed"] for row in verify_artifacts(run.path))
    assert not (run.path / "checkpoints").exists()
    assert run.names.checkpoints is not None
    weights = place_of(run.names.checkpoints)
    assert {"trial-0000.safetensors", "trial-0003.safetensors"} <= {path.name for path in weights.iterdir()}
    assert "trained again" not in (run.path / "logs" / "run.log").read_text()
    resumed = resume(run.path, "+1")
    assert status_of(resumed)["trials"] == {"complete": 5}
    assert resumed.names == run.names
    # Without the place it ends with a sentence, and the trials that had ended stay.
    shutil.rmtree(tmp_path / "bucket")
    (tmp_path / "bucket").touch()
    with pytest.raises(InputError, match="cannot be written"):
        resume(run.path, "+1")
    assert status_of(Run.open(run.path))["trials"] == {"complete": 5}
