"""What the ledger, the logs and the buffer know of one group."""

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from experience import wire
from experience.buffer import BufferRefused, BufferUnavailable, Entry
from experience.ledger import Ledger
from experience.schema import BatchRecord, CompletionGroup, Issue, Prompt, ScoredGroup, Settlement
from experience.server import ServerFailed
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.log_reader.entry import Entry as Line
from orchestrator.log_reader.merge import entries
from orchestrator.stores import LINEAGE, open_buffer
from orchestrator.trace.assemble import Made, Story, Training
from orchestrator.trace.span import Attribute

_PATIENCE_S = 2.0
"""For the server of a run in flight: somebody waits for the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """What the logs say of one step, and of one group on its way to it. Times are Unix seconds."""

    training: Training
    troubles: tuple[str, ...]
    """Lines of warning about the group."""


def trained_groups(record: BatchRecord) -> list[ScoredGroup]:
    return [wire.decode(data, ScoredGroup) for data in record.groups]


def batch_of(ledger: Ledger, sequence: int) -> tuple[BatchRecord, Settlement] | None:
    """The batch that records the end of a group; None: no kept batch does. Reads a number of batches that grows with the
    logarithm of how many there are: batches take groups in issue order."""
    numbers = ledger.numbers()
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        record = _read(ledger, numbers[middle])
        if max((one.sequence for one in record.settled if one.outcome == "trained"), default=-1) < sequence:
            low = middle + 1
        else:
            high = middle
    for number in reversed(numbers[: low + 1]):  # settled without training: in that batch, or in one before it
        record = _read(ledger, number)
        found = next((one for one in record.settled if one.sequence == sequence), None)
        if found is not None:
            return record, found
        if record.next_sequence <= sequence:
            return None
    return None


def _read(ledger: Ledger, number: int) -> BatchRecord:
    record = ledger.read(number)
    if record is None:
        raise ValueError(f"batch {number} was pruned a moment ago; ask again")
    return record


def of_trained(scored: ScoredGroup, logged: Logged) -> Story:
    training = logged.training
    state = f"trained in step {training.step}"
    state += f", in version {training.version}" if training.version else ""
    return replace(of_scored(scored), state=state, training=training, notes=logged.troubles)


def of_scored(scored: ScoredGroup) -> Story:
    totals = [score.total for score in scored.scores]
    attributes: dict[str, Attribute] = {"reward": _mean(totals)}
    for name in scored.component_hashes:
        attributes[f"reward.{name}"] = _mean([score.components[name] for score in scored.scores])
    made = Made(production=scored.production, attributes=attributes)
    return replace(of_generated(scored.group), state="scored", scored=made)


def of_generated(group: CompletionGroup) -> Story:
    versions = {(span.lineage, span.epoch, span.number) for one in group.completions for span in one.spans}
    attributes: dict[str, Attribute] = {
        "samples": len(group.completions),
        "tokens": sum(len(one.tokens) for one in group.completions),
        "versions": ", ".join("/".join(map(str, version)) for version in sorted(versions)),
    }
    made = Made(production=group.production, attributes=attributes)
    return replace(of_prompt(group.prompt), state="generated", generated=made)


def of_prompt(prompt: Prompt) -> Story:
    return Story(
        group_id=prompt.group_id,
        sequence=prompt.sequence,
        prompt_id=prompt.prompt_id,
        attempt=prompt.attempt,
        state="issued",
    )


def of_issue(issue: Issue | Settlement, *, run_id: str, state: str) -> Story:
    """Of a group whose content is gone, or was never seen."""
    return Story(
        group_id=f"{run_id}/{LINEAGE}/{issue.sequence}",
        sequence=issue.sequence,
        prompt_id=issue.prompt_id,
        attempt=issue.attempt,
        state=state,
    )


def of_entry(entry: Entry) -> Story:
    """A group in flight, by where its entry stands."""
    holder = entry.worker.partition(".")[0]
    again = f", delivery {entry.deliveries}" if entry.deliveries > 1 else ""
    held = f"with {holder}{again}, which gave a sign {entry.idle_s:.1f} s ago" if holder else "nobody has taken it"
    if entry.stream == "prompts":
        story = replace(of_prompt(wire.decode(entry.data, Prompt)), issued_at=entry.put_at)
        name = "being generated, or held" if holder else "waits for generation"
        return replace(
            story, state=f"in flight, not generated: {held}{_given_back(entry)}", now_in=name, now_with=holder
        )
    if entry.stream == "completions":
        story = of_generated(wire.decode(entry.data, CompletionGroup))
        name = "being scored, or held" if holder else "waits for scoring"
        return replace(story, state=f"in flight, not scored: {held}{_given_back(entry)}", now_in=name, now_with=holder)
    story = of_scored(wire.decode(entry.data, ScoredGroup))
    return replace(
        story, state="in flight, scored: waits for its batch", now_in="waits for its batch", now_with="rank-0"
    )


def _given_back(entry: Entry) -> str:
    return f"; given back after delivery {entry.deliveries}" if entry.deliveries and not entry.worker else ""


def in_flight(recipe: Recipe, folder: RunFolder, sequence: int) -> tuple[Entry | None, Settlement | None]:
    """Its entry, or its end that no batch has recorded yet. ValueError: the server does not answer."""
    brief = recipe.experience.model_copy(update={"retry_s": _PATIENCE_S})
    asked = recipe.model_copy(update={"experience": brief})
    try:
        with closing(open_buffer(asked, folder, run_epoch=0, trainer_epoch=0)) as buffer:
            ends = (one for one in buffer.settled() if one.sequence == sequence)
            return buffer.find(sequence), next(ends, None)
    except (BufferUnavailable, BufferRefused, ServerFailed) as error:
        raise ValueError(f"GROUP = {sequence}: is in no batch, and the buffer cannot be asked: {error}") from error


def logged(folder: RunFolder, *, step: int, sequences: Iterable[int]) -> Mapping[int, Logged]:
    """By sequence. `step`: of the batch that holds them."""
    wanted = set(sequences)
    said: dict[int, list[str]] = {sequence: [] for sequence in wanted}
    training = Training(step=step)
    for line in entries(folder.logs, worth=_may_matter):
        if line.worker in ("rank-0", "driver"):
            training = _learnt(training, line)
        if line.level not in ("debug", "info"):
            for sequence in wanted.intersection(line.groups):
                said[sequence].append(f"{line.worker}: {line.event}{_because(line)}")
    return {sequence: Logged(training=training, troubles=tuple(said[sequence])) for sequence in wanted}


def _may_matter(text: str) -> bool:
    """Before a line is parsed, since most are not needed."""
    return "batch committed" in text or "step trained" in text or '"published"' in text or '"level": "info"' not in text


def _learnt(training: Training, line: Line) -> Training:
    """The first of each: a step that was trained again after a restart changed nothing."""
    step = line.fields.get("step", line.fields.get("number"))  # of a version, in logs of earlier releases
    if line.event == "batch committed" and step == training.step and training.committed_at is None:
        return replace(training, committed_at=line.at)
    if line.event == "step trained" and step == training.step and training.trained_at is None:
        return replace(training, trained_at=line.at, trained_s=float(line.fields.get("seconds", 0.0)))
    if line.event == "published" and training.published_at is None:
        version = str(line.fields.get("version", ""))
        if isinstance(step, int) and step >= training.step:
            return replace(training, published_at=line.at, version=version)
    return training


def _because(line: Line) -> str:
    reason = line.fields.get("reason") or line.fields.get("result")
    return f" ({reason})" if isinstance(reason, str) else f" {json.dumps(reason)}" if reason else ""


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
