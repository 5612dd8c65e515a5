"""The audit: honest books balance, and every way of cooking them that could hide a lost or doubled group is found."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from orchestrator_recipes import a_recipe

from experience.ledger import Ledger
from experience.schema import (
    BatchRecord,
    Completion,
    CompletionGroup,
    Controls,
    Issue,
    Production,
    Prompt,
    SampleScore,
    Sampling,
    ScoredGroup,
    Settlement,
    VersionSpan,
)
from experience.wire import encode
from orchestrator.audit import AuditReport, audit
from orchestrator.folder import RunFolder
from weightstore.blobs import FileBlobStore

RECIPE = a_recipe(pacing={"batch_groups": 2, "max_staleness": 2})
PRODUCTION = Production(worker="w", deliveries=1, queued_at=0.0, leased_at=0.0, waited_s=0.0, worked_s=1.0)
CONTROLS = Controls(learning_rate_scale=1.0, kl_scale=1.0, clip_low=0.2, clip_high=0.28, temperature=1.0)

Spans = tuple[tuple[int, int, int], ...]
"""(version, start, end)"""


def scored(
    sequence: int, *, prompt: int | None = None, attempt: int = 0, spans: Spans = ((0, 0, 3),), length: int = 3
) -> bytes:
    """A group of one sample, as it stands in a batch."""
    group = CompletionGroup(
        prompt=Prompt(
            run_id="trial",
            lineage=0,
            sequence=sequence,
            prompt_id=f"words:0:{sequence if prompt is None else prompt}",
            attempt=attempt,
            tokens=np.array([5, 6], dtype=np.int32),
            metadata={"prompt": "abc"},
            group_size=1,
            sampling=Sampling(temperature=1.0, max_tokens=8, stop_token_ids=(1,), seed=sequence),
            min_version=0,
            deadline_s=10.0,
        ),
        completions=(
            Completion(
                index=0,
                tokens=np.arange(length, dtype=np.int32),
                sampled=np.ones(length, dtype=bool),
                behaviour_logprobs=np.zeros(length, dtype=np.float32),
                spans=tuple(VersionSpan(lineage=0, epoch=1, number=v, start=a, end=b) for v, a, b in spans),
                channels={},
                finish_reason="stop",
                seed=sequence,
            ),
        ),
        production=PRODUCTION,
    )
    score = SampleScore(
        components={"exact": 1.0},
        total=1.0,
        measures={},
        reference_logprobs={},
        step_positions=np.empty(0, np.int32),
        step_rewards=np.empty(0, np.float32),
    )
    return encode(ScoredGroup(group=group, scores=(score,), component_hashes={}, production=PRODUCTION))


def issue(sequence: int, *, prompt: int | None = None, attempt: int = 0) -> Issue:
    return Issue(sequence=sequence, prompt_id=f"words:0:{sequence if prompt is None else prompt}", attempt=attempt)


def settle(sequence: int, outcome: str = "trained", *, prompt: int | None = None, attempt: int = 0) -> Settlement:
    named = issue(sequence, prompt=prompt, attempt=attempt)
    return Settlement(
        sequence=sequence,
        prompt_id=named.prompt_id,
        attempt=attempt,
        outcome=outcome,  # type: ignore[arg-type]
        reason="",
    )


def batch(
    number: int, *, groups: list[bytes], settled: list[Settlement], open: list[Issue], issued: int
) -> BatchRecord:
    return BatchRecord(
        run_id="trial",
        lineage=0,
        number=number,
        epoch=1,
        groups=tuple(groups),
        seed=7,
        controls=CONTROLS,
        settled=tuple(settled),
        open=tuple(open),
        cursor=issued,
        next_sequence=issued,
        config_hash="cd" * 32,
    )


def books() -> list[BatchRecord]:
    """Nine issued: six trained, one quarantined, one lost and issued anew as 7, one in flight."""
    return [
        batch(1, groups=[scored(0), scored(1)], settled=[settle(0), settle(1), settle(4, "quarantined")], open=[issue(2), issue(3)], issued=5),
        batch(
            2,
            groups=[scored(2), scored(3, spans=((0, 0, 2), (1, 2, 3)))],
            settled=[settle(2), settle(3)],
            open=[issue(5), issue(6)],
            issued=7,
        ),
        batch(
            3,
            groups=[scored(6, spans=((1, 0, 3),)), scored(7, prompt=5, attempt=1, spans=((2, 0, 3),))],
            settled=[settle(5, "lost"), settle(6), settle(7, prompt=5, attempt=1)],
            open=[issue(8)],
            issued=9,
        ),
    ]  # fmt: skip


class Run:
    """A run's folder with these batches in its ledger."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path / "trial")

    def keep(self, records: list[BatchRecord]) -> None:
        ledger = Ledger(FileBlobStore(self.folder.path), 0)
        for record in records:
            ledger.commit(record)

    def blob(self, number: int) -> Path:
        return self.folder.path / f"ledger/0/{number:08d}.batch"

    def audit(self, recipe: Any = RECIPE) -> AuditReport:
        return audit(recipe, self.folder)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_honest_books_balance(run):
    run.keep(books())
    report = run.audit()
    assert report.problems == []
    assert report.as_dict() == {
        "first_batch": 1,
        "last_batch": 3,
        "issued": 9,
        "unsettled": 1,
        "outcomes": {"trained": 6, "quarantined": 1, "lost": 1},
        "max_staleness": 1,
        "problems": [],
        "balanced": True,
    }
    assert report.lines() == [
        "batches 1 to 3: 9 groups issued = 1 lost, 1 quarantined, 6 trained + 1 in flight; oldest trained token 1 steps",
        "balanced",
    ]


