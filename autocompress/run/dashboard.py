"""Optuna's dashboard over the study of a run, for looking only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autocompress.errors import InputError
from autocompress.run.folder import Run
from autocompress.run.storage import open_storage

_LOOKING = ("GET", "HEAD", "OPTIONS")
_Start = Callable[..., Any]


def dashboard_server(run: Run, host: str, port: int) -> WSGIServer:
    """A server that shows a run while it is written by its driver, and changes nothing.

    Args:
        run: With a study that was begun.
        host: The address to listen on.
        port: 0 takes a free one.

    Raises:
        InputError: `optuna-dashboard` is not installed, the study cannot be read, or the port is taken.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise InputError('the dashboard is not installed; pip install "autocompress[dashboard]"') from None
    app = _looking_only(wsgi(open_storage(run.path, run.storage)))
    try:
        return make_server(host, port, app, server_class=_Threaded, handler_class=_Quiet)
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened on: {error.strerror}; name another --port") from None


def _looking_only(app: Callable[[dict[str, Any], _Start], Iterable[bytes]]) -> Any:
    """The driver alone writes a study: what would change it, such as the button that deletes it, is refused."""

    def checked(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in _LOOKING:
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "this dashboard is for looking only: the driver of the run alone writes its study"}']

    return checked


class _Threaded(ThreadingMixIn, WSGIServer):
    """A thread for each request, which holds up neither the others nor the end.

    `wsgiref` swallows a Ctrl-C that comes while it answers, so the main thread, which gets them, answers nobody; and a
    browser may open a connection long before it asks for anything.
    """

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """Logs no request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
