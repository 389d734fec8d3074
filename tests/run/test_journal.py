"""A journal that a crash cut: everything before the damage is there, and nothing is written behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autocompress.errors import InputError
from autocompress.run.journal import JOURNAL, ProcessLock, open_journal, repair
from autocompress.run.study import Study
from tests.run.studies import SPACE, TWO, fill, results


def whole(folder: Path) -> bytes:
    folder.mkdir(exist_ok=True)
    fill(Study(folder, SPACE, TWO))
    return (folder / JOURNAL).read_bytes()


def test_a_whole_journal_stays_as_it_is(tmp_path: Path) -> None:
    content = whole(tmp_path)
    assert repair(tmp_path / JOURNAL) is None
    assert repair(tmp_path / "none.journal") is None
    assert (tmp_path / JOURNAL).read_bytes() == content
    assert sorted(path.name for path in tmp_path.glob("*.damaged-*")) == []


def test_cut_anywhere_in_its_end_it_keeps_what_was_finished(tmp_path: Path) -> None:
    content, path = whole(tmp_path / "whole"), tmp_path / JOURNAL
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    last = len(content) - 300
    for size in (*range(max(ends[1], last - 3796), last, 7), *range(last, len(content))):
        path.write_bytes(content[:size])
        said = repair(path)
        kept = path.read_bytes()
        entries = sum(end <= size for end in ends)
        assert kept == content[: ends[entries - 1]]
        assert (said is None) == (size in ends)
        for damaged in tmp_path.glob("*.damaged-*"):
            assert damaged.read_bytes() == content[:size]
            damaged.unlink()
    # Whole studies are opened where entries end: the states between differ in nothing that is replayed.
    for end in ends[1:]:
        path.write_bytes(content[:end])
        study = Study(tmp_path, SPACE, TWO)
        done = [record for record in study.records() if record.state != "running"]
        assert done == results()[: len(done)]
        for _, vector, label in study.requeue_lost():
            study.start(vector, label)
        assert Study(tmp_path, SPACE, TWO).records() == study.records()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 512,
        b'{"op_code": 4, "study',
        b"\xff\xfe not text\n",
        b"[1, 2]\n",
        b'{"op_code": 77, "worker_id": "x"}\n',
        b"{}\n",
    ],
)
def test_garbage_in_the_middle_ends_what_is_kept(garbage: bytes, tmp_path: Path) -> None:
    content = whole(tmp_path / "whole")
    lines, path = content.splitlines(keepends=True), tmp_path / JOURNAL
    before = b"".join(lines[:9])
    path.write_bytes(before + garbage + b"".join(lines[9:]))
    with pytest.raises(InputError, match="is damaged"):
        open_journal(path)
    said = repair(path)
    assert said is not None
    assert "was damaged behind entry 9" in said
    assert f"the damaged file is {JOURNAL}.damaged-1" in said
    assert path.read_bytes() == before
    assert (tmp_path / f"{JOURNAL}.damaged-1").read_bytes().startswith(before + garbage)
    study = Study(tmp_path, SPACE, TWO)
    assert study.start((1, 1), "search") == len(study.records()) - 1
    assert repair(path) is None


def test_a_second_damage_is_kept_beside_the_first(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    content = whole(tmp_path)
    for number in (1, 2):
        path.write_bytes(content[:-1])
        assert f"damaged-{number}" in str(repair(path))
    assert len(list(tmp_path.glob("*.damaged-*"))) == 2


def test_a_lock_goes_with_whoever_held_it(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    lock, other = ProcessLock(path), ProcessLock(path)
    assert lock.acquire()
    lock.release()
    assert other.acquire()
    other.release()
    other.release()
    study = Study(tmp_path, SPACE, TWO)
    study.start((0, 1), "search")
    entry = json.loads(path.read_text().splitlines()[-1])
    assert entry["op_code"] == 4
