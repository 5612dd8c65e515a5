"""A real Prometheus on a port of its own, that scrapes the targets of one run every second."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import yaml

SCRAPE_S = 1
READY_S = 60.0
LOOK_S = 0.05


class Prometheus:
    """Its HTTP API, as far as tests ask it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, query: str) -> list[dict[str, Any]]:
        """The samples of an instant vector, now."""
        return list(self.get("query", query=query)["result"])

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=READY_S) as answer:
            return dict(json.load(answer)["data"])

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=READY_S) as answer:
                return bool(answer.status == 200)
        except URLError:
            return False


@contextmanager
def prometheus(folder: Path, *, targets: Path) -> Iterator[Prometheus]:
    """Ready, until the block ends; the file of targets may come later."""
    program = shutil.which("prometheus")
    assert program, "no prometheus on PATH: `requirements/install test-servers`"
    port = _free_port()
    scrape = {
        "job_name": "headrace",
        "file_sd_configs": [{"files": [str(targets)], "refresh_interval": f"{SCRAPE_S}s"}],
    }
    settings = {"global": {"scrape_interval": f"{SCRAPE_S}s"}, "scrape_configs": [scrape]}
    folder.mkdir(parents=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + READY_S
        while not server.ready():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, "prometheus did not become ready"
            time.sleep(LOOK_S)
        yield server
    finally:
        process.terminate()
        process.wait(READY_S)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
