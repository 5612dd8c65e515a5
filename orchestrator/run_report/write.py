"""Writes a run's report: at the end of each of its lives, and whenever somebody asks."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.console import Console
from orchestrator.folder import RunFolder

if TYPE_CHECKING:
    from orchestrator.run_report.record import RunRecord
    from orchestrator.run_report.verdict import Verdict

log = logging.getLogger(__name__)


def write_report(folder: RunFolder, out: Path) -> dict[str, Any]:
    """The page at `out`; its figures and verdict. OSError: it cannot be written."""
    from orchestrator.run_report.page import render

    run, figures, found = _judged(folder)
    folder.write(out, render(run, figures, found))
    return _content(run, figures, found) | {"report": str(out)}


def write_comparison(first: RunFolder, second: RunFolder, out: Path) -> dict[str, Any]:
    """The page at `out` of both; their figures, and which was better. OSError: it cannot be written."""
    from orchestrator.run_report.comparison import HOW, compare, same
    from orchestrator.run_report.comparison_page import render

    judged = [_judged(first), _judged(second)]
    runs, figures, verdicts = zip(*judged, strict=True)
    settings = [run.settings for run in runs]
    found = compare(
        *figures,
        names=(runs[0].name, runs[1].name),
        grades=(verdicts[0].grade, verdicts[1].grade),
        same_reward=same("scoring.rewards", *settings),
        same_judge=same("evaluation", *settings, apart_from=HOW) and same("model", *settings),
    )
    first.write(out, render(runs, figures, verdicts, found))
    return {
        "better": found.better,
        "headline": found.headline,
        "sentences": list(found.sentences),
        "runs": [_content(*one) for one in judged],
        "report": str(out),
    }


def _judged(folder: RunFolder) -> "tuple[RunRecord, dict[str, float], Verdict]":
    from orchestrator.run_report.figures import figures_of
    from orchestrator.run_report.record import read_run
    from orchestrator.run_report.verdict import verdict

    run = read_run(folder)
    figures = figures_of(run)
    return run, figures, verdict(figures, state=run.state, cause=run.cause)


def _content(run: "RunRecord", figures: Mapping[str, float], found: "Verdict") -> dict[str, Any]:
    """For `--json`."""
    from orchestrator.run_report.advice import bottleneck_of
    from orchestrator.run_report.time_use import time_use

    use = time_use(run.timeline)
    named = bottleneck_of(use.waited)
    return {
        "run": run.name,
        "state": run.state,
        "verdict": found.grade,
        "headline": found.headline,
        "reasons": [asdict(reason) for reason in found.reasons],
        "figures": dict(figures),
        "bottleneck": None if named is None else {"stage": named[0], "share": named[1]},
        "waited_for_s": dict(use.waited),
        "wall_s": {worker: dict(phases) for worker, phases in use.wall.items()},
        "problems": list(run.problems),
    }


def write_at_end(folder: RunFolder, console: Console) -> None:
    """Of a life: what goes wrong here is a warning, and the run ends as it would have."""
    began = time.monotonic()
    try:
        write_report(folder, folder.report)
    except Exception as error:  # a page that cannot be drawn is no reason for a run to fail
        log.warning("report not written", extra={"error": f"{type(error).__name__}: {error}"})
        console.say(f"warning: {folder.report} is not written: {error}; `headrace report {folder.quoted}` tries again")
        return
    log.info("report written", extra={"wall_s": round(time.monotonic() - began, 3)})
    console.say(f"report: {folder.report}")
