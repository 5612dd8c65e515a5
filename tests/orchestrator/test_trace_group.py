"""`headrace trace`: a group's way, from the ledger, the logs and the buffer; spans that add up; OpenTelemetry."""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from experience_records import a_batch, a_group, a_prompt, a_scored_group, a_settlement, an_issue
from orchestrator_folders import a_run
from otlp_receiver import collector
from typer.testing import CliRunner

from experience import wire
from experience.buffer import Entry
from experience.ledger import Ledger
from experience.schema import BatchRecord, Production, ScoredGroup, Settlement
from orchestrator.cli import app
from orchestrator.folder import RunFolder
from orchestrator.trace import story
from orchestrator.trace.assemble import Made, Story, Training, assemble
from orchestrator.trace.otlp import endpoint
from orchestrator.trace.span import Trace
from orchestrator.trace.text import duration, lines
from weightstore.blobs import FileBlobStore

T0 = 1_750_000_000.0
"""Issued."""


def produced(worker: str, *, queued: float, leased: float, waited: float, worked: float, delivery: int = 1) -> Made:
    return Made(
        production=Production(
            worker=worker,
            deliveries=delivery,
            queued_at=T0 + queued,
            leased_at=T0 + leased,
            waited_s=waited,
            worked_s=worked,
        ),
        attributes={},
    )


GENERATED = produced("gen-0.e1.0", queued=0, leased=1, waited=0.5, worked=2.5)  # until 4
SCORED = produced("score-1.e1.0", queued=4.25, leased=5, waited=0, worked=1)  # until 6
TRAINING = Training(
    step=3, committed_at=T0 + 8, trained_at=T0 + 12, trained_s=3, published_at=T0 + 12.5, version="0/1/3"
)
STORY = Story(
    group_id="r/0/7",
    sequence=7,
    prompt_id="words:0:7",
    attempt=0,
    state="trained",
    generated=GENERATED,
    scored=SCORED,
    training=TRAINING,
)


def brief(trace: Trace) -> list[tuple[str, float | None, float]]:
    """name, start after the issue, seconds"""
    return [(s.name, None if s.start is None else round(s.start - T0, 6), round(s.seconds, 6)) for s in trace.spans]


def gapless(trace: Trace) -> None:
    for one, next_one in zip(trace.spans, trace.spans[1:], strict=False):
        assert one.end == pytest.approx(next_one.start, abs=1e-5)
    assert sum(span.seconds for span in trace.spans) == pytest.approx(trace.seconds, abs=1e-5)
    assert all(span.seconds >= 0 for span in trace.spans)


def test_the_way_of_a_trained_group() -> None:
    trace = assemble(STORY, now=T0 + 99)
    assert brief(trace) == [
        ("waited for generation", 0, 1),
        ("waited for version or room", 1, 0.5),
        ("generated", 1.5, 2.5),
        ("waited for scoring", 4, 1),
        ("scored", 5, 1),
        ("waited for its batch", 6, 2),
        ("waited for the trainer", 8, 1),
        ("trained", 9, 3),
        ("version published", 12, 0.5),
    ]
    assert [span.worker for span in trace.spans[::4]] == ["gen-0", "score-1", "driver"]
    assert (trace.seconds, trace.notes, trace.open) == (12.5, (), False)
    gapless(trace)


