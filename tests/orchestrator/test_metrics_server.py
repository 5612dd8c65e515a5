"""What the driver serves to a Prometheus, and where. Half a second."""

import http.client
import json
import os
import socket
import struct
import threading
import urllib.error
import urllib.request

import pytest
from orchestrator_recipes import a_recipe
from prometheus_client.parser import text_string_to_metric_families

from orchestrator import metrics, metrics_server
from orchestrator.folder import RunFolder
from orchestrator.metrics_config import MetricsConfig
from orchestrator.metrics_server import port_problems, serving
from orchestrator.recipe import RecipeError
from orchestrator.targets import Targets, endpoint, own_address

LOOPBACK = "127.0.0.1"


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "trial")
    folder.create()
    return folder


@pytest.fixture
def taken():
    """A port of loopback that somebody listens on."""
    with socket.create_server((LOOPBACK, 0)) as other:
        yield other.getsockname()[1]


def listed(folder) -> dict[str, str]:
    """worker -> address, of targets.json; the file beside those of other runs says the same, or is gone at the end."""
    entries = json.loads(folder.targets.read_text())
    shared = json.loads(folder.shared_targets.read_text()) if folder.shared_targets.exists() else []
    assert shared == entries
    return {one["labels"]["worker"]: one["targets"][0] for one in entries}


def driver_of(folder) -> str:
    return listed(folder)["driver"]


def get(address: str, path: str) -> http.client.HTTPResponse:
    return urllib.request.urlopen(f"http://{address}{path}", timeout=30)


def test_the_driver_serves_its_metrics_and_all_targets_and_nothing_else(folder, monkeypatch):
    monkeypatch.setenv("HEADRACE_CANARY", "canary-4711")
    metrics.STEP.set(7)
    with serving(MetricsConfig(), folder, host=LOOPBACK) as targets:
        address = driver_of(folder)
        targets.show({"gen-0": "127.0.0.1:7001"})
        with get(address, "/metrics") as answer:
            text = answer.read().decode()
        assert "headrace_run_step" in {family.name for family in text_string_to_metric_families(text)}
        with get(address, "/sd") as answer:
            assert answer.headers["Content-Type"] == "application/json"
            assert json.load(answer) == json.loads(folder.targets.read_text())
        for path in ("/", "/sd/", "/metrics/", "/favicon.ico", "/../targets.json", "/environ", "/debug"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                get(address, path)
            assert caught.value.code == 404
            text += caught.value.read().decode() + str(caught.value.headers)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{address}/sd", data=b"[]", timeout=30)
        assert "canary-4711" not in text
        assert os.environ["PATH"] not in text
    with pytest.raises(OSError, match="refused"):
        get(address, "/metrics")


def test_clients_that_fall_silent_or_hang_up_leave_no_word_on_the_runs_terminal(folder, monkeypatch, capfd):
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.05)
    let_go = threading.Semaphore(0)
    shut = metrics_server._Server.shutdown_request
    monkeypatch.setattr(
        metrics_server._Server, "shutdown_request", lambda self, client: (shut(self, client), let_go.release())
    )
    with serving(MetricsConfig(), folder, host=LOOPBACK):
        host, _, port = driver_of(folder).partition(":")
        with socket.create_connection((host, int(port))):
            assert let_go.acquire(timeout=30)
        with socket.create_connection((host, int(port))) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends by a reset
        assert let_go.acquire(timeout=30)
        get(driver_of(folder), "/sd").close()
    assert capfd.readouterr().err == ""


def test_targets_follow_the_workers_and_none_are_left_at_the_end(folder):
    with serving(MetricsConfig(), folder, host=LOOPBACK) as targets:
        assert list(listed(folder)) == ["driver"]  # whatever a life that was killed had left
        targets.show({"gen-0": "127.0.0.1:7001", "rank-0": "127.0.0.1:7002"})
        assert json.loads(folder.targets.read_text())[1] == {
            "targets": ["127.0.0.1:7001"],
            "labels": {"run": "trial", "role": "gen", "worker": "gen-0"},
        }
        before = folder.targets.stat().st_ino
        targets.show({"gen-0": "127.0.0.1:7001", "rank-0": "127.0.0.1:7002"})
        assert folder.targets.stat().st_ino == before  # unchanged, and so not written
        targets.show({"gen-0": "127.0.0.1:7003"})
        assert folder.targets.stat().st_ino != before  # replaced whole
        assert listed(folder)["gen-0"] == "127.0.0.1:7003"
        assert set(listed(folder)) == {"driver", "gen-0"}
    assert listed(folder) == {}
    assert not folder.shared_targets.exists()
    assert json.loads(targets.as_json()) == []


def test_the_end_of_a_life_that_fails_leaves_no_targets_either(folder):
    with pytest.raises(RuntimeError), serving(MetricsConfig(), folder, host=LOOPBACK):
        raise RuntimeError
    assert listed(folder) == {}


def test_a_fixed_port_stays_and_is_free_again_at_once(folder):
    with socket.create_server((LOOPBACK, 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):  # an answered connection lingers in the kernel for a minute
        with serving(MetricsConfig(port=port), folder, host=LOOPBACK):
            assert driver_of(folder) == f"{LOOPBACK}:{port}"
            get(driver_of(folder), "/sd").close()


def test_a_busy_port_is_one_line_with_its_remedy(folder, taken):
    start = f"metrics.port = {taken}: another process listens on {LOOPBACK}:{taken} already; set metrics.port to"
    (line,) = port_problems(a_recipe(metrics__port=taken))
    assert line.startswith(start)
    with pytest.raises(RecipeError) as caught, serving(MetricsConfig(port=taken), folder, host=LOOPBACK):
        pass
    assert caught.value.lines == (line,)
    assert not folder.targets.exists()
    assert port_problems(a_recipe()) == []


def test_an_address_of_another_machine_is_one_line_with_its_remedy():
    (line,) = port_problems(a_recipe(metrics__bind="192.0.2.7"))
    assert line.startswith('metrics.bind = "192.0.2.7": this machine has no address 192.0.2.7; set metrics.bind to')


def test_a_host_name_is_no_address():
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 for all"):
        MetricsConfig(bind="localhost")


@pytest.mark.parametrize(
    ("bind", "host", "expected"),
    [
        (None, LOOPBACK, "127.0.0.1:9"),
        (None, "10.1.2.3", "10.1.2.3:9"),
        (None, "fd00::1", "[fd00::1]:9"),
        ("0.0.0.0", "10.1.2.3", "10.1.2.3:9"),
        ("0.0.0.0", LOOPBACK, f"{own_address()}:9"),
        ("::", "fd00::1", "[fd00::1]:9"),
        ("10.1.2.4", LOOPBACK, "10.1.2.4:9"),
    ],
)
def test_targets_carry_an_address_that_others_reach(bind, host, expected):
    assert endpoint(MetricsConfig(bind=bind), host, 9) == expected


def test_served_on_all_addresses_it_is_reached_by_the_one_that_is_listed(folder):
    with serving(MetricsConfig(bind="0.0.0.0"), folder, host=LOOPBACK):
        get(driver_of(folder), "/sd").close()
        assert driver_of(folder).startswith(own_address())


def test_a_damaged_list_of_an_earlier_life_is_replaced(folder):
    folder.targets.write_text("[{")
    Targets(folder, driver="127.0.0.1:1")
    assert list(listed(folder)) == ["driver"]
