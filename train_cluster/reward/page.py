"""A reward model's card as one page: opens anywhere, fetches nothing."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from train_cluster import charts
from train_cluster.charts import Axes
from train_cluster.reward.figures import HeldOut

MAX_DOTS = 400
"""Answers in the picture of score against length; more are drawn one in so many."""

_STYLE = """
:root { color-scheme: light; --ink: #1f2733; --soft: #667085; --line: #d7dce3; --blue: #2563a8; --amber: #b45309; --green: #207a4c; --red: #b42318 }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 1080px; margin: 32px auto; padding: 0 20px }
h1 { font-size: 22px; margin: 0 0 4px } h2 { font-size: 16px; margin: 28px 0 8px } .soft  { color: var(--soft) } code { font-size: 12.5px; overflow-wrap: anywhere }
.verdict { border-left: 5px solid var(--soft); padding: 8px 14px; margin: 16px 0; background: #f7f8fa }
.healthy { border-color: var(--green) } .weak { border-color: var(--red) } .suspicious, .warning { border-color: var(--amber) }
.tiles { display: flex; flex-wrap: wrap; gap: 12px } .tile { border: 1px solid var(--line); border-radius: 6px; padding: 8px 14px; min-width: 120px }
.tile b { display: block; font-size: 19px; font-variant-numeric: tabular-nums } .tile span { color: var(--soft); font-size: 12.5px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 18px } figure { margin: 0 } figcaption { font-weight: 600; font-size: 13.5px; margin-bottom: 2px }
svg { width: 100%; height: auto; font: 9.5px system-ui, sans-serif } svg text { fill: var(--soft) } svg text.label { font-size: 10.5px }
.grid { stroke: var(--line); stroke-width: .6 } .line { fill: none; stroke: var(--blue); stroke-width: 1.6 } .second { fill: none; stroke: var(--amber); stroke-width: 1.6 } .ideal { fill: none; stroke: var(--soft); stroke-dasharray: 4 3 }
.bar { fill: var(--blue); fill-opacity: .75 } .wrong { fill: var(--amber); fill-opacity: .8 } .dot { fill: var(--blue) } .chosen { fill: var(--blue); fill-opacity: .5 } .rejected { fill: var(--amber); fill-opacity: .5 } .whisker { stroke: var(--blue); stroke-width: 1.2 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { text-align: left; padding: 3px 18px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top } th { font-weight: 600; font-size: 13px }
"""


def page(card: Mapping[str, Any], held_out: HeldOut) -> str:
    """HTML of a card and of the scores that it was made from."""
    title = escape(f"Reward model {card['name']}")
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f'<p class="soft">{escape(_origin(card))}</p>',
        *_verdict(card["held_out"]),
        *_tiles(card),
        '<h2>On the held-out pairs</h2><div class="charts">',
        *_charts(card, held_out),
        "</div>",
        *_categories(card["held_out"]),
        *_members(card),
        *_data(card["data"]),
        *_hashes(card),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _origin(card: Mapping[str, Any]) -> str:
    training = card["training"]
    made = f"{training['steps']} steps of {training['config']['batch_pairs']} pairs on {training['base']}"
    return made if not card.get("members") else f"an ensemble of {len(card['members'])}, each {made}"


def _verdict(quality: Mapping[str, Any]) -> Iterator[str]:
    found = quality["verdict"]
    low, high = quality["accuracy_95"]
    yield (
        f'<div class="verdict {found["word"]}"><b>{escape(found["word"].capitalize())}</b>: right on '
        f"{quality['accuracy']:.1%} of {quality['pairs']} held-out pairs (95 % interval {low:.1%} to {high:.1%}); "
        f"{escape(found['advice'])}.</div>"
    )
    if quality["length"]["warning"]:
        yield f'<div class="verdict warning"><b>Length</b>: {escape(quality["length"]["warning"])}.</div>'


def _tiles(card: Mapping[str, Any]) -> Iterator[str]:
    quality = card["held_out"]
    tiles = {
        "held-out accuracy": f"{quality['accuracy']:.1%}",
        "calibration error": f"{quality['calibration']['expected_calibration_error']:.3f}",
        "correlation of score and length": f"{quality['length']['pearson']:+.2f}",
        "“longer is better” would be right on": f"{quality['length']['chosen_is_longer']:.1%}",
        "mean score": f"{quality['scores']['mean']:+.3f}",
        "standard deviation": f"{quality['scores']['std']:.3f}",
    }
    if "agreement" in card:
        tiles["members agree on"] = f"{card['agreement']['mean']:.1%}"
    yield '<div class="tiles">'
    yield from (f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>' for name, value in tiles.items())
    yield "</div>"


def _charts(card: Mapping[str, Any], held_out: HeldOut) -> Iterator[str]:
    yield _calibration(card["held_out"]["calibration"])
    yield _margins(card["held_out"]["margins"])
    yield _lengths(held_out)
    if card["curve"]:
        yield from _curves(card["curve"])


def _calibration(found: Mapping[str, Any]) -> str:
    axes = Axes(
        x=(0.5, 1), y=(0, 1), x_label="probability that the model gives its choice", y_label="share it is right"
    )
    marks = [charts.line(axes, [(0.5, 0.5), (1, 1)], kind="ideal")]
    for one in found["bins"]:
        marks.append(charts.whisker(axes, one["said"], *one["observed_95"]))
        marks.append(charts.note(axes, one["said"], 0.03, str(one["pairs"])))
    marks.append(charts.dots(axes, [(one["said"], one["observed"]) for one in found["bins"]], radius=3))
    error = found["expected_calibration_error"]
    return charts.chart(f"Calibration (error {error:.3f}; pairs at the bottom)", axes, marks)


def _margins(found: Mapping[str, Any]) -> str:
    edges, counts = found["edges"], found["counts"]
    axes = Axes(
        x=(edges[0], edges[-1]),
        y=(0, max(counts) or 1),
        x_label="score of chosen less score of rejected",
        y_label="pairs",
    )
    middle = len(counts) // 2  # the edges are symmetric around 0
    wrong = charts.bars(axes, edges[: middle + 1], counts[:middle], kind="wrong")
    return charts.chart("Margins (left of 0: wrong)", axes, [wrong, charts.bars(axes, edges[middle:], counts[middle:])])


def _lengths(held_out: HeldOut) -> str:
    step = -(-len(held_out.chosen) * 2 // MAX_DOTS)
    chosen = list(zip(held_out.chosen_tokens.tolist(), held_out.chosen.tolist(), strict=True))[::step]
    rejected = list(zip(held_out.rejected_tokens.tolist(), held_out.rejected.tolist(), strict=True))[::step]
    both = chosen + rejected
    axes = Axes(
        x=charts.around(x for x, _ in both), y=charts.around(y for _, y in both), x_label="tokens", y_label="score"
    )
    marks = [charts.dots(axes, chosen, kind="chosen"), charts.dots(axes, rejected, kind="rejected")]
    return charts.chart("Score and length (amber: rejected)", axes, marks)


def _curves(curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for name, label in (("loss", "loss, nats"), ("accuracy", "accuracy")):
        points = [(one["step"], one[name]) for one in curve if one.get(name) is not None]
        looks = [(one["step"], one[f"held_out_{name}"]) for one in curve if one.get(f"held_out_{name}") is not None]
        if points:
            axes = Axes(
                x=(0, points[-1][0]), y=charts.around(y for _, y in points + looks), x_label="step", y_label=label
            )
            marks = [charts.line(axes, points), charts.line(axes, looks, kind="second")]
            yield charts.chart(f"{name.capitalize()} (amber: held out)", axes, marks)


def _categories(quality: Mapping[str, Any]) -> Iterator[str]:
    if not quality["categories"]:
        return
    yield "<h2>By category</h2><table><tr><th>category<th>pairs<th>accuracy<th>95 % interval</tr>"
    for name, one in quality["categories"].items():
        low, high = one["accuracy_95"]
        yield f"<tr><td>{escape(name)}<td>{one['pairs']}<td>{one['accuracy']:.1%}<td>{low:.1%} to {high:.1%}</tr>"
    yield "</table>"


def _members(card: Mapping[str, Any]) -> Iterator[str]:
    if "agreement" not in card:
        return
    agreement = card["agreement"]
    yield "<h2>Members</h2><table><tr><th>member<th>accuracy<th>prompts<th>agrees with the others<th>SHA-256 of its weights</tr>"
    for index, one in enumerate(card["members"]):
        others = [share for other, share in enumerate(agreement["matrix"][index]) if other != index]
        yield (
            f'<tr><td><a href="{escape(one["path"])}/reward_card.html">{index}</a><td>'
            f"{one['accuracy']:.1%}<td>{one['prompts']}<td>{sum(others) / len(others):.1%}"
            f"<td><code>{escape(one['weights_sha256'])}</code></tr>"
        )
    yield (
        f"</table><p>All agree on {agreement['unanimous']:.1%} of the pairs. The score difference of a pair has a standard "
        f"deviation of {agreement['difference_std']:.3f} over the members, and a mean of {agreement['difference_mean_abs']:.3f} "
        "in absolute value.</p>"
    )


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Data</h2><table><tr><th>file<th>rows<th>pairs<th>left out<th>SHA-256</tr>"
    for one in data["files"]:
        left_out = [f"{count} {kind}" for kind, count in one["bad"].items()]
        left_out += [f"{one['disagreed']} on which annotators disagree"] if one["disagreed"] else []
        yield (
            f"<tr><td><code>{escape(one['path'])}</code><td>{one['rows']}<td>{one['pairs']}"
            f"<td>{escape(', '.join(left_out)) or 'none'}<td><code>{escape(one['sha256'])}</code></tr>"
        )
    yield (
        f"</table><p>{data['train_pairs']} pairs of {data['train_prompts']} prompts to train on, {data['held_out_pairs']} pairs "
        f"of {data['held_out_prompts']} held out; no prompt is on both sides.</p>"
    )


def _hashes(card: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Identity</h2><table>"
    yield from (f"<tr><th>{escape(k)}<td><code>{escape(str(v))}</code></tr>" for k, v in card["hashes"].items())
    yield "</table><h2>Settings</h2><details><summary>All of them</summary><table>"
    yield from (f"<tr><th>{escape(k)}<td>{escape(str(v))}</tr>" for k, v in card["training"]["config"].items())
    yield "</table></details>"
