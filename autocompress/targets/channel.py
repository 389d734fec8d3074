"""A process that answers JSON lines: every wait has an end, and everything it says is bounded and checked."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from autocompress.errors import RunError

LONGEST_LINE = 1_000_000
# How long a process may take to tidy up after itself.
GRACE_S = 5.0
_LAST_WORDS_S = 1.0
# The end of what a process writes to its standard error; the rest is forgotten.
_KEPT_ERRORS = 8_000
_CHUNK = 65_536


class ChannelClosed(RunError):
    """The process ended, or gave no answer in time.

    Attributes:
        exit_status: Its exit status, or None where it had to be stopped.
        said: The end of what it wrote to its standard error.
    """

    def __init__(self, message: str, exit_status: int | None, said: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.said = said

    @property
    def last_line(self) -> str:
        """The last line of what it said, cut to a readable length."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        return printable(lines[-1])[:300] if lines else "it said nothing"


class Channel:
    """A started process; use it as a context manager, so that it ends."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        pipe = subprocess.PIPE
        # A session of its own: Ctrl-C is for us to handle, and whatever it starts ends with it.
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, bufsize=0, start_new_session=True
        )
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._input, self._output, self._errors = (stream.fileno() for stream in streams if stream is not None)
        for stream in (self._input, self._output, self._errors):
            os.set_blocking(stream, False)
        self._heard, self._said = b"", b""

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: Mapping[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        """Sends a line, unless it is None, and waits for the next line that is a mapping.

        Raises:
            ChannelClosed: the process ended, or did not answer in time; it is stopped then.
            RunError: its answer is too long; it is stopped then.
        """
        line = b"" if request is None else json.dumps(request).encode() + b"\n"
        try:
            return self._exchange(memoryview(line), time.monotonic() + timeout_s, timeout_s)
        except (RunError, KeyboardInterrupt):
            self.stop()
            raise

    def close(self) -> None:
        """Lets the process end by itself, which it does when nobody talks to it any more; else stops it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=GRACE_S)
        self.stop()

    def stop(self) -> None:
        """Ends the process now, with all that it started here."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _exchange(self, unsent: memoryview, deadline: float, timeout_s: float) -> dict[str, Any]:
        with selectors.DefaultSelector() as ready:
            ready.register(self._output, selectors.EVENT_READ)
            ready.register(self._errors, selectors.EVENT_READ)
            if unsent:
                ready.register(self._input, selectors.EVENT_WRITE)
            while True:
                answer = self._next_answer()
                if answer is not None:
                    return answer
                left_s = deadline - time.monotonic()
                if left_s <= 0.0:
                    raise ChannelClosed(f"no answer within {timeout_s:.0f} seconds", None, self._said_text())
                for key, _ in ready.select(left_s):
                    if key.fd == self._input:
                        unsent = self._send(unsent)
                        if not unsent:
                            ready.unregister(self._input)
                    elif not self._receive(key.fd):
                        ready.unregister(key.fd)
                        if key.fd == self._output:
                            raise self._ended(ready)

    def _send(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(self._input, unsent[:_CHUNK]) :]
        except BrokenPipeError:
            # It has ended; what it said before is still to be read.
            return unsent[:0]

    def _receive(self, stream: int) -> bool:
        """Reads what is there; False at the end of the stream."""
        data = os.read(stream, _CHUNK)
        if stream == self._errors:
            self._said = (self._said + data)[-_KEPT_ERRORS:]
        else:
            self._heard += data
        return bool(data)

    def _next_answer(self) -> dict[str, Any] | None:
        """The next line that is a JSON mapping; others, such as a greeting of a login shell, are passed over."""
        while b"\n" in self._heard:
            line, self._heard = self._heard.split(b"\n", 1)
            try:
                answer = json.loads(line, parse_constant=_refuse)
            except (ValueError, RecursionError):
                continue
            if isinstance(answer, dict):
                return answer
        if len(self._heard) > LONGEST_LINE:
            raise RunError(f"the answer has a line of more than {LONGEST_LINE:,} bytes")
        return None

    def _ended(self, ready: selectors.BaseSelector) -> ChannelClosed:
        if self._input in ready.get_map():
            ready.unregister(self._input)
        # Whoever goes on talking is not listened to for long.
        until = time.monotonic() + _LAST_WORDS_S
        while self._errors in ready.get_map() and ready.select(max(0.0, until - time.monotonic())):
            if not self._receive(self._errors) or time.monotonic() > until:
                break
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = None
        return ChannelClosed("the process has ended", status, self._said_text())

    def _said_text(self) -> str:
        return self._said.decode("utf-8", "replace")


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number")


def printable(text: str) -> str:
    """A text from elsewhere without what would move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