def test_the_ledger_may_stand_in_a_store_of_its_own(tmp_path):
    run = Run(tmp_path / "store")
    run.keep(books())
    elsewhere = RunFolder(tmp_path / "runs" / "trial")
    recipe = a_recipe(pacing={"batch_groups": 2, "max_staleness": 2}, store={"url": str(tmp_path / "store")})
    assert audit(recipe, elsewhere).balanced


def test_missing_batches_at_the_end_are_found_by_what_was_made_of_them(run):
    run.keep(books())
    store = FileBlobStore(run.folder.path)
    store.put_if_absent("checkpoints/0/00000003-e1/manifest.json", b"{}")
    store.put_if_absent("weights/0/e1/v2/manifest.json", b"{}")
    run.folder.write_json(run.folder.status, {"state": "failed", "committed": 3})
    assert run.audit().balanced
    run.blob(3).unlink()
    (problem,) = run.audit().problems
    assert problem.startswith(f"batch 3 is missing in {run.folder.path}/ledger: ")
    assert problem.endswith("checkpoints/0/00000003-e1/manifest.json was made after batch 3")
    for number in (1, 2):
        run.blob(number).unlink()
    store.put_if_absent("weights/0/e1/v5/manifest.json", b"{}")
    (problem,) = run.audit().problems
    assert "batches 1 to 5 are missing" in problem
    assert "weights/0/e1/v5/manifest.json was made" in problem
    run.folder.write_json(run.folder.status, {"state": "failed", "committed": 6})
    assert run.audit().problems[0].endswith(f"{run.folder.status} was made after batch 6")


def test_pruned_history_is_no_gap(run):
    """Batch 1 settled sequence 4 out of order: those that stay need not know it, though they know 2 and 3."""
    late = [
        batch(4, groups=[scored(8, spans=((2, 0, 3),)), scored(10, spans=((3, 0, 3),))], settled=[settle(8), settle(9, "filtered"), settle(10)], open=[issue(11)], issued=12),
        batch(5, groups=[scored(11, spans=((4, 0, 3),)), scored(12, spans=((4, 0, 3),))], settled=[settle(11), settle(12)], open=[], issued=13),
    ]  # fmt: skip
    run.keep([*books(), *late])
    for number in (1, 2):
        run.blob(number).unlink()
        report = run.audit()
        assert report.problems == []
        assert report.first_batch == number + 1
    assert report.outcomes == {"trained": 6, "lost": 1, "filtered": 1}
    assert (report.issued, report.unsettled) == (8, 0)


