"""The meter of what a run tells: nested calls count once, an account is of its window, and all that it is put on exists."""

import json
import time
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import meter, metrics


def test_nested_calls_count_once_and_for_themselves() -> None:
    found = meter.Meter()
    inner = found.metered(lambda: time.sleep(0.02), "logs")

    def around() -> None:
        time.sleep(0.01)
        inner()
        inner()

    began = time.perf_counter()
    found.metered(around, "status")()
    whole = time.perf_counter() - began
    spent = found.spent()
    assert spent["logs"][1] >= 0.04
    assert spent["status"][1] >= 0.01
    assert spent["logs"][1] + spent["status"][1] == pytest.approx(whole, abs=0.005)
    assert spent["logs"][0] < 0.02, "to sleep takes no CPU"
    assert spent["metrics"] == [0.0, 0.0, 0.0]


def test_an_error_ends_the_account_of_its_call() -> None:
    found = meter.Meter()

    def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        found.metered(fails, "logs")()
    before = found.spent()["logs"][1]
    time.sleep(0.02)
    found.metered(lambda: None, "metrics")()
    assert found.spent()["logs"][1] == before


@pytest.mark.parametrize("kind", ["", "driver", "rank", "score"])
def test_what_it_is_put_on_exists(kind: str) -> None:
    for what, module, call in meter.CALLS[kind]:
        owner = import_module(module)
        for name in call.split("."):
            owner = getattr(owner, name)
        assert callable(owner), call
        assert what in meter.KINDS


def test_an_account_is_of_its_window_and_its_shares_add_up(tmp_path: Path) -> None:
    path = tmp_path / "rank-0.jsonl"
    zero = {kind: [0.0, 0.0, 0] for kind in meter.KINDS}
    lines = [
        {
            "at": at,
            "cpu_s": 2.0 * at,
            "spent": zero | {"logs": [0.1 * at, 0.2 * at, at], "scrapes": [0.1 * at, 9.0, at]},
        }
        for at in range(10)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    one = metrics.account(path, (2.5, 7.5))
    assert (one.process, one.wall_s, one.cpu_s) == ("rank-0", 4.0, 8.0)  # from 3 to 7
    assert one.cpu_of() == pytest.approx(0.8)  # 4 * (0.1 + 0.1)
    assert one.wall_of() == pytest.approx(0.8)  # 4 * 0.2, without scrapes
    text = metrics.written([(metrics.CASES[0], [one])])
    assert "10.00% of the loop's CPU" in text
    assert "20.00% of the wall time" in text
    with pytest.raises(ValueError, match="1 lines"):
        metrics.account(path, (8.5, 9.5))