@pytest.mark.parametrize(
    ("generated", "scored", "moved", "said"),
    [
        # gen-0 is 3 s behind: it seems to lease 2 s before the issue, and is moved to it
        ({"leased": -2.0}, {}, ("waited for generation", 0, 0), "gen-0 is at least 2.000 s behind"),
        # gen-0 is 2 s ahead: it ends at 6, and handed over at 4.25
        ({"leased": 3.0}, {}, ("waited for generation", 0, 1.25), "gen-0 is at least 1.750 s ahead of"),
        # score-1 is 4 s ahead: it ends at 10, and its batch was committed at 8
        ({}, {"leased": 9.0}, ("waited for scoring", 4, 3), "score-1 is at least 2.000 s ahead of"),
        # score-1 is 4 s behind: it leases at 1, and generation ended at 4
        ({}, {"leased": 1.0}, ("waited for scoring", 4, 0), "score-1 is at least 3.000 s behind"),
    ],
)
def test_clocks_that_differ_move_a_workers_part_as_a_whole(
    generated: dict[str, float], scored: dict[str, float], moved: tuple[str, float, float], said: str
) -> None:
    def shifted(made: Made, change: dict[str, float]) -> Made:
        stamps = {f"{key}_at": T0 + value for key, value in change.items()}
        return dataclasses.replace(made, production=dataclasses.replace(made.production, **stamps))

    trace = assemble(
        dataclasses.replace(STORY, generated=shifted(GENERATED, generated), scored=shifted(SCORED, scored)), now=T0
    )
    assert moved in brief(trace)
    assert {span.name: span.seconds for span in trace.spans}["generated"] == 2.5
    assert len(trace.notes) == 1
    assert said in trace.notes[0]
    gapless(trace)


def test_a_driver_whose_clock_is_behind_publishes_at_once_and_is_named() -> None:
    late = dataclasses.replace(TRAINING, published_at=T0 + 1)
    trace = assemble(dataclasses.replace(STORY, training=late), now=T0)
    assert trace.spans[-1].seconds == 0
    assert any("driver is at least" in note for note in trace.notes), trace.notes
    gapless(trace)


def test_milliseconds_of_rounding_are_no_skew() -> None:
    rounded = dataclasses.replace(TRAINING, committed_at=T0 + 5.997)
    trace = assemble(dataclasses.replace(STORY, training=rounded), now=T0)
    assert trace.notes == ()
    gapless(trace)


def test_an_older_record_gives_durations_alone() -> None:
    old = {"deliveries": 0, "queued_at": 0.0, "leased_at": 0.0}
    generated, scored = (
        dataclasses.replace(made, production=dataclasses.replace(made.production, **old))
        for made in (GENERATED, SCORED)
    )
    trace = assemble(dataclasses.replace(STORY, generated=generated, scored=scored), now=T0)
    assert brief(trace)[:3] == [
        ("waited for version or room", None, 0.5),
        ("generated", None, 2.5),
        ("scored", None, 1),
    ]
    assert brief(trace)[-1] == ("version published", 12, 0.5), "logs of the trainer still say when"
    assert "older" in trace.notes[0]
    assert any("generated" in line for line in lines(trace, width=80))


def test_what_is_in_flight_lasts_until_now() -> None:
    data = wire.encode(a_group(4))
    entry = Entry(stream="completions", put_at=T0, data=data, worker="score-0.e1.0", deliveries=2, idle_s=0.4)
    told = story.of_entry(entry)
    assert told.state == "in flight, not scored: with score-0, delivery 2, which gave a sign 0.4 s ago"
    trace = assemble(told, now=1.75e9 + 100)  # leased at 1.75e9, 1.75 s of waiting and work
    assert trace.open
    assert trace.spans[-1].name == "being scored, or held"
    assert trace.spans[-1].seconds == pytest.approx(98.25)
    waiting = Entry(stream="prompts", put_at=T0, data=wire.encode(a_prompt(4)), worker="", deliveries=0, idle_s=3.0)
    trace = assemble(story.of_entry(waiting), now=T0 + 3)
    assert (trace.state, brief(trace)) == (
        "in flight, not generated: nobody has taken it",
        [("waits for generation", 0, 3)],
    )


# -- the command -------------------------------------------------------------------------------------------------------
def scored(sequence: int) -> bytes:
    base = a_scored_group(sequence)
    group = dataclasses.replace(
        base, production=SCORED.production, group=dataclasses.replace(base.group, production=GENERATED.production)
    )
    return wire.encode(group)


def committed(ledger: Ledger, number: int, trained: tuple[int, ...], *others: Settlement, **more: object) -> None:
    settled = (*(a_settlement(sequence) for sequence in trained), *others)
    record: BatchRecord = a_batch(number, settled=settled, groups=tuple(map(scored, trained)), **more)  # type: ignore[arg-type]
    ledger.commit(record)


