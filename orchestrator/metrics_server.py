"""The driver's HTTP server: its metrics under /metrics, all targets of the run under /sd, and nothing else."""

import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import prometheus_client

from orchestrator.folder import RunFolder
from orchestrator.metrics_config import MetricsConfig
from orchestrator.recipe import RecipeError
from orchestrator.targets import Targets, endpoint, own_address

if TYPE_CHECKING:
    from orchestrator.config import Recipe

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_SILENT_S = 30.0
"""A client that sends nothing for so long is let go; a scrape takes milliseconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    """A client that hangs holds up no end of a run."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or fell silent: its traceback would stand among the run's own words."""
        log.debug("a client was let go", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = _SILENT_S

    def log_message(self, format: str, *arguments: Any) -> None:
        """Standard error belongs to the run."""


@contextmanager
def serving(config: MetricsConfig, folder: RunFolder, *, host: str) -> Iterator[Targets]:
    """The run's targets, served until the block ends and listed as none thereafter; host: the driver's own address.

    RecipeError: the address or port cannot be listened on.
    """
    address = config.bind or host
    try:
        server = _listening(address, config.port)
    except OSError as error:
        raise RecipeError([_refusal(config, address, error)]) from None
    targets = Targets(folder, driver=endpoint(config, host, server.server_port))
    server.set_app(_application(targets))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield targets
    finally:
        targets.end()
        server.shutdown()
        thread.join()
        server.server_close()


def port_problems(recipe: "Recipe") -> list[str]:
    """Whether the driver could listen where the recipe wants it to; nothing stays open."""
    config = recipe.metrics
    address = config.bind or (own_address() if recipe.ray.existing else _LOOPBACK)
    try:
        with socket.create_server((address, config.port), family=_family(address)):
            return []
    except OSError as error:
        return [_refusal(config, address, error)]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _listening(address: str, port: int) -> _Server:
    kind = type("_Server", (_Server,), {"address_family": _family(address)})
    return kind((address, port), _Handler)


def _refusal(config: MetricsConfig, address: str, error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"metrics.bind = {json.dumps(config.bind)}: this machine has no address {address}; "
            "set metrics.bind to one that it has, to 0.0.0.0 for all of them, or to null"
        )
    if error.errno == errno.EADDRINUSE:
        reason = f"another process listens on {address}:{config.port} already"
    else:
        reason = f"{address}:{config.port} cannot be listened on ({os.strerror(error.errno or 0)})"
    return f"metrics.port = {config.port}: {reason}; set metrics.port to another, or to 0 for any free one"


def _application(targets: Targets) -> WSGIApplication:
    metrics = prometheus_client.make_wsgi_app()

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return metrics(environ, start)
        if path == "/sd" and environ["REQUEST_METHOD"] == "GET":
            return _plain(start, "200 OK", "application/json", targets.as_json())
        return _plain(start, "404 Not Found", "text/plain; charset=utf-8", b"/metrics and /sd are all there is\n")

    return answer


def _plain(start: StartResponse, status: str, kind: str, body: bytes) -> list[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
