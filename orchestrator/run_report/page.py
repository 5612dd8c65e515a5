"""What came of a run, as one HTML page: opens anywhere, fetches nothing, runs no script."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from orchestrator.run_report import lanes, palette
from orchestrator.run_report.advice import advice
from orchestrator.run_report.curves import curves, throughput
from orchestrator.run_report.events import Event
from orchestrator.run_report.lanes import Mark, duration
from orchestrator.run_report.look import STYLE
from orchestrator.run_report.record import RunRecord
from orchestrator.run_report.samples import Sample, answers_of, paired
from orchestrator.run_report.time_use import TimeUse, time_use
from orchestrator.run_report.verdict import Verdict

SHOWN_EVENTS = 60
SHOWN_ANSWERS = 10
MOST_MARKS = 40
"""Signs on the timeline; of more only the table tells."""
BEFORE_THE_RUN = ("sft.", "reward.", "run.root", "run.name")
"""Settings that are not about what the run did."""

_KINDS = {"restart": "fell", "fault": "fault", "refused": "fault", "quarantine": "fault"}


def render(run: RunRecord, figures: Mapping[str, float], found: Verdict) -> str:
    use = time_use(run.timeline)
    return document(
        f"Run {run.name}",
        [
            f"<h1>Run {escape(run.name)} <span class='state {escape(run.state)}'>{escape(run.state)}</span></h1>",
            f'<p class="soft">{escape(about(run, figures))}</p>',
            judgement(found),
            *_problems(run),
            tiles(run, figures),
            *where_time_went(run, use, begun=figures.get("lives", 1.0) + figures.get("trainer_restarts", 0.0)),
            "<h2>Curves</h2>",
            *curve_section([run]),
            *_samples(run),
            *_events(run),
            *_settled(run),
            *_settings(run),
            *_packages(run),
        ],
    )


def document(title: str, parts: Sequence[str]) -> str:
    """The frame that a run's page and a comparison share."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{palette.style()}</style></head><body>"
    )
    body = "\n".join(part for part in [palette.hatches(), *parts] if part)
    whole = f"{head}\n{body}\n</body></html>\n"
    return whole.encode("utf-8", errors="replace").decode("utf-8")  # an answer may hold half of a surrogate pair


def about(run: RunRecord, figures: Mapping[str, float]) -> str:
    algorithm = str(run.settings.get("training.algorithm.kind", "")).upper()
    parts = [f"{figures['steps']:.0f} of {run.planned} steps" if run.planned else f"{figures['steps']:.0f} steps"]
    if algorithm:
        parts.append(algorithm)
    if run.began:
        parts.append(f"begun {datetime.fromtimestamp(run.began[0], UTC):%Y-%m-%d %H:%M} UTC")
    if "wall_s" in figures:
        parts.append(f"{duration(figures['wall_s'])} in {_count(figures.get('lives', 1.0), 'life', 'lives')}")
    return ", ".join(parts)


def judgement(found: Verdict) -> str:
    """The headline, and below it each reason that it has not told already."""
    told = next((reason for reason in found.reasons if found.headline.endswith(reason.text)), None)
    remedy = f" <em>{escape(told.remedy)}</em>" if told and told.remedy else ""
    reasons = "".join(
        f'<li class="{reason.grade}"><b>{escape(reason.subject)}</b>'
        f"<span>{escape(reason.text)} <em>{escape(reason.remedy)}</em></span></li>"
        for reason in found.reasons
        if reason is not told
    )
    return f'<div class="verdict {found.grade}"><p>{escape(found.headline)}{remedy}</p><ul>{reasons}</ul></div>'


def _problems(run: RunRecord) -> Iterator[str]:
    if run.problems:
        items = "".join(f"<li>{escape(line)}</li>" for line in run.problems)
        yield f'<div class="problems"><b>Not all of this run could be read</b><ul>{items}</ul></div>'


