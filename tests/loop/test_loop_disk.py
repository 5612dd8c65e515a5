"""A disk that fills up under the real command: one line says so, nothing is torn, and a resume completes the run.

The disk is full for the blobs (versions, checkpoints, batches), by a library that stands before every write.
"""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import STEPS
from loop_commands import HEADRACE, TIMEOUT_S, as_json, succeeded

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """The library, compiled."""
    library = tmp_path / "full_disk.so"
    source = Path(__file__).with_name("full_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def test_a_full_disk_ends_the_run_in_good_order_and_room_lets_it_go_on(workplace: Path, full_disk: Path) -> None:
    run, control = workplace / "runs" / "full", full_disk.with_name("control")
    command = [HEADRACE, "run", "small.yaml", "run.name=full", "training.checkpoint.keep=10"]
    environment = os.environ | {"LD_PRELOAD": str(full_disk), "FULL_DISK": str(control)}
    with subprocess.Popen(
        command, cwd=workplace, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stderr is not None
        shown = []
        for line in driver.stderr:
            shown.append(line)
            if line.startswith("step 2/"):
                control.with_suffix(".new").write_text(f"{run}/.scratch/")
                control.with_suffix(".new").replace(control)
                break
        _, rest = driver.communicate(timeout=TIMEOUT_S)
    shown += rest.splitlines(keepends=True)

    assert driver.returncode == 1, shown
    assert sum(line.startswith("headrace: ") for line in shown) == 1
    assert shown[-1].startswith(f"headrace: cannot write {run}/.scratch/")
    assert shown[-1].endswith(": No space left on device; free space there, or keep fewer versions and checkpoints\n")
    assert any(line.startswith("disk: at most ") for line in shown)
    status = as_json("status", run, cwd=workplace)
    assert (status["state"], status["restarts"]) == ("failed", {"trainer": 0, "workers": 0})
    assert f"headrace: {status['cause']}\n" == shown[-1]
    assert status["written_bytes"] > 0
    assert list(run.glob(".scratch/*/.tmp-*")) == []
    assert as_json("audit", run, cwd=workplace)["balanced"]

    control.unlink()
    succeeded("resume", run, cwd=workplace)
    status = as_json("status", run, cwd=workplace)
    assert (status["state"], status["step"], status["published"]) == ("completed", STEPS, STEPS)
    balance = as_json("audit", run, cwd=workplace)
    assert balance["balanced"]
    assert (balance["outcomes"]["trained"], balance["unsettled"]) == (STEPS * 4, 0)
