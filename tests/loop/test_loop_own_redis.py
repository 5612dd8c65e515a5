"""The whole loop on a Redis of the user's own, behind TLS, as a user with the documented rights: it goes away in the middle,
the run ends and says so, and once it is back a resume completes.

Two lives of the loop (some 60 s on an idle machine), since only these show that every process reaches the server with its
secrets, and that none of them outlives it.
"""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import STEPS
from loop_commands import HEADRACE, TIMEOUT_S, as_json, headrace, succeeded
from own_servers import guarded_server_with

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]  # two lives: too much for the usual limit on a busy machine

PASSWORD = "PASSWORD"


def test_a_run_on_a_server_of_the_users_own(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = workplace / "runs" / "own"
    with ExitStack() as stack:
        server, address = guarded_server_with(stack, workplace / "redis")
        other = {f"headrace:{{another}}:{name}": "kept" for name in ("meta", "issued")}
        server.admin().mset(other)
        monkeypatch.setenv("HEADRACE_REDIS_PASSWORD", PASSWORD)
        settings = {
            "url": address.url, "username": address.username, "ca_file": address.ca_file, "retry_s": 5,
            "certificate_file": address.certificate_file, "key_file": address.key_file,
        }  # fmt: skip
        overrides = [
            "run.name=own",
            "training.ranks=1",
            *(f"experience.{key}={value}" for key, value in settings.items()),
        ]
        said = []
        command = [HEADRACE, "run", "small.yaml", *overrides]
        with subprocess.Popen(command, cwd=workplace, stderr=subprocess.PIPE, text=True) as driver:
            assert driver.stderr is not None
            for line in driver.stderr:
                said.append(line)
                if line.startswith("step 3/"):
                    server.kill()
            assert driver.wait(timeout=TIMEOUT_S) == 1
        assert f"{address.url.removesuffix('/0')} did not answer for" in said[-1]
        status = as_json("status", run, cwd=workplace)
        assert (status["state"], "did not answer" in status["cause"]) == ("failed", True)
        assert not (run / "redis").exists()

        refused = headrace("resume", run, "experience.retry_s=0.5", cwd=workplace)
        assert refused.returncode == 2
        assert "start it, or name another" in refused.stderr

        server.start()
        succeeded("resume", run, cwd=workplace)
        assert as_json("status", run, cwd=workplace)["step"] == STEPS
        assert as_json("audit", run, cwd=workplace)["balanced"]
        texts = [file.read_bytes() for file in run.rglob("*") if file.is_file() and file.stat().st_size < 1_000_000]
        assert not [text for text in texts if PASSWORD.encode() in text.replace(b"REDIS_PASSWORD", b"")]

        assert {key.split(b":")[1] for key in server.admin().scan_iter()} == {b"{own}", b"{another}"}
        succeeded("runs", "rm", run, "--yes", cwd=workplace)
        assert server.admin().mget(list(other)) == [b"kept", b"kept"]
        assert not server.admin().keys("headrace:{own}:*")
