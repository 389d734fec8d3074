"""Where a study is kept: a journal in the run folder, or a database at a URL, which may be away for a while."""

from __future__ import annotations

import logging
import random
import re
import secrets
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import column, event, insert, table
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import IntegrityError, NoSuchModuleError, ProgrammingError, SQLAlchemyError

from autocompress.errors import InputError, RunError
from autocompress.run.journal import JOURNAL, open_journal

LOG = logging.getLogger("autocompress")
# A server that is started anew, or a machine with it, is back by then.
PATIENCE_S = 300.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 10.0
_CONNECT_S = 10
# Of two that make the tables of a new database at the same moment one fails, and finds them when it looks again.
_TRIES_TO_MAKE_TABLES = 4
_EXAMPLE = "write a URL such as sqlite:///runs.db or postgresql://user@host/database"
# What Optuna and the layers below it raise for a database that is not as they left it.
_UNUSABLE = (SQLAlchemyError, OptunaError, RuntimeError, AssertionError, ValueError, TypeError)
_LIBPQ = ("psycopg2", "psycopg")

Answer = TypeVar("Answer")


class StorageAway(RunError):
    """The connection to a storage was lost, or cannot be made; whether it wrote what it was told is not known."""


def open_storage(folder: Path, storage: str | None) -> BaseStorage:
    """The journal of a run folder, or the storage at a URL; `close_storage` closes it.

    Raises:
        InputError: there is none at the URL, or no driver for it, or the journal is damaged.
    """
    if storage is None:
        return open_journal(folder / JOURNAL)
    url = _parsed(storage)
    try:
        backend = _with_tables(url.render_as_string(hide_password=False), _engine_options(url))
    except ImportError:
        raise InputError(f"storage {shown_url(storage)!r} cannot be opened: {_missing_driver(url)}") from None
    except NoSuchModuleError as error:
        raise InputError(f"storage {shown_url(storage)!r} cannot be opened: {error}; {_EXAMPLE}") from None
    except _UNUSABLE as error:
        raise InputError(f"storage {shown_url(storage)!r} cannot be opened: {reason_of(error)}") from None
    event.listen(backend.engine, "handle_error", _name_lost_connections, retval=True)
    return optuna.storages.get_storage(backend)


def close_storage(storage: BaseStorage) -> None:
    """Closes the connections of a storage; a journal has none."""
    backend = _backend(storage)
    if backend is not None:
        backend.remove_session()
        backend.engine.dispose()


def check_storage(folder: Path, storage: str) -> None:
    """Refuses a storage at a URL that a run could not be written to; nothing of this stays there.

    Raises:
        InputError: it cannot be opened, or may only be read.
    """
    opened = open_storage(folder, storage)
    backend = _backend(opened)
    assert backend is not None
    study = insert(table("studies", column("study_name"))).values(study_name=f"check-{secrets.token_hex(8)}")
    try:
        with backend.engine.connect() as connection, connection.begin() as transaction:
            connection.execute(study)
            transaction.rollback()
    except (StorageAway, *_UNUSABLE) as error:
        raise InputError(f"storage {shown_url(storage)!r} cannot be written: {reason_of(error)}") from None
    finally:
        close_storage(opened)


def answered(ask: Callable[[], Answer]) -> Answer:
    """What a storage answers; it is asked again for a while where it is away.

    Args:
        ask: Does no harm when what it did before was written, but the answer lost.

    Raises:
        RunError: it was away for longer than `PATIENCE_S`, or cannot do what it is asked.
    """
    began, wait, is_away = time.monotonic(), _FIRST_WAIT_S, False
    while True:
        try:
            answer = asked_once(ask)
        except StorageAway as error:
            left = began + PATIENCE_S - time.monotonic()
            if left <= 0:
                raise RunError(
                    f"the storage was away for {PATIENCE_S:.0f} s: {error}; what was written there is kept, "
                    "`autocompress resume` goes on"
                ) from None
            if not is_away:
                LOG.warning("the storage is away, asking again for up to %.0f s: %s", PATIENCE_S, error)
            is_away = True
            time.sleep(min(left, wait))
            wait = min(2.0 * wait, _LONGEST_WAIT_S)
        else:
            if is_away:
                LOG.warning("the storage is back after %.0f s", time.monotonic() - began)
            return answer


