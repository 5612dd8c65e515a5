"""One run in which every kind of worker, the server and a rank die in turn, and which is then asked to stop, through the
real command.

Each stage waits for the marker of its fault, and strikes once those are alive that shall take over. The books at the end
are the run's own: `audit`, and the SHA-256 of `run --replay`. A start of the loop, two engines restarted behind one
another, the ranks once, and the ranks of the replay: some 100 s on two idle cores.
"""

import os
import signal
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from loop_commands import Life, as_json, events, living, redelivered
from slow_disk import SlowDisk

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

LEASE_S = 4.0
BATCH = 6
STOPPED = 18
"""The step after which it is asked to stop."""
SETTINGS = {
    "run.name": "workers",
    "run.steps": STOPPED + 2,
    "generation.workers": 2,
    "generation.engine.max_sequences": 128,  # 18 groups of 4 in one engine: the poison and 17 good ones
    "scoring.workers": 2,
    "pacing.batch_groups": BATCH,
    "pacing.max_staleness": 3,
    "experience.lease_s": LEASE_S,
    "supervise.heartbeat_s": 60,  # longer than a worker is stopped here
    "training.checkpoint.keep": 10,
    "training.checkpoint.interval_steps": 4,
}
POISON = 5
FAULTS = (
    f"gen.start@{POISON}:self:always",
    "score.group@40:pause",
    "gen.group@66:pause",
    "batch.commit.before@12:pause",
    "batch.acknowledged@12:pause",
    "rank.step@14:self",
    "gen.group@97:pause",
    f"batch.commit.before@{STOPPED + 1}:pause",
)


def test_each_role_dies_in_one_run_and_the_books_balance(workplace: Path, tmp_path: Path) -> None:
    run, disk = workplace / "runs" / "workers", SlowDisk(tmp_path)
    settings = [f"{key}={value}" for key, value in SETTINGS.items()]
    arguments = ("run", "small.yaml", *settings)
    with living(*arguments, run=run, faults=",".join(FAULTS), environment=disk.environment, cwd=workplace) as life:
        a_scorer_hangs_and_is_killed(life)
        a_generation_worker_is_killed(life)
        the_server_is_killed_while_its_disk_is_slow(life, disk)
        a_rank_kills_itself_inside_a_step(life)
        a_stopped_worker_wakes_up_too_late(life)
        it_is_asked_to_stop(life)
    assert as_json("status", run, cwd=workplace)["restarts"]["trainer"] == 1
    one_prompt_of_eighteen_was_quarantined(run)
    balance = as_json("audit", run, cwd=workplace)
    assert balance["balanced"]
    assert balance["outcomes"] == {"trained": STOPPED * BATCH, "quarantined": 1}  # nothing lost, dropped or doubled
    again = as_json("run", "--replay", run, cwd=workplace)
    assert (again["from_step"], again["to_step"]) == (0, STOPPED)
    assert again["digest"] == again["expected"]


def a_scorer_hangs_and_is_killed(life: Life) -> None:
    """While it hangs its lease is renewed, and the driver says who is waited for; then the other takes over."""
    pid = life.reached("score.group@40")
    life.until("the diagnosis", lambda: life.status()["waits"].startswith("scoring holds"))
    life.until("both scorers", lambda: life.all_serve("score"))
    os.kill(pid, signal.SIGKILL)
    life.until("redelivery", lambda: redelivered(life.run, "score-*", "completions", 40) is not None)
    assert LEASE_S <= redelivered(life.run, "score-*", "completions", 40) < LEASE_S + 1


def a_generation_worker_is_killed(life: Life) -> None:
    pid = life.reached("gen.group@66")
    life.until("both engines", lambda: life.all_serve("gen"))
    os.kill(pid, signal.SIGKILL)
    life.until("redelivery", lambda: redelivered(life.run, "gen-*", "prompts", 66) is not None)
    assert LEASE_S <= redelivered(life.run, "gen-*", "prompts", 66) < LEASE_S + 1


def the_server_is_killed_while_its_disk_is_slow(life: Life, disk: SlowDisk) -> None:
    """Right after it has acknowledged that the groups of a batch are gone: forgetting it would train them twice."""
    life.reached("batch.commit.before@12")
    disk.slow()
    life.go_on("batch.commit.before@12")
    life.reached("batch.acknowledged@12")
    assert disk.felt
    pid = life.server_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    disk.mend()
    life.go_on("batch.acknowledged@12")
    life.until("another server", lambda: life.server_pid() not in (None, pid))


def a_rank_kills_itself_inside_a_step(life: Life) -> None:
    life.reached("rank.step@14")
    life.until("new ranks", lambda: life.status()["restarts"]["trainer"] == 1)


def a_stopped_worker_wakes_up_too_late(life: Life) -> None:
    """Its lease has gone to the other by then: it finds nothing to acknowledge, and adds nothing."""
    pid = life.reached("gen.group@97")
    life.until("both engines", lambda: life.all_serve("gen"))
    name = life.worker_of(pid)
    os.kill(pid, signal.SIGSTOP)
    life.go_on("gen.group@97")
    other = {"gen-0": "gen-1", "gen-1": "gen-0"}[name]
    life.until("redelivery", lambda: redelivered(life.run, other, "prompts", 97) is not None)
    os.kill(pid, signal.SIGCONT)
    given_up = life.until(
        "its refusal", lambda: [e for e in events(life.run, name, "group given up") if e["group"] == 97]
    )
    assert given_up[0]["result"] == "lost"


def it_is_asked_to_stop(life: Life) -> None:
    """Ctrl-C: what is in hand is finished and saved, nothing stays behind. All servers listened on loopback alone.

    The next batch is held up, so that the run does not complete before it is asked.
    """
    life.reached(f"batch.commit.before@{STOPPED + 1}")
    life.until("the last step", lambda: life.status()["step"] == STOPPED)
    addresses = listening(psutil.Process(life.process.pid))
    life.process.send_signal(signal.SIGINT)
    code, out, err = life.ends()
    assert code == 0, err
    assert "stopped at step" in out
    assert addresses
    assert [address for address in addresses if not ip_address(address.removeprefix("::ffff:")).is_loopback] == []
    status = life.status()
    assert (status["state"], status["step"], status["published"], status["saved"]) == ("stopped", *3 * [STOPPED])
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(life.run) in command]


def listening(driver: psutil.Process) -> set[str]:
    """Addresses on which the driver and all below it, Ray and every worker, take connections."""
    processes = [driver, *driver.children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections(kind="tcp")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


def one_prompt_of_eighteen_was_quarantined(run: Path) -> None:
    """It killed its worker among the others, then twice alone; the others, suspects as well, went through alone."""
    struck = (run / "faults" / f"gen.start@{POISON}").read_text().split()
    assert len(set(struck)) == len(struck) == 3
    suspects = {
        sequence
        for line in events(run, "gen-*", "entries redelivered")
        if line["stage"] == "prompts"
        for sequence in line["groups"]
    }
    assert set(range(18)) <= suspects
    (quarantined,) = events(run, "gen-*", "group_quarantined")
    assert quarantined["group"] == POISON
