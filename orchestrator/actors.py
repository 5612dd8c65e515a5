"""The actor host: one process that holds a worker of any cluster, or one after the other. Clusters know no Ray; this file
is all they need of it.

Work that must keep an order (a worker's loop, a rank's collectives) runs in a thread of its own; composing and waiting
for background writes run beside it; heartbeats and stop requests always find a free thread.
"""

import faulthandler
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import prometheus_client
import ray

from orchestrator import logs
from orchestrator.gpu_metrics import export_gpus
from orchestrator.imports import collector_off, resolve
from orchestrator.malloc import keep_freed_memory
from orchestrator.network import interface_of

log = logging.getLogger(__name__)

_ASIDE = 10
"""Niceness of work ahead of its time: a tenth of a contended processor, and all of one that nobody else wants."""


@ray.remote(
    num_cpus=0, max_restarts=0, concurrency_groups={"work": 1, "compose": 1, "hold": 1, "wait": 2, "control": 1}
)
class Host:
    """setup -> run, or setup -> call …; `beat` and `stop` at any time. Ended by a kill: its state is in the stores.

    become -> as setup, once the worker in hand has finished what it was called for: the next in the same process, in the
    group that the ranks have joined. warm -> the libraries are loaded meanwhile; become.

    On a node that does not share the run's folder its log lies under the same path there.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._address = spec["host"] or ray.util.get_node_ip_address()
        os.environ["OMP_NUM_THREADS"] = str(spec["threads"])  # read once, when torch is first imported
        keep_freed_memory()
        self._take(spec)
        log.info("process up", extra={"pid": os.getpid()})
        server, _ = prometheus_client.start_http_server(0, addr=spec["metrics_bind"] or self._address)
        self._port = server.server_port
        export_gpus()
        self._meeting: dict[str, Any] = {}
        self._warming: threading.Thread | None = None

    def _take(self, spec: Mapping[str, Any]) -> None:
        """The worker to build next: where it logs, and where its stacks go when it is asked for them."""
        # A process id says something only where its process is.
        self._spec = {**spec, "driver_pid": spec["driver_pid"] if spec["driver_node"] == self._node else None}
        self._spec["began"] = time.monotonic()  # this worker's life
        folder = Path(spec["folder"]) / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        logs.configure(folder, run=Path(spec["folder"]).name, worker=spec["name"])
        self._stacks = (folder / f"{spec['name']}.stacks").open("a")
        faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)
        self._stop = threading.Event()
        self._state = "starting"
        self._worker: Any = None

    @ray.method(concurrency_group="work")
    def setup(self, environment: Mapping[str, str], meeting: tuple[str, int] | None) -> dict[str, Any]:
        """environment: variables to set first. meeting: where the ranks meet, address and port."""
        os.environ.update(environment)
        if meeting is not None:
            self._meeting = {
                "master_addr": meeting[0],
                "master_port": meeting[1],
                "interface": os.environ.get("GLOO_SOCKET_IFNAME") or interface_of(self._address),
            }
        return self._begin()

    @ray.method(concurrency_group="work")
    def become(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The worker of another spec, of the same kind and place: after an earlier one, or the first after `warm`."""
        if self._warming is not None:
            self._warming.join()
        with self._stacks:  # of the worker in hand: closed once those of the next have taken its place
            self._take(spec)
        gc.collect()  # the last worker's model, before what is left of it would be kept for good
        log.info("process taken over", extra={"pid": os.getpid()})
        return self._begin()

    def _begin(self) -> dict[str, Any]:
        spec = {**self._spec, **self._meeting}
        with collector_off():  # heavy: the worker's libraries, loaded after the environment is set
            self._worker = self._watched(resolve(spec["builder"]), spec)
        log.info("built")
        answer = self._watched(self._worker.setup, **self._spec["setup"])
        self._state = "running"
        log.info("ready", extra={"answer": answer})
        return dict(answer or {})

    @ray.method(concurrency_group="control")
    def warm(self, loader: str) -> None:
        """Begin to load what its kind of worker imports, mostly on what the machine has left beside other work.

        loader: see orchestrator.imports.
        """
        self._warming = threading.Thread(target=self._load, args=(loader,), name="loading", daemon=True)
        self._warming.start()

    def _load(self, loader: str) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _ASIDE)  # on Linux this thread's alone
        try:
            with collector_off():
                resolve(loader)(self._spec)
        except Exception:  # whoever builds the worker meets it again, and is heard
            log.exception("libraries not loaded")
        else:
            log.info("libraries loaded")

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

    @ray.method(concurrency_group="hold")
    def hold(self) -> None:
        self._worker.hold()

    @ray.method(concurrency_group="hold")
    def let_go(self) -> None:
        self._worker.let_go()

    @ray.method(concurrency_group="wait")
    def wait(self, method: str, *arguments: Any) -> Any:
        return self._watched(getattr(self._worker, method), *arguments)

    @ray.method(concurrency_group="control")
    def beat(self) -> dict[str, Any]:
        status = self._worker.status() if self._worker and self._state == "running" else {}
        where = {"node": self._node, "host": self._address, "pid": os.getpid(), "port": self._port}
        return {**status, "state": self._state, **where}

    @ray.method(concurrency_group="control")
    def meeting_place(self) -> tuple[str, int]:
        """Address of this process's node, and a port that is free there."""
        with socket.socket() as probe:
            probe.bind((self._address, 0))
            return self._address, int(probe.getsockname()[1])

    @ray.method(concurrency_group="control")
    def stacks(self) -> None:
        """Write the threads' stacks, as a SIGUSR1 does."""
        faulthandler.dump_traceback(self._stacks, all_threads=True)

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
