"""The comparison of controllers: real searches, recorded, read again and replayed without training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.test_end_to_end import SPACE, TASKS

ROOT = Path(__file__).parents[1]


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/bench_controllers.py"), *map(str, arguments)]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=threads)


def rows(text: str) -> dict[str, list[str]]:
    """The first table by controller."""
    lines = [line.strip("| ").split(" | ") for line in text.split("Costs logarithmic")[0].splitlines() if "|" in line]
    return {name: values for name, *values in lines[2:]}


def test_searches_are_compared_recorded_and_replayed(tmp_path: Path) -> None:
    (tmp_path / "small_tasks.py").write_text(TASKS)
    (tmp_path / "mixed.yaml").write_text(SPACE)
    where = ("--task", f"{tmp_path / 'small_tasks.py'}:classify", "--space", tmp_path / "mixed.yaml", "--budget", "4")
    some = ("--seeds", "0", "--controllers", "random", "tpe-seeded")
    pool, plot = tmp_path / "pool.json", tmp_path / "curves.svg"
    effort = ("--short-steps", "2", "--validation-samples", "20")
    first = bench(tmp_path / "runs", *where, *effort, *some, "--save", pool, "--plot", plot)
    assert first.returncode == 0, first.stderr
    assert set(rows(first.stdout)) == {"random", "tpe-seeded"}
    assert max(float(row[4]) for row in rows(first.stdout).values()) <= 1.0
    ET.parse(plot)
    again = bench("--load", pool)
    assert rows(again.stdout) == rows(first.stdout)

    data = json.loads(pool.read_text())
    assert [len(each["trials"]) for each in data["searches"]] == [4, 4]
    kept = tmp_path / "replayed.json"
    replayed = bench(
        "--replay", pool, "--budget", "6", "--seeds", "0", "--controllers", "random", "planned", "--save", kept
    )
    assert replayed.returncode == 0, replayed.stderr
    known = [trial["values"] for each in data["searches"] for trial in each["trials"]]
    told = [each["trials"] for each in json.loads(kept.read_text())["searches"]]
    assert [len(trials) for trials in told] == [6, 6]
    assert all(trial["values"] in known for trials in told for trial in trials)
    # What was recorded is told as it was.
    recorded = {trial["plan"]: trial["values"] for each in data["searches"] for trial in each["trials"]}
    same = [trial for trials in told for trial in trials if trial["plan"] in recorded]
    assert len(same) >= 4
    assert all(trial["values"] == recorded[trial["plan"]] for trial in same)

    data["version"] = 2
    pool.write_text(json.dumps(data))
    assert "allowed" in bench("--load", pool).stderr
