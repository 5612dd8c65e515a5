"""Two runs on one page: curves overlaid, verdicts beside, and what differs."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from orchestrator.run_report import lanes
from orchestrator.run_report.advice import advice
from orchestrator.run_report.comparison import Comparison, differing
from orchestrator.run_report.page import BEFORE_THE_RUN, about, curve_section, document, judgement, setting
from orchestrator.run_report.palette import SERIES
from orchestrator.run_report.record import RunRecord
from orchestrator.run_report.time_use import time_use
from orchestrator.run_report.verdict import Verdict

_ROWS: Sequence[tuple[str, str, str]] = (
    ("reward at the beginning", "reward_first", ".3g"),
    ("reward at the end", "reward_last", ".3g"),
    ("rise", "reward_rise", "+.3g"),
    ("its standard error", "reward_noise", ".2g"),
    ("win rate on held-out prompts", "win_rate", ".1%"),
    ("  from", "win_rate_low", ".1%"),
    ("  to", "win_rate_high", ".1%"),
    ("KL at the end, nats a response", "kl_last", ".2f"),
    ("tokens an answer at the end", "length_last", ".1f"),
    ("cut off at the end", "truncated_last", ".1%"),
    ("distinct 4-grams at the end", "distinct_4_last", ".1%"),
    ("unique answers at the end", "unique_last", ".1%"),
    ("entropy at the end, nats a token", "entropy_last", ".2f"),
    ("steps", "steps", ".0f"),
    ("tokens trained a second", "tokens_per_s", ",.0f"),
    ("steps an hour", "steps_per_hour", ",.0f"),
    ("wall time, s", "wall_s", ",.0f"),
    ("restarts of ranks", "trainer_restarts", ".0f"),
    ("restarts of workers", "worker_restarts", ".0f"),
    ("groups not trained", "untrained_share", ".1%"),
)


def render(
    runs: Sequence[RunRecord], figures: Sequence[Mapping[str, float]], verdicts: Sequence[Verdict], found: Comparison
) -> str:
    names = [run.name for run in runs]
    kind = "doubtful" if found.better == "neither" else "good"
    sentences = "".join(f"<p>{escape(line)}</p>" for line in found.sentences)
    return document(
        f"{names[0]} against {names[1]}",
        [
            f"<h1>{_name(0, names[0])} against {_name(1, names[1])}</h1>",
            f'<div class="verdict {kind}"><p>{escape(found.headline)}</p></div>{sentences}',
            '<div class="pair">',
            *(
                f'<div><h2>{_name(n, run.name)}</h2><p class="soft">{escape(about(run, one))}</p>{judgement(said)}</div>'
                for n, (run, one, said) in enumerate(zip(runs, figures, verdicts, strict=True))
            ),
            "</div>",
            "<h2>Curves</h2>",
            *curve_section(runs),
            *_figures(names, figures),
            *_settings(runs),
            *_time(runs),
        ],
    )


def _name(number: int, name: str) -> str:
    return f'<i class="key" style="background:{SERIES[number]}"></i> {escape(name)}'


def _figures(names: Sequence[str], figures: Sequence[Mapping[str, float]]) -> Iterator[str]:
    yield '<h2>Figures</h2><div class="scroll"><table><tr><th></th>'
    yield "".join(f'<th class="number">{escape(name)}</th>' for name in names) + "</tr>"
    for label, key, form in _ROWS:
        if any(key in one for one in figures):
            cells = "".join(f'<td class="number">{f"{one[key]:{form}}" if key in one else ""}</td>' for one in figures)
            yield f"<tr><td>{escape(label).replace('  ', '&emsp;')}</td>{cells}</tr>"
    yield "</table></div>"


def _settings(runs: Sequence[RunRecord]) -> Iterator[str]:
    found = differing(runs[0].settings, runs[1].settings)
    shown = {key: pair for key, pair in found.items() if not key.startswith(BEFORE_THE_RUN)}
    yield "<h2>Settings that differ</h2>"
    if not shown:
        yield '<p class="soft">None that bears on training.</p>'
        return
    heads = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    yield f'<div class="scroll"><table><tr><th>setting</th>{heads}</tr>'
    for key, pair in shown.items():
        yield f"<tr><td><code>{escape(key)}</code></td>{''.join(f'<td>{setting(value)}</td>' for value in pair)}</tr>"
    yield "</table></div>"


def _time(runs: Sequence[RunRecord]) -> Iterator[str]:
    yield "<h2>Where the time went</h2>"
    for n, run in enumerate(runs):
        use = time_use(run.timeline)
        yield f"<p><b>{_name(n, run.name)}</b></p>"
        if not use.wall:
            yield '<p class="soft">It has kept no timeline.</p>'
            continue
        yield "".join(f"<p>{escape(line)}</p>" for line in advice(use.waited, run.settings)[:1])
        yield lanes.bars(use)
