"""Balances every (prompt, attempt) that a run issued against its one end, from the ledger's blobs alone.

An audit must not trust what it checks, so it reads the blobs by itself: neither experience.ledger, nor the wire form's
decoder, nor recovery has a part in it. It knows three facts about the format: a blob is SHA-256 | frame, a frame is a
header of 5 bytes | msgpack, and a batch holds its groups as frames.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.config import Recipe
from orchestrator.folder import RunFolder

_DIGEST_BYTES, _HEADER_BYTES = 32, 5
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
    root = Path(recipe.store.url) / folder.run_id if recipe.store.url else folder.path
    blobs = sorted(root.glob("ledger/*/*.batch"))
    if not blobs:
        raise ValueError(f"{root}: no batch was committed yet; there is nothing to audit")
    report = AuditReport()
    books = _Books(recipe, report)
    for path in blobs:
        data = path.read_bytes()
        if hashlib.sha256(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
            report.problems.append(f"{path}: does not match its checksum")
        else:
            books.enter(int(path.stem), _body(data[_DIGEST_BYTES:]))
    books.close()
    return report


class _Books:
    """Enters one batch after the other; what is wrong goes to the report."""

    def __init__(self, recipe: Recipe, report: AuditReport) -> None:
        self._recipe, self._report = recipe, report
        self._settled: dict[int, str] = {}
        self._names: dict[tuple[str, int], int] = {}
        self._open: set[int] = set()
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
        still_open = {entry["sequence"]: entry for entry in batch["open"]}
        if len(settled) != len(batch["settled"]) or len(still_open) != len(batch["open"]):
            self._problem(number, "names a sequence twice")
        for entry in [*batch["settled"], *batch["open"]]:
            self._name(number, entry)
        for sequence, entry in settled.items():
            if sequence in self._settled:
                self._problem(number, f"settles sequence {sequence} again ({self._settled[sequence]} before)")
            self._settled[sequence] = entry["outcome"]
            self._outcomes[entry["outcome"]] += 1
        vanished = self._open - settled.keys() - still_open.keys()
        if vanished:
            self._problem(number, f"has lost sequences {sorted(vanished)}: open before, neither settled nor open now")
        self._open = set(still_open)
        self._all_accounted(number, batch["next_sequence"], first)
        self._groups(number, batch, settled)

    def _all_accounted(self, number: int, next_sequence: int, first: bool) -> None:
        """Every sequence below next_sequence has an end or is open; with pruned history, from the first one known."""
        known = self._settled.keys() | self._open
        start = min(known, default=0) if self._report.first_batch > 1 else 0
        missing = set(range(start, next_sequence)) - known
        if missing and (self._report.first_batch == 1 or not first):
            self._problem(number, f"does not account for sequences {sorted(missing)[:5]}")
        beyond = {sequence for sequence in known if sequence >= next_sequence}
        if beyond:
            self._problem(number, f"knows sequences {sorted(beyond)[:5]} that were not issued")

    def _groups(self, number: int, batch: Mapping[str, Any], settled: Mapping[int, Any]) -> None:
        """What was trained is what is settled as trained, once each and in issue order."""
        prompts = []
        for frame in batch["groups"]:
            scored = _body(frame)
            prompts.append(scored["group"]["prompt"])
            self._staleness(number, scored["group"]["completions"])
        sequences = [prompt["sequence"] for prompt in prompts]
        trained = [sequence for sequence, entry in settled.items() if entry["outcome"] == "trained"]
        if sequences != sorted(trained):
            self._problem(number, f"trains {sequences} and settles {sorted(trained)} as trained")
        if len(sequences) != self._recipe.pacing.batch_groups:
            self._problem(number, f"holds {len(sequences)} groups, not {self._recipe.pacing.batch_groups}")
        for prompt in prompts:
            self._name(number, prompt)

    def _staleness(self, number: int, completions: list[Mapping[str, Any]]) -> None:
        for span in (span for completion in completions for span in completion["spans"]):
            age = number - 1 - span["number"]
            self._report.max_staleness = max(self._report.max_staleness, age)
            if not 0 <= age <= self._recipe.pacing.max_staleness:
                self._problem(number, f"trains a token of version {span['number']}, {age} steps old")

    def _name(self, number: int, entry: Mapping[str, Any]) -> None:
        """A (prompt, attempt) has one sequence for ever."""
        name = (entry["prompt_id"], entry["attempt"])
        if self._names.setdefault(name, entry["sequence"]) != entry["sequence"]:
            self._problem(number, f"knows {name} as sequence {entry['sequence']}, it was issued as {self._names[name]}")

    def _problem(self, number: int, text: str) -> None:
        self._report.problems.append(f"batch {number} {text}")

    def close(self) -> None:
        self._report.outcomes = dict(self._outcomes)
        self._report.unsettled = len(self._open)
        self._report.issued = len(self._settled) + len(self._open)


def _body(frame: bytes) -> dict[str, Any]:
    return dict(msgspec.msgpack.decode(frame[_HEADER_BYTES:], ext_hook=lambda code, data: None))
