"""Balances every (prompt, attempt) that a run issued against its one end, from the ledger's blobs.

That the newest of them are there is not in the ledger: checkpoints, versions and status bear witness to it.
An audit must not trust what it checks, so it reads the blobs by itself: neither experience.ledger, nor the wire form's
decoder, nor recovery has a part in it. It knows four facts about the format: a blob is SHA-256 | frame, a frame is a
header of 5 bytes | msgpack, a batch holds its groups as frames, and an array starts with its rank and shape.
"""

import hashlib
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import msgspec

from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.stores import open_store

_DIGEST_BYTES, _HEADER_BYTES = 32, 5
_MADE_AFTER = re.compile(r"checkpoints/\d+/(\d+)-e\d+/manifest\.json|weights/\d+/e\d+/v(\d+)/manifest\.json")
"""A checkpoint or a version: the step, which is the number of its last batch."""
_MAX_PROBLEMS = 20
"""Shown; the first says where to look."""


@dataclass(kw_only=True)
class AuditReport:
    first_batch: int = 0
    last_batch: int = 0
    issued: int = 0
    """Groups issued up to the last batch, within the batches that are kept."""
    unsettled: int = 0
    """Of these still in flight when the last batch was committed."""
    outcomes: dict[str, int] = field(default_factory=dict)
    max_staleness: int = 0
    """Oldest trained token, in steps."""
    problems: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"balanced": self.balanced}

    def lines(self) -> list[str]:
        ends = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items())) or "none settled"
        lines = [
            f"batches {self.first_batch} to {self.last_batch}: {self.issued} groups issued = {ends}"
            f" + {self.unsettled} in flight; oldest trained token {self.max_staleness} steps",
        ]
        shown = self.problems[:_MAX_PROBLEMS]
        more = len(self.problems) - len(shown)
        return [
            *lines,
            *shown,
            *([f"… and {more} more"] if more else []),
            "balanced" if self.balanced else "NOT BALANCED",
        ]