def test_without_a_batch_there_is_nothing_to_audit(run):
    with pytest.raises(ValueError, match="no batch was committed yet; there is nothing to audit"):
        run.audit()


def change(number: int, **fields: Any) -> Callable[[list[BatchRecord]], list[BatchRecord]]:
    """Replace fields of one batch; a function gets the old value."""

    def cook(records: list[BatchRecord]) -> list[BatchRecord]:
        old = records[number - 1]
        new = {name: value(getattr(old, name)) if callable(value) else value for name, value in fields.items()}
        return [dataclasses.replace(record, **new) if record is old else record for record in records]

    return cook


def without(*sequences: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    return lambda entries: tuple(entry for entry in entries if entry.sequence not in sequences)


def plus(*more: Any) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    return lambda entries: entries + more


@pytest.mark.parametrize(
    ("cook", "found"),
    [
        pytest.param(change(2, open=without(6)), "batch 3 settles or opens sequences [6] again", id="back from nowhere"),
        pytest.param(change(2, open=without(6)), "batch 2 has lost sequences [6]", id="vanished once issued"),
        pytest.param(change(3, settled=without(5)), "batch 3 has lost sequences [5]", id="vanished once open"),
        pytest.param(change(3, open=()), "batch 3 has lost sequences [8]", id="vanished at the end"),
        pytest.param(change(3, settled=plus(settle(4, "dropped"))), "batch 3 settles or opens sequences [4] again", id="settled twice"),
        pytest.param(change(3, settled=plus(settle(4, "quarantined"))), "batch 3 settles or opens sequences [4] again", id="settled twice alike"),
        pytest.param(change(1, settled=plus(settle(4, "lost"))), "batch 1 names a sequence twice", id="settled twice at once"),
        pytest.param(change(3, open=plus(issue(2))), "batch 3 settles or opens sequences [2] again", id="reopened"),
        pytest.param(change(3, open=plus(issue(6))), "batch 3 settles sequences [6] and holds them open", id="settled and open"),
        pytest.param(change(3, open=(issue(8, prompt=3),)), "batch 3 knows ('words:0:3', 0) as sequence 8", id="one issue under two sequences"),
        pytest.param(change(3, settled=lambda s: (settle(5, "lost", prompt=77), *s[1:])), "batch 3 knows ('words:0:77', 0) as sequence 5", id="a sequence that changes its prompt"),
        pytest.param(change(2, groups=(scored(2), scored(3, prompt=99))), "batch 2 knows ('words:0:99', 0) as sequence 3", id="trained under another prompt"),
        pytest.param(change(3, groups=lambda g: g[:1]), "batch 3 trains [6] and settles [6, 7] as trained", id="settled, not trained"),
        pytest.param(change(3, groups=lambda g: g[:1]), "batch 3 holds 1 groups, not 2", id="a group too few"),
        pytest.param(change(2, groups=plus(scored(4))), "batch 2 trains [2, 3, 4] and settles [2, 3] as trained", id="trained, not settled"),
        pytest.param(change(2, groups=plus(scored(5)), settled=plus(settle(5)), open=without(5)), "batch 2 holds 3 groups, not 2", id="a group too many"),
        pytest.param(change(2, groups=lambda g: (g[0], g[0])), "batch 2 trains [2, 2] and settles [2, 3]", id="trained twice at once"),
        pytest.param(change(3, groups=lambda g: (scored(0), g[1])), "batch 3 trains [0, 7] and settles [6, 7]", id="trained twice"),
        pytest.param(change(2, groups=lambda g: g[::-1]), "batch 2 trains [3, 2] and settles [2, 3]", id="out of order"),
        pytest.param(change(3, settled=(settle(6), settle(7, prompt=5, attempt=1)), open=(issue(5), issue(8))), "batch 3 trains [6, 7] while sequences [5] were before them", id="overtaken"),
        pytest.param(change(3, next_sequence=8), "batch 3 knows sequences [8] that were not issued", id="never issued"),
        pytest.param(change(3, next_sequence=12), "batch 3 has lost sequences [9, 10, 11]", id="issued, and never heard of"),
        pytest.param(change(3, next_sequence=5), "batch 3 counts 5 issued sequences, the batch before 7", id="fewer issued than before"),
        pytest.param(change(3, groups=lambda g: (scored(6, spans=((-1, 0, 3),)), g[1])), "batch 3 trains a token of version -1, 3 steps old", id="a token too old"),
        pytest.param(change(1, groups=lambda g: (scored(0, spans=((0, 0, 2), (1, 2, 3))), g[1])), "batch 1 trains a token of version 1, -1 steps old", id="a token of the future"),
        pytest.param(change(2, groups=lambda g: (scored(2, spans=()), g[1])), "batch 2 trains tokens of no version", id="a token of no version"),
        pytest.param(change(2, groups=lambda g: (scored(2, spans=((0, 0, 2),)), g[1])), "batch 2 trains tokens of no version", id="spans that end early"),
        pytest.param(change(2, groups=lambda g: (scored(2, spans=((0, 0, 1), (1, 2, 3))), g[1])), "batch 2 trains tokens of no version", id="spans with a gap"),
    ],
)  # fmt: skip
def test_cooked_books_are_found_out(run, cook, found):
    run.keep(cook(books()))
    report = run.audit()
    assert not report.balanced
    assert any(found in problem for problem in report.problems), report.problems
    assert report.lines()[-1] == "NOT BALANCED"


def test_a_prompt_trained_again_under_a_new_attempt_is_found_out(run):
    """Sequence 7 is the second attempt of the prompt of 5: fine if 5 was lost, a double if it was trained."""
    records = books()
    records[1] = batch(2, groups=[scored(2), scored(5)], settled=[settle(2), settle(3, "filtered"), settle(5)], open=[issue(6)], issued=7)  # fmt: skip
    records[2] = dataclasses.replace(records[2], settled=without(5)(records[2].settled))
    run.keep(records)
    assert run.audit().problems == ["batch 3 trains words:0:5, which sequence 5 had trained before"]


def test_a_missing_batch_is_found_out(run):
    run.keep(books())
    run.blob(2).unlink()
    assert "batch 3 follows batch 1" in run.audit().problems


def test_a_batch_under_another_number_is_found_out(run):
    run.keep(books())
    run.blob(4).write_bytes(run.blob(3).read_bytes())
    assert "batch 4 holds batch 3" in run.audit().problems


@pytest.mark.parametrize("place", ["digest", "header", "body", "last", "cut", "empty"])
def test_a_damaged_blob_is_found_out(run, place):
    run.keep(books())
    data = run.blob(2).read_bytes()
    position = {"digest": 3, "header": 34, "body": len(data) // 2, "last": len(data) - 1}.get(place, 0)
    flipped = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    run.blob(2).write_bytes({"cut": data[:-1], "empty": b""}.get(place, flipped))
    assert run.audit().problems[0] == f"{run.blob(2)}: does not match its checksum"


def test_a_blob_of_something_else_is_a_problem_too(run):
    """Its checksum may well match: somebody wrote it whole."""
    run.keep(books())
    body = bytes(40)
    run.blob(2).write_bytes(hashlib.sha256(body).digest() + body)
    assert run.audit().problems[0].startswith(f"{run.blob(2)}: matches its checksum and yet holds no batch (")


def test_of_many_problems_the_first_are_shown(run):
    groups = tuple(scored(0, spans=((-9, 0, 3),)) for _ in range(30))
    run.keep(change(1, groups=groups)(books()))
    lines = run.audit().lines()
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[1].endswith("a token of version -9, 9 steps old")
    assert lines[-2].startswith("… and ")


def test_sequences_are_named_sparingly(run):
    run.keep(change(3, next_sequence=1000)(books()))
    assert run.audit().problems == [
        "batch 3 has lost sequences [9, 10, 11, 12, 13, 14, 15, 16] and 983 more: issued, neither settled nor open"
    ]


def test_the_audit_has_readers_of_its_own():
    """It shares no code with what it audits: ledger, wire form, recovery."""
    import orchestrator.audit

    source = Path(orchestrator.audit.__file__).read_text()
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "experience" in line or "train_cluster" in line or "weightstore" in line]
