"""What a reward model, or an ensemble of them, is asked to score, and what its scores say.

A row is a pair (prompt, chosen, rejected), an answer (prompt, completion), or a text, which is scored as it stands.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from experience.schema import Int32Array
from train_cluster.reward.figures import agreement, correct, correlation, share
from train_cluster.reward.pair_text import BadRow, Template, answer_text, parse_row
from train_cluster.reward.pairs import BadPairs, shortened

Kind = Literal["pair", "answer", "text"]
COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    "pair": ("prompt", "chosen", "rejected"),
    "answer": ("prompt", "completion"),
    "text": ("text",),
}
"""What a row of each kind has, the fuller kinds first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What is to be scored: a pair as two sequences that follow each other, anything else as one."""

    kind: Kind
    lines: tuple[int, ...]
    """[N] of the file, from 1."""
    sequences: tuple[Int32Array, ...]
    """[N], or [2 N] of pairs; each ends with the token whose score it is given."""
    answer_tokens: tuple[int, ...]
    """Of each sequence: without its prompt."""


def read_rows(path: Path, template: Template, *, max_tokens: int | None) -> Rows:
    """The rows of a JSONL file, all of the kind of the first. BadPairs: which are not, or do not fit the context."""
    lines = [(n, line) for n, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()]
    rows: list[tuple[int, str, tuple[str, ...]]] = []
    problems: list[str] = []
    kind: Kind | None = None
    for number, line in lines:
        try:
            row = parse_row(line)
            kind = kind or _kind(row)
            rows.append((number, *_texts(row, kind, template)))
        except BadRow as error:
            problems.append(f"line {number}: {error}; correct the line")
    if kind is None and not problems:
        problems.append("no rows; give at least one JSON object a line")
    if problems or kind is None:
        raise BadPairs(shortened(problems))
    return _tokenised(rows, kind, template, max_tokens)


def results(rows: Rows, scores: npt.NDArray[np.float64]) -> Iterator[dict[str, Any]]:
    """One JSON object a row, from the scores [M, N] of M models: the mean, and with several their standard deviation.

    Of a pair both answers' scores, and whether the chosen one is higher; the deviation is that of the difference, since
    the scores of two models have no common zero. FloatingPointError: a score is not finite.
    """
    several = len(scores) > 1
    if rows.kind == "pair":
        chosen, rejected = scores[:, 0::2], scores[:, 1::2]
        _check_finite(rows, chosen + rejected)
        right = correct(chosen.mean(axis=0), rejected.mean(axis=0))
        for i, line in enumerate(rows.lines):
            found = {"line": line, "chosen": float(chosen[:, i].mean()), "rejected": float(rejected[:, i].mean())}
            spread = {"std": float((chosen[:, i] - rejected[:, i]).std())} if several else {}
            yield found | spread | {"right": float(right[i])}
        return
    _check_finite(rows, scores)
    for i, line in enumerate(rows.lines):
        spread = {"std": float(scores[:, i].std())} if several else {}
        yield {"line": line, "score": float(scores[:, i].mean())} | spread


def summary(rows: Rows, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """What all rows together say; JSON."""
    mean = scores.mean(axis=0)
    found: dict[str, Any] = {
        "kind": rows.kind,
        "rows": len(rows.lines),
        "models": len(scores),
        "tokens": sum(len(sequence) for sequence in rows.sequences),
        "mean": float(mean.mean()),
        "std": float(mean.std()),
        "length_correlation": correlation(mean, np.array(rows.answer_tokens, dtype=np.float64)),
    }
    if rows.kind == "pair":
        found["accuracy"], found["accuracy_95"] = share(correct(mean[0::2], mean[1::2]))
        if len(scores) > 1:
            found["agreement"] = agreement(scores[:, 0::2] - scores[:, 1::2])["mean"]
    elif len(scores) > 1:
        found["mean_std"] = float(scores.std(axis=0).mean())
    return found


def _kind(row: Mapping[str, Any]) -> Kind:
    for kind, columns in COLUMNS.items():
        if all(column in row for column in columns):
            return kind
    forms = " or ".join(", ".join(columns) for columns in COLUMNS.values())
    raise BadRow("no such column", f"has {', '.join(sorted(row))[:200] or 'nothing'}, and a row needs {forms}")


def _texts(row: Mapping[str, Any], kind: Kind, template: Template) -> tuple[str, tuple[str, ...]]:
    """The rendered prompt ("" of a text), and the one or two answers."""
    for column in COLUMNS[kind]:
        if column not in row:
            raise BadRow("no such column", f"no column {column!r}, which the rows before have")
    prompt = template.render(row["prompt"]) if kind != "text" else ""
    return prompt, tuple(answer_text(row[column], column) for column in COLUMNS[kind] if column != "prompt")


def _tokenised(
    rows: Sequence[tuple[int, str, tuple[str, ...]]], kind: Kind, template: Template, max_tokens: int | None
) -> Rows:
    answers = [answer for _, _, texts in rows for answer in texts]
    if kind == "text":
        ids = template.prompts(answers)
        own = [len(one) for one in ids]
    else:
        prompts = template.prompts([prompt for _, prompt, texts in rows for _ in texts])
        endings = template.answers(answers)
        ids = [[*prompt, *ending] for prompt, ending in zip(prompts, endings, strict=True)]
        own = [len(ending) for ending in endings]
    numbers = [number for number, _, texts in rows for _ in texts]
    problems = []
    for number, one in zip(numbers, ids, strict=True):
        if max_tokens is not None and len(one) > max_tokens:
            problems.append(
                f"line {number}: {len(one)} tokens are more than the model's context of {max_tokens}; shorten it"
            )
        elif not one:
            problems.append(f"line {number}: has no tokens; correct the line")
    if problems:
        raise BadPairs(shortened(problems))
    sequences = tuple(np.array(one, dtype=np.int32) for one in ids)
    lines = tuple(number for number, _, _ in rows)
    return Rows(kind=kind, lines=lines, sequences=sequences, answer_tokens=tuple(own))


def _check_finite(rows: Rows, scores_MN: npt.NDArray[np.float64]) -> None:
    bad = ~np.isfinite(scores_MN).all(axis=0)
    if bad.any():
        raise FloatingPointError(f"the score of line {rows.lines[int(bad.argmax())]} is not finite")
