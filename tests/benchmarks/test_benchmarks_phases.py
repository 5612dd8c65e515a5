"""The account of a step of PPO: parts that add up, who computes meanwhile, the page's tables, valid recipes. 2 s."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import cpu_clocks, ppo_phases, step_account
from benchmarks.measured_run import Measured, Worker
from benchmarks.phase_tables import Case, Result, trainer_lines
from benchmarks.ppo_phases import GRPO, OVERLAPPED, PPO
from benchmarks.step_account import Account
from orchestrator.recipe import load

LEARNER = {"unpack": 0.1, "proximal": 0.2, "values": 0.2, "actor": 0.5, "critic": 0.4}


def write_log(run: Path, worker: str, *lines: tuple[float, dict[str, object]]) -> None:
    """lines: (seconds since 1970, fields)."""
    (run / "logs").mkdir(parents=True, exist_ok=True)
    times = [datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") for at, _ in lines]
    rows = [{"time": time, "worker": worker, **fields} for time, (_, fields) in zip(times, lines, strict=True)]
    (run / "logs" / f"{worker}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(run: Path) -> None:
    """Three steps of 2 s: 1.5 s of learning, 1.4 of them in phases, after 0.1 s of copying weights, 0.3 s of waiting for the
    batch and 0.1 s of calls; before the third, 0.1 s of the wait are a checkpoint's copy.
    """
    ends = {step: 100.0 + 2.0 * step for step in (1, 2, 3)}
    rank = [(end, {"event": "step trained", "step": step, "seconds": 1.5}) for step, end in ends.items()]
    rank += [(end - 1.6, {"event": "batch committed", "step": step}) for step, end in ends.items()]
    rank += [(ends[2] + 0.2, {"event": "checkpoint copied", "step": 2, "seconds": 0.1})]
    rank += [(ends[3] + 0.2, {"event": "checkpoint copied", "step": 3, "seconds": 0.4})]  # before the fourth
    rank += [(ends[2] + 0.9, {"event": "checkpoint written", "step": 2, "seconds": 0.7})]
    write_log(run, "rank-0", *rank)
    version = {"event": "published", "write_s": 0.04}
    copies = {1: 0.1, 2: 0.1, 3: 0.5}  # the last before the fourth
    write_log(run, "driver", *((ends[s] + 0.2, version | {"step": s, "gather_s": copies[s]}) for s in ends))
    write_log(
        run, "gen-0", *((end + 0.25, {"event": "version served", "version": f"0/1/{s}"}) for s, end in ends.items())
    )
    reports = [{"step": step, "seconds": LEARNER} for step in ends]
    (run / "metrics.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))


def test_the_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    write_run(tmp_path)
    account = step_account.read(tmp_path, first=2, last=3)
    assert account.step_s == pytest.approx(2.0)
    assert account.learner == pytest.approx(LEARNER)
    assert account.between_s == pytest.approx(0.1)
    copies = (account.publish_s, account.checkpoint_s)
    assert copies == pytest.approx((0.1, 0.05), abs=2e-3)  # a checkpoint before one of the two steps
    assert (account.wait_s, account.calls_s) == pytest.approx((0.25, 0.1), abs=2e-3)  # 0.3 and 0.2
    assert account.written_s == pytest.approx({"version": 0.04, "checkpoint": 0.7})
    assert account.served_after_s == pytest.approx(0.25, abs=2e-3)
    assert account.span == pytest.approx((102.0, 106.0), abs=2e-3)
    *parts, whole = [float(seconds) for _, seconds, _ in trainer_lines(account)]
    assert sum(parts) == pytest.approx(whole, abs=5e-3)  # each of them rounded


def test_a_batch_that_was_there_is_not_waited_for(tmp_path: Path) -> None:
    """Overlapped: committed while the step before it trained; the rest of the gap are calls."""
    write_run(tmp_path)
    log = step_account.records.read(tmp_path)
    early = [{**line, "at": line["at"] - 1.0} if line["event"] == "batch committed" else line for line in log]
    reports = [{"step": step, "seconds": LEARNER} for step in (1, 2, 3)]
    account = step_account.account(early, reports, first=2, last=3)
    assert account.wait_s == 0
    assert account.calls_s == pytest.approx(0.35, abs=2e-3)


def test_only_steps_that_follow_a_trained_one_are_counted(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(ValueError, match="steps 1 to 3 cannot be counted"):
        step_account.read(tmp_path, first=1, last=3)
    with pytest.raises(ValueError, match="step 4 was not trained; the last one was 3"):
        step_account.read(tmp_path, first=2, last=4)


def test_cpu_seconds_are_told_apart_by_what_the_ranks_do() -> None:
    """Looks every second; ranks train from 1.5 to 3: of gen-0's 1.0 s between 1 and 2 half, of its 0.2 s from 2 to 3 all."""
    clocks = [(0.0, 0.0, 0.0), (1.0, 5.0, 0.0), (2.0, 6.0, 0.0), (3.0, 6.2, 0.0), (4.0, 7.0, 0.0)]
    looks = [(at, {"gen-0": gen, "score-0": score}) for at, gen, score in clocks]
    shares = cpu_clocks.inside(looks, [(1.5, 3.0)], span=(1.0, 4.0))
    assert shares == pytest.approx({"gen-0": 0.7 / 2.0})  # score-0 did nothing


