"""A proxy between boto3 and an object store that breaks what it is told to break, by method, place and number.

    proxy.add(Fault("reply lost", method="PUT", nth=1))      the first PUT from now on acts, and its answer is lost

Every connection serves one request, so that nothing is said about faults by reusing one that has had none.
"""

import http.client
import socket
import socketserver
import struct
import threading
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
WAIT_S = 30.0

Kind = Literal[
    "status",  # answered with `status` and `code`, the store hears nothing
    "reset",  # the connection is reset once the request has come, the store hears nothing
    "reset in the request",  # the same in the middle of its body
    "reset in the answer",  # the store has acted; reset in the middle of the answer's body
    "reply lost",  # the store has acted; closed without an answer
    "truncated",  # the answer's body ends half-way, as the length in its header shows
    "cut short",  # the same, and the header agrees
    "flipped",  # one bit of the answer's body
    "held",  # the request waits until `released` is set
]


@dataclass(kw_only=True)
class Fault:
    kind: Kind
    method: str
    contains: str = ""
    """In path and query."""
    nth: int = 1
    """Of the matching requests, the first of which it hits; `times` in all."""
    times: int = 1
    status: int = 500
    code: str = "InternalError"
    seen: int = 0

    def hits(self, method: str, target: str) -> bool:
        if method != self.method or self.contains not in target:
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


@dataclass
class FaultProxy:
    """Serves on `endpoint` until closed; what it has let through or broken is in `requests`, as (method, target)."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False
    """True: every connection is reset at once."""

    def __post_init__(self) -> None:
        self._lock = threading.Condition()
        self._resets = 0
        self.released = threading.Event()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server((LOOPBACK, 0), Handler)
        self.endpoint = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self.faults += faults

    def count(self, method: str, contains: str = "") -> int:
        with self._lock:
            return sum(1 for one, target in self.requests if one == method and contains in target)

    def await_requests(self, method: str, contains: str) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: self.count(method, contains), timeout=WAIT_S)

    def await_resets(self, number: int) -> None:
        """While it is down: until so many connections more were reset."""
        with self._lock:
            enough = self._resets + number
            assert self._lock.wait_for(lambda: self._resets >= enough, timeout=WAIT_S)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, connection: socket.socket) -> None:
        if self.down:
            with self._lock:
                self._resets += 1
                self._lock.notify_all()
            return _reset(connection)
        stream = connection.makefile("rb")
        first = stream.readline().decode()
        if not first:
            return None
        method, target, _ = first.split(" ", 2)
        headers = http.client.parse_headers(stream)
        with self._lock:
            self.requests.append((method, target))
            self._lock.notify_all()
            fault = next((fault for fault in self.faults if fault.hits(method, target)), None)
        kind = fault.kind if fault else ""
        length = int(headers.get("Content-Length") or 0)
        assert "chunked" not in (headers.get("Transfer-Encoding") or ""), "not read here"
        if headers.get("Expect") == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = stream.read(length // 2 if kind == "reset in the request" else length)
        stream.close()  # else the connection would outlive its close
        if kind == "reset in the request":
            return _reset(connection)
        if kind == "reset":
            return _reset(connection)
        if fault and kind == "status":
            return self._refuse(connection, method, fault)
        if kind == "held":
            assert self.released.wait(WAIT_S)
        status, reason, answer_headers, answer = self._forward(method, target, headers, body)
        if kind == "reply lost":
            return None
        sent, declared = answer, len(answer)
        if kind in ("truncated", "cut short", "reset in the answer"):
            sent = answer[: len(answer) // 2]
        if kind == "cut short":
            declared = len(sent)
        if kind == "flipped":
            sent = bytes([answer[0] ^ 1]) + answer[1:]
        if kind in ("cut short", "flipped"):
            answer_headers = [pair for pair in answer_headers if not pair[0].lower().startswith("x-amz-checksum")]
        if method != "HEAD":
            answer_headers = [pair for pair in answer_headers if pair[0].lower() != "content-length"]
            answer_headers.append(("Content-Length", str(declared)))
        head = "".join(f"{name}: {value}\r\n" for name, value in [*answer_headers, ("Connection", "close")])
        connection.sendall(f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + sent)
        return _reset(connection) if kind == "reset in the answer" else None

    def _forward(
        self, method: str, target: str, headers: http.client.HTTPMessage, body: bytes
    ) -> tuple[int, str, list[tuple[str, str]], bytes]:
        store = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=60)
        try:
            kept = {name: value for name, value in headers.items() if name not in ("Expect", "Connection")}
            store.request(method, target, body=body, headers=kept)
            answer = store.getresponse()
            dropped = ("connection", "transfer-encoding")
            named = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
            return answer.status, answer.reason, named, answer.read()
        finally:
            store.close()

    def _refuse(self, connection: socket.socket, method: str, fault: Fault) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
        body = b"" if method == "HEAD" else body
        head = f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)


def _reset(connection: socket.socket) -> None:
    """Close so that the peer sees a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
