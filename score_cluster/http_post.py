"""One POST of JSON within a deadline, and whether trying again may help; nothing that it raises repeats what was sent."""

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

MOST_BYTES = 4 * 2**20
"""Of an answer: thousands of scores; a server that sends more sends something else."""
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


def authorization(token: str) -> str | None:
    """`Bearer …` of what a variable or a file holds, line ends around it left out; None: no token that a header can carry.

    http.client would quote one with a line break or a letter beyond ASCII in its error.
    """
    token = token.strip()
    fit = bool(token) and token.isascii() and token.isprintable() and " " not in token
    return f"Bearer {token}" if fit else None


class PostFailed(RuntimeError):
    """`transient`: trying again may help."""

    def __init__(self, problem: str, *, transient: bool) -> None:
        super().__init__(problem)
        self.transient = transient


def post(
    url: str, body: bytes, *, headers: Mapping[str, str], timeout_s: float, context: ssl.SSLContext | None
) -> dict[str, Any]:
    """The JSON object that a service answers with. PostFailed: there is none; the message names neither URL nor headers.

    timeout_s: from connecting to the last byte, however slowly bytes trickle in. Redirects are not followed, and proxies of the
    environment not used: both would send the token elsewhere.
    """
    connection = _connection(url, timeout_s=timeout_s, context=context)
    until = time.monotonic() + timeout_s
    try:
        connection.connect()
        with _Cut(connection, after_s=until - time.monotonic()):
            path = urlsplit(url).path or "/"
            connection.request("POST", path, body=body, headers={**headers, "Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read(MOST_BYTES + 1)
    except ssl.SSLCertVerificationError as error:
        problem = f"has a certificate that is not trusted ({error.verify_message}); name its authority in ca_file"
        raise PostFailed(problem, transient=False) from error
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= until or isinstance(error, TimeoutError):
            raise PostFailed(f"did not answer within {timeout_s:.3g} s", transient=True) from error
        raise PostFailed(f"cannot be reached ({_brief(error)})", transient=True) from error
    finally:
        connection.close()
    if time.monotonic() >= until:  # cut off while the length of the answer was open
        raise PostFailed(f"did not answer within {timeout_s:.3g} s", transient=True)
    return _parsed(response, content)


def _parsed(response: http.client.HTTPResponse, content: bytes) -> dict[str, Any]:
    if response.status != http.client.OK:
        more = ", and redirects are not followed" if 300 <= response.status < 400 else ""
        known = http.client.responses.get(response.status, "")
        raise PostFailed(
            f"answered {response.status} {known}".rstrip() + more, transient=response.status in _RETRIED_STATUSES
        )
    kind = response.headers.get_content_type()
    if len(content) > MOST_BYTES:
        raise PostFailed(f"answered with more than {MOST_BYTES} bytes of {kind}", transient=False)
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PostFailed(f"answered with {kind} that is no JSON", transient=False) from error
    if not isinstance(answer, dict):
        raise PostFailed(f"answered with a JSON {type(answer).__name__}, not with an object", transient=False)
    return answer


def _connection(url: str, *, timeout_s: float, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)


class _Cut:
    """Shuts a connection down after so long: a socket's own time-out begins anew with every byte."""

    def __init__(self, connection: http.client.HTTPConnection, *, after_s: float) -> None:
        self._socket: socket.socket | None = connection.sock
        self._timer = threading.Timer(max(0.0, after_s), self._shut)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _shut(self) -> None:
        assert self._socket is not None
        try:
            socket.socket.shutdown(
                self._socket, socket.SHUT_RDWR
            )  # also under TLS, whose own would wait for the other side
        except OSError:  # closed already, which is what is wanted
            return


def _brief(error: Exception) -> str:
    """Of a failed connection; the messages of http.client may quote what the server sent, so that only its kind is named."""
    if isinstance(error, http.client.HTTPException):
        return type(error).__name__
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
