"""A comparison as one HTML page: opens anywhere, fetches nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

import numpy as np

from orchestrator.evaluation import figures as fg
from orchestrator.evaluation import report
from orchestrator.evaluation.evaluator import Comparison
from orchestrator.evaluation.outcome import Outcome
from orchestrator.evaluation.records import PolicyAnswers, Scored
from orchestrator.evaluation.report import cell, rows
from orchestrator.evaluation.verdict import MEANINGFUL, STRONG, standing, verdict
from train_cluster import charts
from train_cluster.charts import Axes

SHOWN_PROMPTS = 40
"""Whose first answers stand side by side, at even distances over the prompts; `--out` has all."""
BINS = 24
COLOURS = ("#667085", "#2563a8", "#b45309", "#207a4c", "#8b3fa8", "#b42318")
"""By policy, the baseline first; a seventh begins anew."""
_KINDS = {"better": "good", "worse": "bad", "even": "even"}
"""Of notes, by verdict."""

_STYLE = """
:root { color-scheme: light; --ink: #1f2733; --soft: #667085; --line: #d7dce3; --green: #207a4c; --red: #b42318; --amber: #b45309 }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 1080px; margin: 32px auto; padding: 0 20px }
h1 { font-size: 22px; margin: 0 0 4px } h2 { font-size: 16px; margin: 28px 0 8px } .soft { color: var(--soft) }
.note { border-left: 5px solid var(--soft); padding: 8px 14px; margin: 12px 0; background: #f7f8fa } .good { border-color: var(--green) } .bad { border-color: var(--red) } .doubt { border-color: var(--amber) }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 18px } figure { margin: 0 } figcaption { font-weight: 600; font-size: 13.5px; margin-bottom: 2px }
svg { width: 100%; height: auto; font: 9.5px system-ui, sans-serif } svg text { fill: var(--soft) } svg text.label { font-size: 10.5px } .grid { stroke: var(--line); stroke-width: .6 }
.whisker { stroke: #2563a8; stroke-width: 1.6 } .dot { fill: #2563a8 } .even { fill: none; stroke: var(--red); stroke-width: 1; stroke-dasharray: 4 3 } .mark { fill: none; stroke: var(--soft); stroke-width: .8; stroke-dasharray: 2 3 }
polyline { fill: none; stroke-width: 1.6 } .key { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin: 0 5px -1px 14px }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { text-align: left; padding: 3px 18px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top } th { font-weight: 600; font-size: 13px } td.number, th.number { text-align: right }
table.samples { table-layout: fixed; width: 100% } table.samples td { font-size: 13.5px; overflow-wrap: anywhere; white-space: pre-line } .score { color: var(--soft); font-size: 12px } .winner { background: #eef6f0 }
"""


def render(outcome: Outcome) -> str:
    """The whole page."""
    comparison, plan = outcome.comparison, outcome.plan
    names = comparison.labels
    title = escape(f"Evaluation of {', '.join(names.values())}")
    drawing = plan.drawing
    about = (
        f"{len(plan.questions)} held-out prompts x {drawing.samples} answer{'s' * (drawing.samples > 1)} at temperature {drawing.temperature:g}, at most "
        f"{drawing.max_tokens} tokens, seed {drawing.seed}; judged by {comparison.judge}"
    )
    kinds = "".join(
        f".policy{n} {{ stroke: {colour} }} .key{n} {{ background: {colour} }}" for n, colour in enumerate(COLOURS)
    )
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}{kinds}</style></head><body><h1>{title}</h1>",
        f'<p class="soft">{escape(about)}</p>',
        *_notes(outcome, names),
        _keys(names),
        '<div class="charts">',
        *_charts(comparison, names),
        "</div>",
        *_table(comparison, names),
        *_categories(comparison, names),
        *_samples(outcome, names),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _notes(outcome: Outcome, names: Mapping[str, str]) -> Iterator[str]:
    first = names[outcome.comparison.baseline]
    for name, figures in outcome.comparison.figures.items():
        if said := verdict(figures):
            kind = _KINDS[standing(figures)]
            yield f'<div class="note {kind}"><b>{escape(names[name])}</b> against {escape(first)}: {escape(said)}.</div>'
    for line in outcome.warnings:
        yield f'<div class="note doubt">{escape(line)}</div>'
    for gate in outcome.gates:
        word, kind = ("holds", "good") if gate.passed else ("FAILS", "bad")
        said = f"{gate.gate} {word} for {names[gate.policy]}: {gate.value:.4g}"
        yield f'<div class="note {kind}">{escape(said)}</div>'


def _keys(names: Mapping[str, str]) -> str:
    keys = (
        f'<span class="key key{n % len(COLOURS)}"></span>{escape(name)}{" (baseline)" * (n == 0)}'
        for n, name in enumerate(names.values())
    )
    return f"<p>{''.join(keys)}</p>"


def _charts(comparison: Comparison, names: Mapping[str, str]) -> Iterator[str]:
    others = list(comparison.figures)[1:]
    if others:
        found = [(names[name], comparison.figures[name]) for name in others]
        yield _win_rates("Win rate against the baseline, 95 % interval", found)
    yield _histogram("Tokens of an answer", comparison, lambda one: float(len(one.answer.tokens)), label="tokens")
    if fg.scores_of(comparison.policies[0]) is not None:
        yield _histogram("The judge's score", comparison, lambda one: one.score or 0.0, label="score")
    if fg.rewards_of(comparison.policies[0]) is not None:
        yield _histogram("The recipe's reward", comparison, lambda one: one.reward or 0.0, label="reward")
    for name in others:
        if comparison.categories[name]:
            found = list(comparison.categories[name].items())
            yield _win_rates(f"{names[name]}: win rate by category", found)


def _win_rates(title: str, found: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """One whisker each, named at the edge that is farther away; lines at 50, 55 and 65 %."""
    axes = Axes(x=(0, len(found)), y=(0, 1), x_label="", y_label="share of comparisons won")
    marks = [charts.line(axes, [(0, 0.5), (len(found), 0.5)], kind="even")]
    marks += [charts.line(axes, [(0, at), (len(found), at)], kind="mark") for at in (MEANINGFUL, STRONG)]
    for number, (name, figures) in enumerate(found):
        rate, low, high = (figures[key] for key in ("win_rate", "win_rate_low", "win_rate_high"))
        x = number + 0.5
        marks += [charts.whisker(axes, x, low, high), charts.dots(axes, [(x, rate)], radius=3.5)]
        bottom = 0.03 if low > 0.2 else 0.87
        marks.append(charts.note(axes, x, bottom + 0.06, name[:24]))
        marks.append(charts.note(axes, x, bottom, f"{rate:.1%}"))
    return charts.chart(title, axes, marks, x_ticks=False)


def _histogram(title: str, comparison: Comparison, value: Callable[[Scored], float], *, label: str) -> str:
    """The share of each policy's answers, as steps over common bins."""
    values = [[value(one) for row in policy.scored for one in row] for policy in comparison.policies]
    low, high = min(map(min, values)), max(map(max, values))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    shares = [np.histogram(one, edges)[0] / len(one) for one in values]
    top = float(max(one.max() for one in shares))
    axes = Axes(x=(float(edges[0]), float(edges[-1])), y=(0, top), x_label=label, y_label="share of answers")
    marks = []
    for number, one in enumerate(shares):
        points = [(float(edges[0]), 0.0)]
        for at, share in enumerate(one):
            points += [(float(edges[at]), float(share)), (float(edges[at + 1]), float(share))]
        marks.append(charts.line(axes, [*points, (float(edges[-1]), 0.0)], kind=f"policy{number % len(COLOURS)}"))
    return charts.chart(title, axes, marks)


def _table(comparison: Comparison, names: Mapping[str, str]) -> Iterator[str]:
    columns = list(comparison.figures.values())
    yield '<h2>Figures</h2><div class="scroll"><table><tr><th></th>'
    yield "".join(f'<th class="number">{escape(name)}</th>' for name in names.values()) + "</tr>"
    for label, key, form in rows(columns):
        cells = "".join(f'<td class="number">{cell(one, key, form)}</td>' for one in columns)
        yield f"<tr><td>{escape(label).replace('  ', '&emsp;')}</td>{cells}</tr>"
    yield "</table></div>"


def _categories(comparison: Comparison, names: Mapping[str, str]) -> Iterator[str]:
    if not any(comparison.categories.values()):
        return
    heads = ("policy", "category", "prompts", "win rate", "from", "to", "score", "tokens")
    keys = (
        ("prompts", ".0f"),
        ("win_rate", ".1%"),
        ("win_rate_low", ".1%"),
        ("win_rate_high", ".1%"),
        ("score", ".3f"),
        ("length", ".1f"),
    )
    yield (
        '<h2>By category</h2><div class="scroll"><table><tr>' + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    )
    for name, found in comparison.categories.items():
        for label, one in found.items():
            cells = "".join(f"<td>{cell(one, key, form)}</td>" for key, form in keys)
            yield f"<tr><td>{escape(names[name])}</td><td>{escape(label)}</td>{cells}</tr>"
    yield "</table></div>"


def _samples(outcome: Outcome, names: Mapping[str, str]) -> Iterator[str]:
    comparison, questions = outcome.comparison, outcome.plan.questions
    step = -(-len(questions) // SHOWN_PROMPTS)
    yield f"<h2>First answers, side by side{f' (every {step}. prompt)' * (step > 1)}</h2>"
    yield (
        '<table class="samples"><tr><th>prompt</th>'
        + "".join(f"<th>{escape(n)}</th>" for n in names.values())
        + "</tr>"
    )
    for number in range(0, len(questions), step):
        cells = "".join(_sample(comparison, policy, number) for policy in comparison.policies)
        yield f"<tr><td>{escape(questions[number].text)}</td>{cells}</tr>"
    yield "</table>"


def _sample(comparison: Comparison, policy: PolicyAnswers, number: int) -> str:
    one = policy.scored[number][0]
    told = {"score": one.score, "reward": one.reward, "KL": one.kl}
    facts = [f"{name} {report.number(value, '.2f')}" for name, value in told.items() if value is not None]
    won = comparison.won.get(policy.name)
    winner = ' class="winner"' if won is not None and won[number] > 0.5 else ""
    ended = " …" * (one.answer.finish_reason == "length")
    return f'<td{winner}>{escape(one.answer.text)}{ended}<div class="score">{", ".join(facts)}</div></td>'