def logged(second: float, worker: str, event: str, *, level: str = "info", **extra: object) -> str:
    time = datetime.fromtimestamp(T0 + second, UTC).isoformat(timespec="milliseconds")
    return (
        json.dumps({"time": time, "level": level, "logger": "l", "run": "r", "worker": worker, "event": event} | extra)
        + "\n"
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Batch 1 trained 0 and 1, batch 2 trained 3 and 4, 2 was dropped meanwhile, 6 quarantined, 5 is open."""
    folder = a_run(tmp_path, "r")
    ledger = Ledger(FileBlobStore(folder.path), lineage=0)
    committed(ledger, 1, (0, 1), a_settlement(6, outcome="quarantined", reason="prompts: failed"), next_sequence=7)
    committed(
        ledger, 2, (3, 4), a_settlement(2, outcome="dropped", reason="late"), open=(an_issue(5),), next_sequence=7
    )
    (folder.logs / "rank-0.jsonl").write_text(
        logged(2, "rank-0", "batch committed", step=1, groups=[0, 1])
        + logged(8, "rank-0", "batch committed", step=2, groups=[3, 4])
        + logged(12, "rank-0", "step trained", step=2, seconds=3.0)
        + logged(90, "rank-0", "step trained", step=2, seconds=3.0)
    )
    (folder.logs / "driver.jsonl").write_text(logged(12.5, "driver", "published", step=2, version="0/1/2"))
    (folder.logs / "gen-0.jsonl").write_text(
        logged(0.5, "gen-0", "group given up", level="warning", group=4, result="overdue")
    )
    return folder


def traced(run: RunFolder, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["trace", str(run.path), *arguments])
    assert done.exit_code == code, done.output
    return done.output if code == 0 else done.stderr


@pytest.mark.parametrize("group", ["4", "r/0/4"])
def test_a_trained_group_is_found_in_ledger_and_logs(run: RunFolder, group: str) -> None:
    found = json.loads(traced(run, group, "--json"))
    assert (found["group"], found["step"], found["state"]) == ("r/0/4", 2, "trained in step 2, in version 0/1/2")
    assert found["seconds"] == pytest.approx(12.5)
    assert sum(span["seconds"] for span in found["spans"]) == pytest.approx(12.5)
    attributes = {span["name"]: span["attributes"] for span in found["spans"]}
    assert attributes["generated"] == {"samples": 2, "tokens": 4, "versions": "0/1/3"}
    assert attributes["scored"] == {"reward": 1.0, "reward.exact": 1.0}
    assert found["notes"] == ["gen-0: group given up (overdue)"]


def test_the_text_shows_when(run: RunFolder) -> None:
    shown = traced(run, "4").splitlines()
    assert "12.50 s in all" in shown[1]
    bars = {name: line for line in shown for name in ("generated", "trained") if line[2:].startswith(name)}
    assert 0 < bars["generated"].index("█") < bars["trained"].index("█")


def test_a_step_shows_all_groups_of_its_batch(run: RunFolder) -> None:
    assert [one["sequence"] for one in json.loads(traced(run, "step:2", "--json"))["groups"]] == [3, 4]
    shown = traced(run, "step:2")
    assert shown.startswith("step 2: 2 groups\n")
    assert "the group that was scored last:\ngroup r/0/" in shown


@pytest.mark.parametrize(
    ("group", "state"),
    [
        ("2", "dropped, as batch 2 records: late"),
        ("6", "quarantined, as batch 1 records: prompts: failed"),
        ("5", "in flight when the run was last alive; a resume goes on with it"),
    ],
)
def test_a_group_that_was_not_trained_says_what_became_of_it(run: RunFolder, group: str, state: str) -> None:
    assert json.loads(traced(run, group, "--json"))["state"] == state


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("99", "GROUP = 99: no such group was issued; 7 were when batch 2 was committed"),
        ("seven", "GROUP = seven: names no group; write its sequence (17), its id (r/0/17) or step:3"),
        ("other/0/4", "GROUP = other/0/4: is of another run; groups of this one are r/0/…"),
        ("step:9", "GROUP = step:9: there is no such batch; the ledger holds 1 to 2"),
    ],
)
def test_a_mistake_is_one_line(run: RunFolder, group: str, said: str) -> None:
    assert traced(run, group, code=2) == f"headrace: {said}\n"


def test_a_run_whose_server_is_not_up_yet_says_so(run: RunFolder) -> None:
    with run.locked():
        assert "GROUP = 5: is in no batch, and the buffer cannot be asked: " in traced(run, "5", code=2)


def test_any_group_of_a_long_ledger_is_found_in_few_reads(tmp_path: Path) -> None:
    class Counting(Ledger):
        reads = 0

        def read(self, number: int) -> BatchRecord | None:
            self.reads += 1
            return super().read(number)

    ledger = Counting(FileBlobStore(tmp_path), lineage=0)
    for number in range(1, 33):
        committed(ledger, number, (2 * number - 2, 2 * number - 1), next_sequence=2 * number + 4)
    for number in range(5, 33):
        ledger.reads = 0
        found = story.batch_of(ledger, 2 * number - 1)
        assert found is not None
        assert (found[0].number, found[1].sequence, ledger.reads <= 7) == (number, 2 * number - 1, True)
    assert story.batch_of(ledger, 64) is None


# -- OpenTelemetry -----------------------------------------------------------------------------------------------------
def test_a_collector_gets_the_same_spans(run: RunFolder) -> None:
    with collector() as received:
        assert "sent 10 spans" in traced(run, "4", "--otlp", received.url)
        traced(run, "4", "--otlp", f"{received.url}/v1/traces")
    assert received.paths == ["/v1/traces", "/v1/traces"]
    sent = received.spans()
    root = next(span for service, span in sent if service == "headrace")
    parts = {span.name: (service, span) for service, span in sent[: len(sent) // 2] if span.parent_span_id}
    assert root.name == "group 4"
    assert root.end_time_unix_nano - root.start_time_unix_nano == pytest.approx(12.5e9, abs=1e6)
    assert {span.parent_span_id for _, span in parts.values()} == {root.span_id}
    assert {span.trace_id for _, span in sent} == {root.trace_id}, "sent twice, it is the same trace"
    service, generated = parts["generated"]
    assert service == "headrace-gen"
    assert (generated.end_time_unix_nano - generated.start_time_unix_nano) / 1e9 == pytest.approx(2.5, abs=1e-3)
    assert {a.key: a.value.int_value for a in generated.attributes}["headrace.tokens"] == 4


def test_the_usual_variable_names_the_collector(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        traced(run, "4", "--json")
    assert len(received.requests) == 1


def test_a_collector_that_refuses_is_one_line_and_its_address_no_secret(run: RunFolder) -> None:
    with collector(status=400) as received:
        url = received.url.replace("http://", "http://user:canary@")
        said = traced(run, "4", "--otlp", url, code=1)
    assert (
        said == "headrace: --otlp: the collector at 127.0.0.1 did not take 10 spans; remedy: check URL and collector\n"
    )


def test_a_variable_that_is_set_for_others_hides_no_trace(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    done = CliRunner().invoke(app, ["trace", str(run.path), "4"])
    assert done.exit_code == 2
    assert "generated" in done.stdout
    assert "write http://HOST:4318" in done.stderr


def test_an_address_that_is_none_is_refused(run: RunFolder) -> None:
    assert "write http://HOST:4318" in traced(run, "4", "--otlp", "collector:4318", code=2)
    assert endpoint("https://h/prefix/traces") == "https://h/prefix/traces"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0042, "4.2 ms"), (0.5, "500 ms"), (2, "2.00 s"), (125, "2 min 05 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_is_decoded_is_what_was_scored() -> None:
    group = wire.decode(scored(3), ScoredGroup)
    assert story.of_scored(group).scored == Made(
        production=SCORED.production, attributes={"reward": 1.0, "reward.exact": 1.0}
    )