def tiles(run: RunRecord, figures: Mapping[str, float]) -> str:
    shown: dict[str, str] = {}
    if "reward_first" in figures:
        shown["reward, first to last steps"] = f"{figures['reward_first']:.3g} → {figures['reward_last']:.3g}"
    if "win_rate" in figures:
        shown["win rate, held-out prompts"] = f"{figures['win_rate']:.1%}"
    if "kl_last" in figures:
        shown["KL, nats a response"] = f"{figures['kl_last']:.2f}"
    if "length_first" in figures:
        shown["tokens an answer"] = f"{figures['length_first']:.0f} → {figures['length_last']:.0f}"
    if "distinct_4_last" in figures:
        shown["distinct 4-grams"] = f"{figures['distinct_4_first']:.0%} → {figures['distinct_4_last']:.0%}"
    if "tokens_per_s" in figures:
        shown["tokens trained a second"] = f"{figures['tokens_per_s']:,.0f}"
    if "steps_per_hour" in figures:
        shown["steps an hour"] = f"{figures['steps_per_hour']:,.0f}"
    restarts = figures.get("trainer_restarts", 0.0) + figures.get("worker_restarts", 0.0)
    if restarts:
        shown["restarts of processes"] = f"{restarts:.0f}"
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in shown.items()
    )
    return f'<div class="tiles">{cells}</div>' if cells else ""


def where_time_went(run: RunRecord, use: TimeUse, *, begun: float) -> Iterator[str]:
    yield "<h2>Where the time went</h2>"
    if not use.slices:
        yield '<p class="soft">The run has kept no timeline.</p>'
        return
    for line in advice(use.waited, run.settings, begun=begun, failed=run.state == "failed"):
        yield f"<p>{escape(line)}</p>"
    yield lanes.bars(use)
    if use.wall:
        yield '<h2>Who worked when</h2><p class="soft">A lane a worker: solid is work, hatched is waiting in the colour of what it waits for. '
        yield "Ticks above are versions published; red signs are faults, amber ones restarts.</p>"
        yield lanes.lanes(use, marks_of(run, use))


def marks_of(run: RunRecord, use: TimeUse) -> list[Mark]:
    found = [
        Mark(
            at_s=use.at(event.time_s),
            kind=_KINDS[event.kind],
            text=f"{event.worker}: {event.what} {event.detail}".strip(),
        )
        for event in run.events
        if event.kind in _KINDS
    ]
    return found[:MOST_MARKS]


def curve_section(runs: Sequence[RunRecord]) -> Iterator[str]:
    drawn = [*curves(runs), throughput(runs)]
    if any(drawn):
        yield f'<div class="charts">{"".join(drawn)}</div>'
    else:
        yield '<p class="soft">No step was trained.</p>'


