"""A journal that a crash cut: everything before the damage is there, and nothing is written behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from autocompress.errors import InputError
from autocompress.run import journal
from autocompress.run.disk import DiskError
from autocompress.run.journal import JOURNAL, ProcessLock, open_journal, repair
from autocompress.run.study import Study
from tests.run.studies import SPACE, TWO, fill, results

# Bytes at the end of a journal, each of which is cut off and each of which is changed.
LAST = 4096


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, where nothing waits for a disk; what was replayed once is not replayed again."""
    real, known = journal._replays, dict[bytes, bool]()

    def once(lines: list[bytes]) -> bool:
        content = b"".join(lines)
        if content not in known:
            known[content] = real(lines)
        return known[content]

    monkeypatch.setattr(journal, "_replays", once)
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


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


def test_cut_anywhere_in_its_end_it_keeps_what_was_finished(quick: Path) -> None:
    content, path = whole(quick / "whole"), quick / JOURNAL
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    assert ends[1] < len(content) - LAST
    for size in range(len(content) - LAST, len(content)):
        path.write_bytes(content[:size])
        said = repair(path)
        kept = path.read_bytes()
        entries = sum(end <= size for end in ends)
        assert kept == content[: ends[entries - 1]]
        assert (said is None) == (size in ends)
        for damaged in quick.glob("*.damaged-*"):
            assert damaged.read_bytes() == content[:size]
            damaged.unlink()
    # Whole studies are opened where entries end: the states between differ in nothing that is replayed.
    told = [end for end, line in zip(ends, content.splitlines(), strict=True) if json.loads(line)["op_code"] == 6]
    for end in ends[1:]:
        path.write_bytes(content[:end])
        study = Study(quick, SPACE, TWO)
        done = [record for record in study.records() if record.state != "running"]
        assert done == results()[: sum(one <= end for one in told)]
        for lost in study.lost():
            study.finish(results()[lost.number])
        assert Study(quick, SPACE, TWO).records() == study.records()


def test_a_bit_that_flips_anywhere_in_its_end_is_found(quick: Path) -> None:
    content, path = whole(quick / "whole"), quick / JOURNAL
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for place in range(len(content) - LAST, len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert repair(path) is not None, place
        assert path.read_bytes() == content[: max(end for end in ends if end <= place)]
        (damaged,) = quick.glob("*.damaged-*")
        assert damaged.read_bytes() == flipped
        damaged.unlink()
    study = Study(quick, SPACE, TWO)
    assert [record for record in study.records() if record.state != "running"] == results()[:4]


def test_a_damaged_end_is_named_and_what_an_older_version_wrote_is_read(tmp_path: Path) -> None:
    content, path = whole(tmp_path / "whole"), tmp_path / JOURNAL
    changed = content.replace(b'"value":91.25', b'"value":99.25')
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(InputError, match=r"is damaged \(ValueError\); `autocompress resume") as caught:
        open_journal(path)
    assert "\n" not in str(caught.value)
    # Entries of older versions have no checksums; those behind them have.
    plain = re.sub(rb',"seal":"[0-9a-f]{8}"}\n', b"}\n", content)
    path.write_bytes(plain)
    assert repair(path) is None
    study = Study(tmp_path, SPACE, TWO)
    assert study.records() == results()
    study.start((1, 1), "search")
    assert repair(path) is None
    assert len(Study(tmp_path, SPACE, TWO).records()) == len(results()) + 1


@pytest.mark.parametrize("tail", [b"\x00", b"\x00" * 4096, b"\xff\xfe", b'{"op_code":8,"user_attr":{"a":"\xc3'])
def test_what_a_power_failure_leaves_behind_the_end_is_taken_away(tail: bytes, tmp_path: Path) -> None:
    content, path = whole(tmp_path), tmp_path / JOURNAL
    path.write_bytes(content + tail)
    assert len(open_journal(path).get_all_trials(0)) == len(results())
    assert path.read_bytes() == content + tail
    said = str(repair(path))
    assert f"the last {len(tail)} bytes are left out" in said
    assert path.read_bytes() == content
    assert Study(tmp_path, SPACE, TWO).records() == results()


def test_a_journal_that_is_empty_gone_or_no_file(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    whole(tmp_path)
    path.write_bytes(b"")
    assert repair(path) is None
    assert Study(tmp_path, SPACE, TWO).records() == []
    path.unlink()
    assert repair(path) is None
    assert Study(tmp_path, SPACE, TWO).records() == []
    path.unlink()
    path.mkdir()
    assert repair(path) is None
    with pytest.raises(InputError, match=r"journal cannot be opened \(Is a directory\); put right what"):
        Study(tmp_path, SPACE, TWO)


def test_without_its_lock_and_without_itself(tmp_path: Path) -> None:
    study, path = Study(tmp_path, SPACE, TWO), tmp_path / JOURNAL
    fill(study)
    path.with_name(f"{JOURNAL}.flock").unlink()
    study.start((1, 1), "search")
    assert len(Study(tmp_path, SPACE, TWO).records()) == len(results()) + 1
    path.unlink()
    with pytest.raises(DiskError, match=r"study\.journal cannot be used \(No such file or directory\)"):
        study.start((0, 1), "search")
    assert not path.exists()


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
