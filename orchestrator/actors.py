"""The actor host: one process that holds a worker of any cluster. Clusters know no Ray; this file is all they need of it.

Work that must keep an order (a worker's loop, a rank's collectives) runs in a thread of its own; composing and waiting
for background writes run beside it; heartbeats and stop requests always find a free thread.
"""

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import prometheus_client
import ray

from orchestrator import logs
from orchestrator.imports import collector_off, resolve

log = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"work": 1, "compose": 1, "wait": 2, "control": 1})
class Host:
    """setup -> run, or setup -> call …; `beat` and `stop` at any time. Ended by a kill: its state is in the stores."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        os.environ["OMP_NUM_THREADS"] = str(spec["threads"])  # read once, when torch is first imported
        folder = Path(spec["folder"])
        logs.configure(folder / "logs", worker=spec["name"])
        log.info("process up", extra={"pid": os.getpid()})
        self._stacks = (folder / "logs" / f"{spec['name']}.stacks").open("a")
        faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)
        server, _ = prometheus_client.start_http_server(0, addr=spec["metrics_host"])
        self._port = server.server_port
        self._stop = threading.Event()
        self._state = "starting"
        self._worker: Any = None

    @ray.method(concurrency_group="work")
    def setup(self) -> dict[str, Any]:
        with collector_off():  # heavy: the worker's libraries, loaded after the environment is set
            self._worker = self._watched(resolve(self._spec["builder"]), self._spec)
        log.info("built")
        answer = self._watched(self._worker.setup, **self._spec["setup"])
        self._state = "running"
        log.info("ready", extra={"answer": answer})
        return dict(answer or {})

    @ray.method(concurrency_group="work")
    def run(self) -> None:
        """The worker's own loop, until `stop`."""
        self._watched(self._worker.run, self._stop)
        self._state = "stopped"

    @ray.method(concurrency_group="work")
    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self._watched(getattr(self._worker, method), *arguments, **named)

    @ray.method(concurrency_group="compose")
    def compose(self, number: int) -> dict[str, Any]:
        return dict(self._watched(self._worker.compose, number))

    @ray.method(concurrency_group="wait")
    def wait(self, method: str, *arguments: Any) -> Any:
        return self._watched(getattr(self._worker, method), *arguments)

    @ray.method(concurrency_group="control")
    def beat(self) -> dict[str, Any]:
        status = self._worker.status() if self._worker and self._state == "running" else {}
        return {**status, "state": self._state, "pid": os.getpid(), "port": self._port}

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        self._stop.set()
        if hasattr(self._worker, "cancel"):
            self._worker.cancel()

    def _watched(self, function: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except BaseException as error:
            if self._stop.is_set():
                log.info("given up on request", extra={"what": str(error)})
                raise
            self._state = "failed"
            log.exception("worker failed", extra={"method": getattr(function, "__name__", str(function))})
            raise
