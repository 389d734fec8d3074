"""Every wait for a process has an end, whatever the process does."""

from __future__ import annotations

import sys
import time

import pytest

from autocompress.targets.channel import Channel, ChannelClosed


def asked(code: str, timeout_s: float = 1.0, size: int = 0) -> ChannelClosed:
    """How asking a Python program ends."""
    began = time.monotonic()
    with Channel([sys.executable, "-c", code]) as channel, pytest.raises(ChannelClosed) as told:
        channel.ask({"text": "x" * size}, timeout_s)
    # Far more than any of these waits, on a busy machine as well.
    assert time.monotonic() - began < 60.0
    return told.value


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_who_talks_without_an_answer_is_not_listened_to_for_ever(stream: str) -> None:
    code = f"import sys\nwhile True:\n    sys.{stream}.write('y\\n' * 1000)"
    assert "no answer within 1 seconds" in str(asked(code))


def test_who_goes_on_complaining_after_the_end_is_left() -> None:
    code = "import os\nos.close(1)\nwhile True:\n    os.write(2, b'y\\n' * 1000)"
    told = asked(code, timeout_s=30.0)
    assert "the process has ended" in str(told)
    assert told.last_line == "y"


def test_who_hangs_up_while_it_is_told_something_has_ended() -> None:
    code = "import os, time\nos.close(0)\nos.close(1)\ntime.sleep(1.5)\nos.write(2, b'gone')"
    assert "the process has ended" in str(asked(code, timeout_s=30.0, size=1_000_000))
