"""Serves a Prometheus registry over HTTP, from a thread of its own.

Knows sockets; knows no metric. (prometheus_client's own server takes half a second to stop.)
"""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from threading import Thread
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, make_server

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer

_POLL_SECONDS = 0.05


@contextmanager
def serving_metrics(registry: CollectorRegistry, host: str, port: int) -> Generator[None]:
    """Serves the registry at /metrics while the context lasts.

    Raises:
        OSError: the address can't be had.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    server_class = type("Server", (ThreadingWSGIServer,), {"address_family": family})
    server = make_server(host, port, _application(registry), server_class, _SilentHandler)
    thread = Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _application(registry: CollectorRegistry) -> Any:
    return cast(Any, prometheus_client).make_wsgi_app(registry)  # partly untyped


class _SilentHandler(WSGIRequestHandler):
    """Does not log each scrape."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Says nothing."""