def audit(recipe: Recipe, folder: RunFolder) -> AuditReport:
    """ValueError: there is no ledger yet."""
    store = open_store(recipe, folder)
    # First: a run that lives commits a batch before it makes anything of it.
    made = {key: store.where(key) for kind in ("checkpoints", "weights") for key in store.list(kind)}
    wanted, witness = _witnessed(made, folder)
    keys = [key for key in store.list("ledger") if key.endswith(".batch")]
    if not keys and not wanted:
        raise ValueError(f"{store.where('ledger')}: no batch was committed yet; there is nothing to audit")
    report = AuditReport()
    books = _Books(recipe, report)
    for key in keys:
        try:
            data = store.get(key)
        except ValueError as error:  # damaged, and the store can tell
            report.problems.append(str(error))
            continue
        if hashlib.sha256(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
            report.problems.append(f"{store.where(key)}: does not match its checksum")
            continue
        try:
            batch = _body(data[_DIGEST_BYTES:])
        except ValueError as error:
            report.problems.append(f"{store.where(key)}: matches its checksum and yet holds no batch ({error})")
        else:
            books.enter(int(PurePosixPath(key).stem), batch)
    books.close()
    newest = max((int(PurePosixPath(key).stem) for key in keys), default=0)
    if newest < wanted:
        missing = f"batch {wanted} is" if wanted == newest + 1 else f"batches {newest + 1} to {wanted} are"
        report.problems.append(f"{missing} missing in {store.where('ledger')}: {witness} was made after batch {wanted}")
    return report


def _witnessed(made: Mapping[str, str], folder: RunFolder) -> tuple[int, str]:
    """The highest batch that one of the blobs {key: where} or the status was made after, and where that is."""
    after = [(int(found[1] or found[2]), made[key]) for key in made if (found := _MADE_AFTER.fullmatch(key))]
    after.append((int(folder.read_status().get("committed", 0)), str(folder.status)))
    return max(after, key=lambda one: one[0])


class _Books:
    """Enters one batch after the other; what is wrong goes to the report."""

    def __init__(self, recipe: Recipe, report: AuditReport) -> None:
        self._recipe, self._report = recipe, report
        self._next_sequence = 0
        self._open: Set[int] = frozenset()
        self._sequence_of: dict[tuple[str, int], int] = {}
        self._name_of: dict[int, tuple[str, int]] = {}
        self._trained_as: dict[str, int] = {}
        """prompt_id -> the sequence under which it was trained."""
        self._outcomes: Counter[str] = Counter()

    def enter(self, number: int, batch: Mapping[str, Any]) -> None:
        first = not self._report.last_batch
        if first:
            self._report.first_batch = number
        elif number != self._report.last_batch + 1:
            self._problem(number, f"follows batch {self._report.last_batch}")
        if batch["number"] != number:
            self._problem(number, f"holds batch {batch['number']}")
        self._report.last_batch = number

        settled = {entry["sequence"]: entry for entry in batch["settled"]}
        still_open = {entry["sequence"] for entry in batch["open"]}
        if len(settled) != len(batch["settled"]) or len(still_open) != len(batch["open"]):
            self._problem(number, "names a sequence twice")
        for entry in [*batch["settled"], *batch["open"]]:
            self._name(number, entry)
        self._conserved(number, settled.keys(), still_open, batch["next_sequence"], pruned=first and number > 1)
        self._outcomes.update(entry["outcome"] for entry in settled.values())
        self._groups(number, batch, settled, still_open)

    def _conserved(
        self, number: int, settled: Set[int], still_open: Set[int], next_sequence: int, *, pruned: bool
    ) -> None:
        """open before + issued since = settled now + open still. `pruned`: the batch before is gone, with what it knew."""
        now = settled | still_open
        if both := settled & still_open:
            self._problem(number, f"settles sequences {_some(both)} and holds them open")
        if beyond := {sequence for sequence in now if sequence >= next_sequence}:
            self._problem(number, f"knows sequences {_some(beyond)} that were not issued")
        if next_sequence < self._next_sequence:
            self._problem(number, f"counts {next_sequence} issued sequences, the batch before {self._next_sequence}")
        if not pruned:
            due = self._open | set(range(self._next_sequence, next_sequence))
            if vanished := due - now:
                self._problem(number, f"has lost sequences {_some(vanished)}: issued, neither settled nor open")
            if again := now - due - beyond:
                self._problem(number, f"settles or opens sequences {_some(again)} again: they had their end before")
        self._open, self._next_sequence = still_open, next_sequence

    def _groups(self, number: int, batch: Mapping[str, Any], settled: Mapping[int, Any], still_open: Set[int]) -> None:
        """What was trained is what is settled as trained, once each and in issue order."""
        prompts = []
        for frame in batch["groups"]:
            scored = _body(frame)
            prompts.append(scored["group"]["prompt"])
            for completion in scored["group"]["completions"]:
                self._staleness(number, completion)
        sequences = [prompt["sequence"] for prompt in prompts]
        trained = [sequence for sequence, entry in settled.items() if entry["outcome"] == "trained"]
        if sequences != sorted(trained):
            self._problem(number, f"trains {sequences} and settles {sorted(trained)} as trained")
        if overtaken := {sequence for sequence in still_open if sequence < max(sequences, default=0)}:
            self._problem(number, f"trains {sequences} while sequences {_some(overtaken)} were before them")
        if len(sequences) != self._recipe.pacing.batch_groups:
            self._problem(number, f"holds {len(sequences)} groups, not {self._recipe.pacing.batch_groups}")
        for prompt in prompts:
            self._name(number, prompt)
            first = self._trained_as.setdefault(prompt["prompt_id"], prompt["sequence"])
            if first != prompt["sequence"]:
                self._problem(number, f"trains {prompt['prompt_id']}, which sequence {first} had trained before")

    def _staleness(self, number: int, completion: Mapping[str, Any]) -> None:
        """Every token has one version, and none is too old."""
        covered = 0
        for span in completion["spans"]:
            age = number - 1 - span["number"]
            self._report.max_staleness = max(self._report.max_staleness, age)
            if not 0 <= age <= self._recipe.pacing.max_staleness:
                self._problem(number, f"trains a token of version {span['number']}, {age} steps old")
            covered = span["end"] if span["start"] == covered else -1
        (length,) = completion["tokens"]
        if covered != length:
            self._problem(number, f"trains tokens of no version: {length} in all, spans {completion['spans']}")

    def _name(self, number: int, entry: Mapping[str, Any]) -> None:
        """A (prompt, attempt) has one sequence for ever, and a sequence one (prompt, attempt)."""
        name, sequence = (entry["prompt_id"], entry["attempt"]), entry["sequence"]
        known = self._sequence_of.setdefault(name, sequence), self._name_of.setdefault(sequence, name)
        if known != (sequence, name):
            self._problem(
                number, f"knows {name} as sequence {sequence}; {known[1]} was {sequence}, {name} was {known[0]}"
            )

    def _problem(self, number: int, text: str) -> None:
        self._report.problems.append(f"batch {number} {text}")

    def close(self) -> None:
        self._report.outcomes = dict(self._outcomes)
        self._report.unsettled = len(self._open)
        self._report.issued = self._outcomes.total() + len(self._open)


def _body(frame: bytes) -> dict[str, Any]:
    return dict(msgspec.msgpack.decode(frame[_HEADER_BYTES:], ext_hook=_shape))


def _shape(code: int, array: memoryview) -> tuple[int, ...]:
    """Of an array; its elements are not the audit's business."""
    return struct.unpack_from(f"<{array[0]}I", array, 1)


def _some(sequences: Iterable[int], *, shown: int = 8) -> str:
    ordered = sorted(sequences)
    return f"{ordered[:shown]}" + (f" and {len(ordered) - shown} more" if len(ordered) > shown else "")