def _samples(run: RunRecord) -> Iterator[str]:
    judged = answers_of(run.judgement, run.name)
    if judged:
        yield "<h2>Answers to held-out prompts, before and after</h2>"
        rows = "".join(
            f"<tr><td>{escape(prompt)}</td>{_judged_cell(before)}{_judged_cell(after)}</tr>"
            for prompt, before, after in judged[:: max(1, len(judged) // SHOWN_ANSWERS)][:SHOWN_ANSWERS]
        )
        yield f'<table class="samples"><tr><th>prompt</th><th>the model that it began with</th><th>this run</th></tr>{rows}</table>'
    if run.early or run.late:
        yield "<h2>Answers in training, early and late</h2>"
        yield f'<table class="samples"><tr><th>{_step_of(run.early)}</th><th>{_step_of(run.late)}</th></tr>'
        early = run.early if not run.late or run.early[:1] != run.late[:1] else ()
        for first, second in paired(early, run.late):
            yield f"<tr>{_sample_cell(first)}{_sample_cell(second)}</tr>"
        yield "</table>"


def _step_of(samples: Sequence[Sample]) -> str:
    return f"step {samples[0].step}" if samples else ""


def _sample_cell(sample: Sample | None) -> str:
    if sample is None:
        return "<td></td>"
    ended = " …" * sample.cut
    return (
        f'<td><span class="prompt">{escape(sample.prompt[-600:])}</span>\n{escape(sample.answer)}{ended}'
        f'<div class="score">reward {sample.reward:.3g}, {_count(sample.tokens, "token", "tokens")}</div></td>'
    )


def _judged_cell(answer: Mapping[str, Any]) -> str:
    facts = [
        f"{name} {value:.3g}"
        for name in ("score", "reward", "kl")
        if isinstance(value := answer.get(name), int | float)
    ]
    ended = " …" * (answer.get("finish_reason") == "length")
    return f'<td>{escape(str(answer.get("text", "")))}{ended}<div class="score">{escape(", ".join(facts))}</div></td>'


def _events(run: RunRecord) -> Iterator[str]:
    if not run.events:
        return
    yield '<h2>Events</h2><div class="scroll"><table class="events"><tr><th>time, UTC</th><th></th><th>who</th><th>what</th><th>why</th></tr>'
    for event in _most_telling(run.events):
        often = f" <b>× {event.count}</b>, until {_clock(event.last_s)}" if event.count > 1 else ""
        yield (
            f'<tr><td class="number">{_clock(event.time_s)}</td><td><i class="dot {event.kind}"></i>{event.kind}</td><td class="who">{escape(event.worker)}</td>'
            f"<td>{escape(event.what)}{often}</td><td>{escape(event.detail)}</td></tr>"
        )
    yield "</table></div>"
    if len(run.events) > SHOWN_EVENTS:
        yield f'<p class="soft">{len(run.events) - SHOWN_EVENTS} more in the logs: `headrace logs {escape(run.name)}`.</p>'


def _most_telling(events: Sequence[Event]) -> list[Event]:
    """By time; of too many, warnings are the first to go."""
    ranked = sorted(events, key=lambda event: (event.kind == "warning", -event.time_s))
    return sorted(ranked[:SHOWN_EVENTS], key=lambda event: event.time_s)


def _settled(run: RunRecord) -> Iterator[str]:
    settled = run.settled
    if settled is None:
        return
    yield f'<h2>How groups ended</h2><p class="soft">Of batches {settled.first} to {settled.last} of the ledger.</p><div class="scroll"><table>'
    yield "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{count:,}</td><td></td></tr>'
        for name, count in sorted(settled.outcomes.items())
    )
    for (outcome, reason), count in sorted(settled.reasons.items()):
        yield f'<tr><td class="soft">of these {escape(outcome)}</td><td class="number">{count:,}</td><td>{escape(reason)}</td></tr>'
    yield "</table></div>"


def _settings(run: RunRecord) -> Iterator[str]:
    shown = {key: pair for key, pair in run.changed.items() if not key.startswith(BEFORE_THE_RUN)}
    if not shown:
        return
    yield '<h2>Settings other than the defaults</h2><div class="scroll"><table><tr><th>setting</th><th>here</th><th>default</th></tr>'
    for key, (default, value) in shown.items():
        yield f'<tr><td><code>{escape(key)}</code></td><td>{setting(value)}</td><td class="soft">{setting(default)}</td></tr>'
    yield "</table></div>"


def setting(value: Any) -> str:
    """As a recipe writes it; of a path the last part."""
    if isinstance(value, str) and value.startswith("/"):
        return escape(f"…/{value.rstrip('/').rpartition('/')[2]}")
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape(value if isinstance(value, str) else json.dumps(value, default=str))


def _packages(run: RunRecord) -> Iterator[str]:
    if run.packages:
        told = ", ".join(f"{name} {version}" for name, version in run.packages.items())
        yield f'<h2>Packages</h2><p class="soft">{escape(told)}</p>'


def _clock(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%m-%d %H:%M:%S}"


def _count(number: float, one: str, many: str) -> str:
    return f"{number:.0f} {one if number == 1 else many}"
