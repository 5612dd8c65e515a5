"""Answers from the beginning of a run and from its end, and how its groups ended: what the ledger knows."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experience.ledger import Ledger
from experience.schema import BatchRecord, ScoredGroup
from experience.wire import decode
from orchestrator.folder import RunFolder
from orchestrator.run_report.reading import Lines, number, read_lines

log = logging.getLogger(__name__)

KEPT_PROMPTS = 8
"""Of a batch: enough to see how answers read, and that one lucky answer is not taken for all."""
KEPT_TOKENS = 400
"""Of an answer, and of a prompt its last ones."""
LEDGER_BYTES = 64 * 1024**2
"""Of groups in all batches that are read; beyond it the settlements are those of the newest batches."""
_SAMPLES_BYTES = 1024**2

Detokenize = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    step: int
    prompt_id: str
    prompt: str
    answer: str
    reward: float
    tokens: int
    cut: bool
    """Ended by length."""

    @property
    def row(self) -> str:
        """`{data set}:{index}`: the same for a prompt that is asked again in a later pass."""
        name, _, rest = self.prompt_id.partition(":")
        return f"{name}:{rest.rpartition(':')[2]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """How groups ended, over these batches."""

    first: int
    last: int
    outcomes: Mapping[str, int]
    reasons: Mapping[tuple[str, str], int]
    """(outcome, reason) of all that were not trained."""


def samples_of(record: BatchRecord, detokenize: Detokenize) -> list[Sample]:
    """The first answers of a batch's first groups."""
    found = []
    for frame in record.groups[:KEPT_PROMPTS]:
        scored = decode(frame, ScoredGroup)
        prompt, completion, score = scored.group.prompt, scored.group.completions[0], scored.scores[0]
        told = prompt.metadata.get("prompt")
        found.append(
            Sample(
                step=record.number,
                prompt_id=prompt.prompt_id,
                prompt=told if isinstance(told, str) else detokenize(prompt.tokens[-KEPT_TOKENS:].tolist()),
                answer=detokenize(completion.tokens[:KEPT_TOKENS].tolist()),
                reward=score.total,
                tokens=len(completion.tokens),
                cut=completion.finish_reason == "length" or len(completion.tokens) > KEPT_TOKENS,
            )
        )
    return found


def keep_first(folder: RunFolder, ledger: Ledger, detokenize: Detokenize) -> None:
    """Note the answers of the oldest batch that is there, before the ledger forgets it; once for all lives."""
    if read_samples(folder).rows:
        return
    record = next(filter(None, (ledger.read(at) for at in ledger.numbers()[:1])), None)
    for sample in samples_of(record, detokenize) if record else ():
        line = {name: getattr(sample, name) for name in Sample.__slots__}
        folder.append(folder.samples, json.dumps(line))


def read_samples(folder: RunFolder) -> Lines:
    return read_lines(folder.samples, budget_bytes=_SAMPLES_BYTES)


def kept(lines: Lines) -> list[Sample]:
    """What `keep_first` has noted; a damaged line is left out."""
    found = []
    for row in lines.rows:
        step, reward, tokens = (number(row, name) for name in ("step", "reward", "tokens"))
        if step is None or tokens is None:
            continue
        found.append(
            Sample(
                step=int(step),
                prompt_id=str(row.get("prompt_id")),
                prompt=str(row.get("prompt")),
                answer=str(row.get("answer")),
                reward=float("nan") if reward is None else reward,
                tokens=int(tokens),
                cut=bool(row.get("cut")),
            )
        )
    return found


def paired(early: Sequence[Sample], late: Sequence[Sample]) -> list[tuple[Sample | None, Sample | None]]:
    """Answers to one prompt side by side where there are two, the others in their order."""
    by_row = {sample.row: sample for sample in late}
    same = [(sample, by_row[sample.row]) for sample in early if sample.row in by_row]
    taken = {sample.row for sample, _ in same}
    left = [sample for sample in early if sample.row not in taken]
    right = [sample for sample in late if sample.row not in taken]
    rest = [
        (left[at] if at < len(left) else None, right[at] if at < len(right) else None)
        for at in range(max(len(left), len(right)))
    ]
    return [*same, *rest]


def read_ledger(
    ledger: Ledger, *, problems: list[str]
) -> tuple[BatchRecord | None, BatchRecord | None, Settled | None]:
    """The oldest batch, the newest, and how groups ended; what is damaged is named in `problems`."""
    numbers = ledger.numbers()
    oldest: BatchRecord | None = None
    newest: BatchRecord | None = None
    outcomes: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    seen: list[int] = []
    for record in _within_budget(ledger, numbers, problems):
        oldest = record if oldest is None or record.number < oldest.number else oldest
        newest = record if newest is None or record.number > newest.number else newest
        seen.append(record.number)
        outcomes.update(one.outcome for one in record.settled)
        reasons.update((one.outcome, one.reason) for one in record.settled if one.outcome != "trained")
    if not seen:
        return None, None, None
    return oldest, newest, Settled(first=min(seen), last=max(seen), outcomes=outcomes, reasons=reasons)


def _within_budget(ledger: Ledger, numbers: Sequence[int], problems: list[str]) -> Iterator[BatchRecord]:
    """The newest, the oldest, then from the newest backwards."""
    spent = 0
    for at in dict.fromkeys([*numbers[-1:], *numbers[:1], *reversed(numbers)]):
        try:
            record = ledger.read(at)
        except (ValueError, OSError) as error:
            problems.append(f"batch {at} of the ledger: {error}")
            continue
        if record is not None:
            yield record
            spent += sum(map(len, record.groups))
        if spent > LEDGER_BYTES:
            return


def tokenizer_of(*folders: Path) -> Detokenize:
    """From the first of these model folders that has one; without any, the tokens' numbers."""
    for place in (folder / "tokenizer.json" for folder in folders):
        if not place.is_file():
            continue
        try:
            from tokenizers import Tokenizer  # milliseconds, where transformers takes seconds

            tokenizer = Tokenizer.from_file(str(place))
        except Exception as error:  # the library raises bare Exception for a file it cannot read
            log.warning("tokenizer not read", extra={"file": str(place), "error": str(error)})
            continue
        return lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True))
    return lambda tokens: " ".join(map(str, tokens))


def answers_of(judgement: Mapping[str, Any], run: str) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(prompt, answer of the model that the run began with, answer of the run) of a pipeline's evaluation."""
    baseline = str(judgement.get("baseline"))
    found: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
    for row in judgement.get("answers") or ():
        try:
            told = row["answers"]
            found.append((str(row["prompt"]), dict(told[baseline][0]), dict(told[run][0])))
        except (KeyError, IndexError, TypeError, ValueError):  # written by another version, or damaged
            continue
    return found
