"""The processes of a run that serve metrics, as Prometheus's service discovery reads them: from a file, and over HTTP."""

import ipaddress
import json
import logging
import socket
from collections.abc import Mapping
from typing import Any

from orchestrator.folder import RunFolder
from orchestrator.metrics_config import MetricsConfig

log = logging.getLogger(__name__)

_ANYWHERE = ("192.0.2.1", 9)
"""An address of documentation (RFC 5737): the route to it names this machine's own; nothing is sent there."""


class Targets:
    """Those of one life: the driver at once, the others as they come and go, none once it ends.

    They stand in the run's targets.json, and beside those of all other runs of its root in `.targets/`, since a pattern
    of Prometheus names files of one folder. Files are replaced whole, so that it never reads half of one. Where they
    cannot be written the run goes on, and it is tried again with the next look.
    """

    def __init__(self, folder: RunFolder, *, driver: str) -> None:
        """driver: its own `host:port`."""
        self._folder, self._driver = folder, driver
        self._written: list[dict[str, Any]] | None = None
        self._listed = self._entries({})
        self._write(self._listed)

    def show(self, workers: Mapping[str, str]) -> None:
        """The living ones beside the driver: name -> `host:port`."""
        self._listed = self._entries(workers)
        self._write(self._listed)

    def end(self) -> None:
        """Nothing is left to be scraped."""
        self._listed = []
        self._write(self._listed)
        try:
            self._folder.shared_targets.unlink(missing_ok=True)
        except OSError as error:
            log.warning("targets not removed", extra={"error": str(error)})

    def as_json(self) -> bytes:
        """For HTTP service discovery, from any thread."""
        return json.dumps(self._listed).encode()

    def _entries(self, workers: Mapping[str, str]) -> list[dict[str, Any]]:
        """One for each process: a group of labels holds for all its addresses."""
        return [
            {
                "targets": [address],
                "labels": {"run": self._folder.run_id, "role": name.partition("-")[0], "worker": name},
            }
            for name, address in {"driver": self._driver, **workers}.items()
        ]

    def _write(self, entries: list[dict[str, Any]]) -> None:
        if entries == self._written:
            return
        shared = self._folder.shared_targets
        try:
            self._folder.write_json(self._folder.targets, entries)
            shared.parent.mkdir(exist_ok=True)
            self._folder.write_json(shared, entries)
        except OSError as error:  # what people watch with ends no training
            log.warning("targets not written", extra={"error": str(error)})
        else:
            self._written = entries


def endpoint(config: MetricsConfig, host: str, port: int) -> str:
    """`host:port` under which others reach what listens on `port` of a process whose node is `host`."""
    if config.everywhere and ipaddress.ip_address(host).is_loopback:  # a Ray of our own knows no other address
        host = own_address()
    elif config.bind is not None and not config.everywhere:
        host = config.bind
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_address() -> str:
    """Of this machine, as others in its network see it; loopback where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ANYWHERE)
        except OSError:  # no route: no network
            return "127.0.0.1"
        return str(probe.getsockname()[0])
