"""What a storage makes of what comes while it answers."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from autocompress.run.storage import _backend, answered, close_storage, open_storage

_COUNTED = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most) SELECT count(*) FROM n"


def test_ctrl_c_within_a_statement_is_no_lost_connection(tmp_path: Path) -> None:
    storage = open_storage(tmp_path, f"sqlite:///{tmp_path / 'study.db'}")
    backend = _backend(storage)
    assert backend is not None
    asked = []

    def ask() -> int:
        asked.append(time.monotonic())
        if len(asked) == 1:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with backend.engine.connect() as connection:
            return int(connection.execute(text(_COUNTED), {"most": 3_000_000}).scalar_one())

    try:
        with pytest.raises(KeyboardInterrupt):
            answered(ask)
        # The statement was under way when it came, and nobody asked again.
        assert time.monotonic() - asked[0] > 0.3
        assert len(asked) == 1
    finally:
        close_storage(storage)