def asked_once(ask: Callable[[], Answer]) -> Answer:
    """What a storage answers.

    Raises:
        StorageAway: the connection was lost, or cannot be made.
        RunError: it cannot do what it is asked.
    """
    try:
        return ask()
    except (StorageInternalError, SQLAlchemyError) as error:
        raise RunError(f"the storage cannot do what it is asked: {reason_of(error)}") from None


def reason_of(error: BaseException) -> str:
    """What went wrong in the words of the database, on one line, without the statement and its values."""
    if isinstance(error, OptunaError) and error.__cause__ is not None:
        return reason_of(error.__cause__)
    found = getattr(error, "orig", None) or error
    lines = str(found).strip().splitlines()
    return lines[0].strip() if lines else type(found).__name__


def shown_url(storage: str) -> str:
    """A URL as it may be printed: without a password."""
    try:
        url = make_url(storage)
    except (SQLAlchemyError, ValueError):
        scheme, found, _ = storage.partition("://")
        return f"{scheme}://..." if found else "..." if "@" in storage else storage
    hidden = {name: "hidden" for name in url.query if "pass" in name and name != "passfile"}
    text = url.update_query_dict(hidden).render_as_string(hide_password=True)
    # What follows an @ in a password that is not written as %40 is taken for the host.
    return re.sub(r":\*\*\*@.*@", ":***@", text)


def _parsed(storage: str) -> URL:
    try:
        url = make_url(storage)
        storage.format(SCHEMA_VERSION="")
    except (SQLAlchemyError, ValueError, LookupError):
        # What the parser says may be a piece of the password.
        raise InputError(
            f"storage {shown_url(storage)!r} cannot be opened: it is not a URL; {_EXAMPLE}, and in a password each of "
            "@ : / { } as %40 %3A %2F %7B %7D"
        ) from None
    if url.host is not None and "@" in url.host:
        raise InputError(f"storage {shown_url(storage)!r} cannot be opened: in a password write @ as %40")
    return url.set(drivername=f"postgresql+{_libpq_driver()}") if url.drivername == "postgresql" else url


def _libpq_driver() -> str:
    """What `postgresql://` is opened with: versions of SQLAlchemy differ in which of the two they mean."""
    return next((name for name in _LIBPQ if find_spec(name) is not None), _LIBPQ[0])


def _engine_options(url: URL) -> dict[str, Any]:
    """Connections are tried before they are used, and a server that vanished is noticed within about a minute."""
    if url.get_backend_name() == "sqlite":
        return {}
    wanted: dict[str, int] = {}
    # Only the drivers of libpq have these; where the URL says another value, that one counts.
    if url.get_backend_name() == "postgresql" and url.drivername.partition("+")[2] in _LIBPQ:
        wanted = {"connect_timeout": _CONNECT_S, "keepalives_idle": 30, "keepalives_interval": 10}
        wanted |= {"keepalives_count": 3, "tcp_user_timeout": 60_000}
    return {
        "pool_pre_ping": True,
        "connect_args": {name: value for name, value in wanted.items() if name not in url.query},
    }


def _with_tables(storage: str, options: dict[str, Any]) -> RDBStorage:
    """The database, with Optuna's tables in it."""
    for left in reversed(range(_TRIES_TO_MAKE_TABLES)):
        try:
            return RDBStorage(storage, engine_kwargs=dict(options))
        except (IntegrityError, ProgrammingError):
            if not left:
                raise
            time.sleep(0.1 + 0.2 * random.random())
    raise AssertionError("the last try returns or raises")


def _missing_driver(url: URL) -> str:
    if url.drivername == f"postgresql+{_LIBPQ[0]}":
        return 'the driver of PostgreSQL is not installed; pip install "autocompress[postgresql]"'
    return f"the driver for {url.drivername!r} is not installed"


def _name_lost_connections(context: ExceptionContext) -> BaseException | None:
    """Tells a connection that is lost, or cannot be made, from whatever else a database may say.

    It is no error of SQLAlchemy, so that Optuna leaves it alone: its own second try to make a trial would make
    another one where the first was written, but the answer lost.
    """
    # SQLAlchemy takes a Ctrl-C within a statement for a lost connection; it is passed on as it is.
    if not isinstance(context.original_exception, Exception):
        return None
    # A connection that was lost while nobody used it is replaced before anybody sees it.
    if context.is_pre_ping or not (context.is_disconnect or context.connection is None):
        return None
    return StorageAway(reason_of(context.original_exception))


def _backend(storage: BaseStorage) -> RDBStorage | None:
    found = getattr(storage, "_backend", None)
    return found if isinstance(found, RDBStorage) else None
