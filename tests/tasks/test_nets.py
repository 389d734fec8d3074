"""The small networks that the other tests use are sound themselves."""

from __future__ import annotations

import os

import pytest
import torch

from autocompress.tasks import check_task, evaluate_metric
from tests.nets import NETS, build, make_task, sst2_task


@pytest.mark.parametrize("name", NETS)
def test_each_net_is_the_same_every_time_and_its_task_is_sound(name):
    net, again = build(name), build(name)
    with torch.no_grad():
        assert torch.equal(net.model(*net.example_inputs), again.model(*again.example_inputs))
    check_task(make_task(name))


@pytest.mark.parametrize(("name", "least"), [("lenet", 80.0), ("unet", 70.0), ("text_encoder", 50.0)])
def test_tasks_can_be_learned_in_forty_steps(name, least):
    task = make_task(name, steps=40)
    assert evaluate_metric(task.model, task, task.test) > least


@pytest.mark.skipif(not os.environ.get("AUTOCOMPRESS_DATA"), reason="AUTOCOMPRESS_DATA names no folder with SST-2")
def test_sst2_is_above_chance_after_a_hundred_steps():
    task = sst2_task(steps=100)
    assert evaluate_metric(task.model, task, task.test) > 60.0
