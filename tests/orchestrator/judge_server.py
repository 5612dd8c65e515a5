"""An HTTP judge on loopback that answers as it is told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes]
"""Status and body."""


@dataclass
class JudgeServer:
    """`answer(request)` makes the reply; what was asked, and with which headers, is kept."""

    answer: Callable[[dict[str, Any]], Reply]
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def winner(name: str) -> Reply:
    return 200, json.dumps({"winner": name}).encode()


def longer(request: dict[str, Any]) -> Reply:
    """A judge that is of one mind whatever the order."""
    first, second = len(request["first"]), len(request["second"])
    return winner("first" if first > second else "second" if second > first else "tie")


@contextmanager
def running(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[JudgeServer]:
    judge = JudgeServer(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.asked.append(request)
            judge.headers.append(dict(self.headers))
            status, body = judge.answer(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_port}/judge"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
