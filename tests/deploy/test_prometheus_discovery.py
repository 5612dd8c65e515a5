"""A real Prometheus finds the processes of a run by file and over HTTP, with the configurations that ship.

Some 9 seconds, nearly all of them waited: Prometheus takes up changes of targets every five.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prometheus_client
import yaml
from prometheus_server import Prometheus, running
from prometheus_shipped import configuration

from orchestrator.folder import RunFolder
from orchestrator.metrics_config import MetricsConfig
from orchestrator.metrics_server import serving
from orchestrator.targets import Targets

LOOPBACK = "127.0.0.1"


@contextmanager
def a_worker() -> Iterator[str]:
    """The address of something that has metrics."""
    server, thread = prometheus_client.start_http_server(
        0, addr=LOOPBACK, registry=prometheus_client.CollectorRegistry()
    )
    try:
        yield f"{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def found(prometheus: Prometheus, job: str, run: str = "trial") -> dict[str, tuple[str, str]]:
    """worker -> (address, health) of the targets of a run."""
    mine = [one for one in prometheus.targets() if (one["labels"]["job"], one["labels"]["run"]) == (job, run)]
    assert all(one["labels"]["role"] == one["labels"]["worker"].partition("-")[0] for one in mine)
    return {one["labels"]["worker"]: (one["labels"]["instance"], one["health"]) for one in mine}


@contextmanager
def prometheus_and_a_run(folder: Path) -> Iterator[tuple[Prometheus, Targets, str]]:
    """(server, the run's targets, its driver's address); in the same root is what a driver left that was killed."""
    killed = RunFolder(folder / "runs" / "killed")
    run = RunFolder(folder / "runs" / "trial")
    for one in (killed, run):
        one.create()
    with serving(MetricsConfig(), killed, host=LOOPBACK):
        left = killed.shared_targets.read_bytes()
    killed.shared_targets.write_bytes(left)
    with serving(MetricsConfig(), run, host=LOOPBACK) as targets:
        driver = yaml.safe_load(targets.as_json())[0]["targets"][0]
        with running(configuration(folder / "prometheus.yml", root=folder / "runs", driver=driver)) as prometheus:
            yield prometheus, targets, driver


def test_a_replaced_worker_is_found_and_the_old_one_gone_and_a_killed_driver_stays_and_rings(tmp_path: Path) -> None:
    with prometheus_and_a_run(tmp_path) as (prometheus, targets, driver), a_worker() as rank:

        def until_found(workers: dict[str, str]) -> None:
            targets.show(workers)
            wanted = {name: (address, "up") for name, address in {"driver": driver, **workers}.items()}
            prometheus.until(
                f"{wanted} by both",
                lambda: all(found(prometheus, job) == wanted for job in ("headrace", "headrace-http")),
            )

        with a_worker() as first:
            until_found({"gen-0": first, "rank-0": rank})
        with a_worker() as second:
            assert second != first
            until_found({"gen-0": second, "rank-0": rank})
            labels = prometheus.query(f'up{{job="headrace-http",instance="{second}"}}')[0]["metric"]
            assert (labels["worker"], labels["discovery"]) == ("gen-0", "http")
        ((worker, (_, health)),) = found(prometheus, "headrace", "killed").items()
        assert (worker, health) == ("driver", "down")
        (alert,) = [one for one in prometheus.get("alerts")["alerts"] if one["labels"]["run"] == "killed"]
        assert (alert["labels"]["alertname"], alert["state"]) == ("HeadraceDriverDown", "pending")
        assert alert["annotations"]["summary"] == "killed: its driver is gone"
        assert "(up: 0)" in alert["annotations"]["description"]
