"""Runs' folders as their lives leave them, for the report: steps, a timeline, logs and a ledger with the numbers of a test."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experience_records import a_scored_group
from orchestrator_folders import a_run

from experience.ledger import Ledger
from experience.schema import BatchRecord, Controls, Settlement
from experience.wire import encode
from orchestrator.folder import RunFolder
from weightstore.blobs import FileBlobStore

BEGAN = 1_800_000_000.0
"""Unix seconds of the first life."""
CONTROLS = Controls(learning_rate_scale=1.0, kl_scale=1.0, clip_low=0.2, clip_high=0.2, temperature=1.0)


def iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


def a_step(step: int, *, epoch: int = 1, **changes: Any) -> dict[str, Any]:
    """A healthy line of metrics.jsonl: the reward rises by 0.01 a step, with a noise of 0.01."""
    line: dict[str, Any] = {
        "time": iso(BEGAN + 20 + 2 * step),
        "elapsed_s": 20.0 + 2 * step,
        "epoch": epoch,
        "step": step,
        "loss": 0.1,
        "reward_mean": 0.2 + 0.01 * step + 0.01 * math.sin(7 * step),
        "reward_components": {"good": 0.2 + 0.01 * step, "form": 1.0},
        "reward_measures": {"diversity.distinct_4": 0.9, "diversity.unique": 1.0, "diversity.equal": 0.1},
        "kl_per_response": min(4.0, 0.1 * step),
        "kl_coefficient": 0.02,
        "entropy": 1.5,
        "clip_fraction": 0.02,
        "correction_capped": 0.01,
        "correction_ess": 0.95,
        "grad_norm": 0.5,
        "tokens_trained": 1000,
        "critic": {"explained_variance": 0.5, "grad_norm": 0.7},
        "logprob_gap": 1e-6,
        "logprob_gap_sequences": 8,
        "logprob_gap_staleness": 0,
        "staleness_mean": 0.8,
        "staleness_max": 1.0,
        "response_length_mean": 30.0,
        "truncated": 0.01,
    }
    return line | changes


def a_line(
    elapsed_s: float, *, epoch: int = 1, began: float = BEGAN, step: int = 0, waits: float = 0.5
) -> dict[str, Any]:
    """Of a timeline in which the engine works all the time and the others wait for the share `waits` of theirs."""
    busy, idle = (1 - waits) * elapsed_s, waits * elapsed_s
    return {
        "time": iso(began + elapsed_s),
        "elapsed_s": elapsed_s,
        "epoch": epoch,
        "state": "running",
        "step": step,
        "published": step,
        "waited_for": {"start": 10.0, "generation": idle, "training": busy},
        "workers": {
            "driver": {"wall": {"supervise": busy, "wait_events": idle}},
            "gen-0": {"wall": {"generate": elapsed_s}},
            "score-0": {"wall": {"rewards": busy, "wait_completions": idle}},
            "rank-0": {"wall": {"train": busy, "wait_batch": idle}},
        },
    }


def a_reported_run(
    folder: Path,
    name: str = "told",
    *,
    steps: Sequence[Mapping[str, Any]] = (),
    timeline: Sequence[Mapping[str, Any]] = (),
    evaluations: Sequence[Mapping[str, Any]] = (),
    logs: Sequence[Mapping[str, Any]] = (),
    state: str = "completed",
    **status: Any,
) -> RunFolder:
    run = a_run(folder, name, state=state, steps=len(steps) or 4, step=len(steps), **status)
    for path, lines in (
        (run.metrics, steps),
        (run.timeline, timeline),
        (run.evaluations, evaluations),
        (run.logs / "driver.jsonl", logs),
    ):
        if lines:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def a_healthy_run(folder: Path, name: str = "told", *, steps: int = 40, **changes: Any) -> RunFolder:
    lines = [a_line(float(at), step=at // 2) for at in range(0, 2 * steps + 22, 2)]
    return a_reported_run(folder, name, steps=[a_step(step) for step in range(1, steps + 1)], timeline=lines, **changes)


def said(
    event: str, at_s: float, *, logger: str = "orchestrator.supervise", level: str = "warning", **facts: Any
) -> dict[str, Any]:
    """A line of a log."""
    return {"time": iso(BEGAN + at_s), "level": level, "logger": logger, "worker": "driver", "event": event, **facts}


def commit(
    run: RunFolder,
    number: int,
    *,
    outcomes: Sequence[tuple[str, str]] = (),
    of_row: Callable[[int], int] = lambda at: at,
) -> None:
    """Batch `number` of two groups, of these rows of the data; (outcome, reason) of others that ended meanwhile."""
    frames, settled = [], []
    for place in range(2):
        sequence = 2 * number + place
        scored = a_scored_group(sequence)
        prompt = replace(
            scored.group.prompt,
            run_id=run.run_id,
            prompt_id=f"words:{number}:{of_row(sequence)}",
            metadata={"prompt": f"<b>row {of_row(sequence)}</b>"},
        )
        frames.append(encode(replace(scored, group=replace(scored.group, prompt=prompt))))
        settled.append(
            Settlement(sequence=sequence, prompt_id=prompt.prompt_id, attempt=0, outcome="trained", reason="")
        )
    for place, (outcome, reason) in enumerate(outcomes):
        settled.append(
            Settlement(
                sequence=1000 + 10 * number + place,
                prompt_id=f"words:9:{place}",
                attempt=0,
                outcome=outcome,
                reason=reason,
            )
        )  # type: ignore[arg-type]
    Ledger(FileBlobStore(run.path), lineage=0).commit(
        BatchRecord(
            run_id=run.run_id,
            lineage=0,
            number=number,
            epoch=1,
            groups=tuple(frames),
            seed=0,
            controls=CONTROLS,
            settled=tuple(settled),
            open=(),
            cursor=2 * number,
            next_sequence=2 * number + 2,
            config_hash="",
        )
    )