def test_a_look_passes_over_what_has_not_started_and_what_is_gone(tmp_path: Path) -> None:
    clocks = cpu_clocks.CpuClocks(run=tmp_path)
    clocks.look()
    workers = {"gen-0": {"pid": 2**22 + 1}, "score-0": {"state": "starting"}}  # beyond the kernel's largest pid
    (tmp_path / "status.json").write_text(json.dumps({"workers": workers}))
    clocks.look()
    assert [clock for _, clock in clocks.looks] == [{}, {}]


def result(case: Case, *, step_s: float, wait_s: float, learner: dict[str, float]) -> Result:
    """Ten steps; sampling 3 s and scoring 1 s of them, 0.3 s the reward model and 0.5 s the reference."""
    training = tuple((step_s * step + wait_s, step_s * (step + 1)) for step in range(10))
    gen = Worker(name="gen-0", cpu_s=4.0, work_cpu_s=3.0, phases={"generation": 3.0})
    passes = {"whole passes": 1.0, "reward model": 0.3, "reference": 0.5}
    score = Worker(name="score-0", cpu_s=1.0, work_cpu_s=1.0, phases=passes)
    rank = Worker(name="rank-0", cpu_s=10 * sum(learner.values()), work_cpu_s=0.0, phases={})
    return Result(
        case=case,
        account=Account(
            step_s=step_s,
            wait_s=wait_s,
            publish_s=0.0,
            checkpoint_s=0.0,
            calls_s=0.0,
            learner=learner,
            between_s=step_s - wait_s - sum(learner.values()),
            served_after_s=0.2,
            written_s={"version": 0.05, "checkpoint": float("nan")},
            training=training,
        ),
        measured=Measured(
            start_s=20.0,
            wall_s=10 * step_s,
            steps=10,
            tokens=20_000,
            mean_length=16.0,
            workers=(gen, score, rank),
            machine_busy_s=20.0,
            cores=2,
        ),
        while_training={"gen-0": 0.25, "score-0": 0.5, "rank-0": 0.99},
    )


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_section_says_where_the_time_goes() -> None:
    """In line 2 s = 0.5 of waiting + 1.4 in phases + 0.1; GRPO the same without the critic's 0.6."""
    without = {name: seconds for name, seconds in LEARNER.items() if name not in ("values", "critic")}
    ppo = result(PPO, step_s=2.0, wait_s=0.5, learner=LEARNER)
    overlapped = result(OVERLAPPED, step_s=1.5, wait_s=0.0, learner=LEARNER)
    grpo = result(GRPO, step_s=1.25, wait_s=0.4, learner=without)
    text = ppo_phases.written(ppo, overlapped, grpo)
    assert cells(text, "critic updates") == ["0.400", "20.0%", "0.400", "26.7%", "–", ""]
    assert cells(text, "**step**")[::2] == ["2.000", "1.500", "1.250"]
    assert cells(text, "*generation*") == ["0.300", "15.0%", "0.300", "20.0%", "0.300", "24.0%"]
    assert cells(text, "*records of the scorer*")[0] == "0.020"  # (1 − 0.3 − 0.5) / 10
    assert cells(text, "gen-0") == ["0.400", "25%", "0.400", "25%", "0.400", "25%"]
    assert cells(text, "**all**")[::2] == ["1.900", "1.900", "1.300"]  # 0.4 + 0.1 + the phases
    assert "2.00 s**: 25% are the policy's updates, 20% the critic's, 20% the passes before them, 25% the wait" in text
    assert "1.50 s (1.33× as fast)** and waits 0%: 25% of generation, 50% of scoring" in text
    assert cells(text, "*checkpoint: writing, each*") == ["–", ""] * 3
    assert "costs** 0.60 s a step, 30% of it: PPO takes 1.60× as long a step as GRPO" in text
    assert "1.75× the ranks' CPU a token" in text  # 1.4 / 0.8


@pytest.mark.parametrize("case", [PPO, OVERLAPPED, GRPO], ids=str)
def test_the_recipe_is_valid(case: Case, tmp_path: Path) -> None:
    """As many answers a step, and as many updates, whatever the algorithm."""
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(ppo_phases.recipe(case, tmp_path, tmp_path)))
    loaded = load(path)
    assert loaded.training.algorithm.kind == case.kind
    assert loaded.pacing.batch_groups * loaded.generation.group_size == ppo_phases.ANSWERS
    assert loaded.training.mini_batches_in_force(loaded.pacing.batch_groups) == 4
    assert loaded.run.root == str(tmp_path)


def test_the_page_has_the_section() -> None:
    page = Path("docs/benchmarks.md").read_text(encoding="utf-8")
    assert page.count("<!-- begin ppo_phases -->\n") == page.count("<!-- end ppo_phases -->") == 1
