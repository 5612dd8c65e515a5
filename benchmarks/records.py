"""What a finished run's own records say: its structured logs and its ledger."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]
"""A line of a log; `at` is its time in seconds since 1970."""


def read(run: Path) -> list[Line]:
    """The lines of all processes, in the order of their times."""
    lines = [
        json.loads(text) for file in sorted((run / "logs").glob("*.jsonl")) for text in file.read_text().splitlines()
    ]
    return sorted(
        ({**line, "at": datetime.fromisoformat(line["time"]).timestamp()} for line in lines),
        key=lambda line: line["at"],
    )


def events(lines: Sequence[Line], event: str, *, worker: str = "") -> list[Line]:
    """Those of one event, of all workers or of those whose name begins with `worker`."""
    return [line for line in lines if line["event"] == event and line["worker"].startswith(worker)]


def stalest(run: Path) -> float:
    """The greatest staleness of any trained token, in steps."""
    return max(json.loads(text)["staleness_max"] for text in (run / "metrics.jsonl").read_text().splitlines())


def lengths(run: Path) -> list[list[int]]:
    """Response tokens of each trained group, by sample, in the order of issue."""
    from experience import wire
    from experience.ledger import Ledger
    from experience.schema import ScoredGroup
    from orchestrator.stores import LINEAGE
    from weightstore.blobs import FileBlobStore

    ledger = Ledger(FileBlobStore(run), lineage=LINEAGE)
    batches = [batch for number in ledger.numbers() if (batch := ledger.read(number)) is not None]
    groups = [wire.decode(data, ScoredGroup).group for batch in batches for data in batch.groups]
    return [[len(completion.tokens) for completion in group.completions] for group in groups]
