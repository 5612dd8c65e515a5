"""The logic of the generation worker, on a scripted engine and the buffer in memory."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from prometheus_client import REGISTRY
from scripted_engine import ENDLESS_TOKEN, REFUSED_TOKEN, ScriptedEngine, ScriptedSource

from experience.buffer import BufferUnavailable, Fenced
from experience.memory import MemoryBuffer, MemoryServer
from experience.schema import CompletionGroup, Prompt, Sampling, VersionSpan
from experience.wire import decode
from gen_cluster import metrics
from gen_cluster.config import GenerationConfig
from gen_cluster.engine import WeightsRefused
from gen_cluster.worker import GenerationWorker
from weightstore.blobs import StoreError
from weightstore.fetch import CorruptVersion, VersionMissing

G = 2
LEASE_S = 60.0
LIMIT = 2


def a_prompt(sequence: int, *tokens: int, **changes) -> Prompt:
    fields = {
        "run_id": "run",
        "lineage": 0,
        "sequence": sequence,
        "prompt_id": f"words:0:{sequence}",
        "attempt": 0,
        "tokens": np.array(tokens or (5, 6), dtype=np.int32),
        "metadata": {"prompt": "ab"},
        "group_size": G,
        "sampling": Sampling(temperature=1.0, max_tokens=4, stop_token_ids=(1,), seed=100 * sequence),
        "min_version": 0,
        "deadline_s": 600.0,
    }
    return Prompt(**(fields | changes))


class Stage:
    """A buffer, an engine, a source and the worker between them."""

    def __init__(self, *, slots: int = 8, lease_s: float = LEASE_S) -> None:
        self.now = 0.0
        self.server = MemoryServer(clock=lambda: self.now)
        self.buffer = MemoryBuffer(self.server, run_epoch=1)
        self.buffer.raise_epoch(role="run", epoch=1)
        self.engine = ScriptedEngine(slots=slots)
        self.source = ScriptedSource()
        self.reached: list[tuple[str, int]] = []
        self.worker = GenerationWorker(
            GenerationConfig(group_size=G, poll_interval_s=1e-6),
            name="gen-0",
            engine=self.engine,
            buffer=self.buffer,
            weights=self.source,
            lease_s=lease_s,
            alone_limit=LIMIT,
            reached=lambda point, step: self.reached.append((point, step)),
        )
        self.worker.setup()

    def issue(self, *prompts: Prompt) -> None:
        self.buffer.issue(prompts, cursor=len(prompts))

    def depth(self, stream: str) -> int:
        return self.buffer.snapshot().depths[stream]

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline, self.worker.status()
            if not self.worker.step():
                time.sleep(0.0001)  # as run() waits for the poll interval

    def results(self) -> dict[int, CompletionGroup]:
        leases = MemoryBuffer(self.server, run_epoch=1).lease(
            "completions", worker="reader", count=100, lease_s=LEASE_S
        )
        return {lease.sequence: decode(lease.data, CompletionGroup) for lease in leases}


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is served again at once: the buffer's clock stands still here."""
    monkeypatch.setattr("experience.memory.BACK_OFF_S", 0.0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.worker.close()
    assert stage.engine.closed


def groups_in(requests: set[str]) -> set[int]:
    """Sequences from request ids `run/0/{sequence}#...`."""
    return {int(request.split("#")[0].rsplit("/")[-1]) for request in requests}


def test_a_group_says_what_was_sampled_how_and_by_which_weights(stage: Stage) -> None:
    prompt = a_prompt(0, 7, 8, 9)
    stage.issue(prompt)
    stage.until(lambda: stage.depth("completions"))
    group = stage.results()[0]
    assert group.prompt.prompt_id == "words:0:0"
    assert group.production.worker == "gen-0"
    assert [completion.index for completion in group.completions] == [0, 1]
    for index, completion in enumerate(group.completions):
        assert completion.seed == prompt.sampling.seed + index
        np.testing.assert_array_equal(completion.tokens, index + np.arange(4))
        np.testing.assert_array_equal(completion.behaviour_logprobs, [0, -1, -2, -3])
        assert completion.sampled.all()
        assert completion.spans == (VersionSpan(lineage=0, epoch=1, number=0, start=0, end=4),)
        assert (completion.finish_reason, completion.channels) == ("length", {})
    assert stage.depth("prompts") == 0
    assert stage.reached == [("gen.start", 0), ("gen.group", 0)]
    status = stage.worker.status()
    assert status.pop("wall").keys() == set(metrics.PHASES)
    assert status | {"state": "generating"} == {
        "state": "generating",
        "served": "0/1/0",
        "refused": "",
        "running": G,
        "waiting": 0,
        "groups_done": 0,
        "tokens_done": 0,
    }, "as of the start of the last step"


def test_nothing_is_leased_before_the_first_weights(stage: Stage) -> None:
    stage.source.number = None
    stage.issue(a_prompt(0))
    for _ in range(50):
        stage.worker.step()
    assert stage.worker.status()["state"] == "waiting for the first weights"
    assert stage.buffer.lease("prompts", worker="other", count=1, lease_s=LEASE_S)[0].deliveries == 1


def test_a_prompt_waits_for_its_version(stage: Stage) -> None:
    stage.issue(a_prompt(0), a_prompt(1, min_version=3))
    stage.until(lambda: stage.worker.status()["state"] == "waiting for version 3")
    assert stage.results().keys() == {0}
    assert stage.worker.status()["waiting"] == 1
    stage.source.number = 3
    stage.until(lambda: stage.depth("completions") == 2)
    assert stage.results()[1].completions[0].spans[0].number == 3


def test_new_weights_are_taken_while_requests_run(stage: Stage) -> None:
    stage.issue(a_prompt(0, sampling=Sampling(temperature=1.0, max_tokens=2000, stop_token_ids=(), seed=0)))
    stage.until(lambda: len(stage.engine.steps) > 10)
    stage.source.number = 1
    stage.until(lambda: stage.depth("completions"))
    first, second = stage.results()[0].completions[0].spans
    assert (first.number, second.number) == (0, 1)
    assert 0 == first.start < first.end == second.start < second.end == 2000
    assert stage.source.fetches == [0, 1], "each version is fetched once"


def test_the_engine_is_kept_full_and_never_steps_empty(stage: Stage) -> None:
    lengths = [3, 9, 5, 14, 2, 7, 4, 11, 6, 8]
    stage.issue(
        *(
            a_prompt(i, sampling=Sampling(temperature=1.0, max_tokens=length, stop_token_ids=(), seed=i))
            for i, length in enumerate(lengths)
        )
    )
    running = []
    stage.until(lambda: stage.engine.served)
    while stage.depth("completions") < len(lengths):
        stage.worker.step()
        running.append(REGISTRY.get_sample_value("headrace_gen_running"))
    assert running[0] == 8
    assert stage.engine.steps[0] == {f"run/0/{i}#1/{k}" for i in range(4) for k in range(G)}
    first_short = next(i for i, step in enumerate(stage.engine.steps) if len(step) < 8)
    started = set().union(*map(groups_in, stage.engine.steps[:first_short]))
    assert started == set(range(10)), "a slot stays empty only once every prompt has started"
    assert all(running)
    assert groups_in(stage.engine.steps[3]) == {1, 2, 3, 4}, "group 4 takes the place of the short group 0 at once"


def test_a_group_larger_than_the_engine_runs_when_it_is_empty() -> None:
    stage = Stage(slots=3)
    stage.issue(a_prompt(0), a_prompt(1, group_size=4), a_prompt(2))
    stage.until(lambda: stage.depth("completions") == 3)
    assert len(stage.results()[1].completions) == 4
    assert next(groups_in(step) for step in stage.engine.steps if 1 in groups_in(step)) == {1}
    stage.worker.close()


def test_an_idle_worker_goes_on_leasing_although_it_holds_prompts_that_wait() -> None:
    """Version 9 may depend on a prompt that a dead worker held."""
    stage = Stage(slots=G)
    stage.issue(a_prompt(0, min_version=9), a_prompt(1, min_version=9), a_prompt(2))
    stage.until(lambda: stage.depth("completions"))
    assert stage.results().keys() == {2}
    stage.worker.close()


def test_a_lost_lease_aborts_its_requests_and_gives_nothing() -> None:
    stage = Stage(lease_s=0.06)
    stage.issue(a_prompt(0, ENDLESS_TOKEN))
    stage.until(lambda: stage.engine.requests)
    stage.now += 1.0
    (lease,) = MemoryBuffer(stage.server, run_epoch=1).lease("prompts", worker="other", count=1, lease_s=0.06)
    stage.until(lambda: not stage.engine.requests)
    assert lease.suspect
    assert stage.depth("completions") == 0
    assert stage.worker.status()["groups_done"] == 0
    stage.worker.close()


def test_a_late_group_is_refused_by_the_buffer_and_forgotten(stage: Stage) -> None:
    stage.issue(a_prompt(0))
    stage.until(lambda: stage.engine.requests)
    stage.now += LEASE_S
    assert MemoryBuffer(stage.server, run_epoch=1).lease("prompts", worker="other", count=1, lease_s=LEASE_S)
    stage.until(lambda: not stage.engine.requests)
    assert stage.depth("completions") == 0
    assert stage.worker.status()["groups_done"] == 0


def test_its_own_expired_lease_that_comes_back_starts_over_alone(stage: Stage) -> None:
    stage.issue(a_prompt(0, sampling=Sampling(temperature=1.0, max_tokens=400, stop_token_ids=(), seed=0)))
    stage.until(lambda: stage.engine.requests)
    stage.now += LEASE_S
    stage.until(lambda: stage.depth("completions"))
    assert len(stage.results()) == 1
    deliveries = [{request.split("#")[1][0] for request in step} for step in stage.engine.steps]
    assert deliveries == [{"1"}] * deliveries.count({"1"}) + [{"2"}] * 400


def test_an_overdue_group_is_retried_alone_and_then_quarantined(stage: Stage) -> None:
    stage.issue(a_prompt(0, ENDLESS_TOKEN, deadline_s=0.005), a_prompt(1))
    stage.until(lambda: stage.depth("quarantine"))
    stage.until(lambda: stage.depth("completions"))
    assert stage.results().keys() == {1}
    (settlement,) = stage.buffer.settled()
    assert (settlement.sequence, settlement.outcome) == (0, "quarantined")
    assert settlement.reason.endswith("last: not finished within 0.005 s")
    assert not stage.engine.requests


def test_one_poison_prompt_among_sixteen_is_quarantined_alone(stage: Stage) -> None:
    stage.issue(*(a_prompt(i, REFUSED_TOKEN if i == 5 else 3) for i in range(17)))
    stage.until(lambda: stage.depth("quarantine") + stage.depth("completions") == 17)
    assert stage.results().keys() == set(range(17)) - {5}
    (settlement,) = stage.buffer.settled()
    assert (settlement.sequence, settlement.outcome) == (5, "quarantined")
    assert settlement.reason.endswith("last: refused by the engine: longer than the context")


def test_a_suspect_waits_for_an_empty_engine_and_runs_alone(stage: Stage) -> None:
    stage.issue(*(a_prompt(i) for i in range(6)))
    other = MemoryBuffer(stage.server, run_epoch=1)
    other.release(other.lease("prompts", worker="other", count=1, lease_s=LEASE_S)[0], reason="died")
    stage.until(lambda: stage.depth("completions") == 6)
    with_suspect = [groups_in(step) for step in stage.engine.steps if 0 in groups_in(step)]
    assert with_suspect == [{0}] * 4


def test_a_suspect_does_not_start_beside_running_groups(stage: Stage) -> None:
    long = Sampling(temperature=1.0, max_tokens=30, stop_token_ids=(), seed=0)
    stage.issue(a_prompt(0), a_prompt(1, sampling=long))
    other = MemoryBuffer(stage.server, run_epoch=1)
    (held,) = other.lease("prompts", worker="other", count=1, lease_s=LEASE_S)
    stage.until(lambda: len(stage.engine.steps) > 3)
    other.release(held, reason="died")
    stage.until(lambda: stage.depth("completions") == 2)
    assert [groups_in(step) for step in stage.engine.steps] == [{1}] * 30 + [{0}] * 4


def test_beside_a_suspect_nothing_is_held_back_from_other_workers(stage: Stage) -> None:
    stage.issue(a_prompt(0, ENDLESS_TOKEN))
    other = MemoryBuffer(stage.server, run_epoch=1)
    other.release(other.lease("prompts", worker="other", count=1, lease_s=LEASE_S)[0], reason="died")
    stage.until(lambda: stage.engine.requests)
    stage.buffer.issue([a_prompt(1)], cursor=2)
    for _ in range(20):
        stage.worker.step()
    assert other.lease("prompts", worker="other", count=1, lease_s=LEASE_S)[0].deliveries == 1


def test_an_unreadable_entry_is_quarantined(stage: Stage) -> None:
    stage.issue(a_prompt(0), a_prompt(1))
    next(iter(stage.server.streams["prompts"].values())).data = b"nonsense"
    stage.until(lambda: stage.depth("quarantine") and stage.depth("completions"))
    assert stage.results().keys() == {1}
    assert "unreadable prompt" in stage.buffer.settled()[0].reason


def test_an_unusable_version_leaves_the_old_one_serving(stage: Stage) -> None:
    stage.until(lambda: stage.engine.served)
    stage.source.faults[1] = CorruptVersion("shard-0: expected sha256 a, found b")
    stage.source.number = 1
    stage.until(lambda: stage.worker.status().get("refused"))
    looks = stage.source.looks
    stage.until(lambda: stage.source.looks > looks + 3)
    stage.source.unfit = {2}
    stage.source.number = 2
    stage.until(lambda: "does not fit" in str(stage.worker.status()["refused"]))
    stage.issue(a_prompt(0))
    stage.until(lambda: stage.depth("completions"))
    assert stage.results()[0].completions[0].spans[0].number == 0
    stage.source.number = 3
    stage.until(lambda: stage.engine.served.number == 3)
    stage.worker.step()
    assert stage.worker.status()["refused"] == ""
    assert stage.source.fetches == [0, 1, 2, 3], "a corrupt version is not fetched over and over"


def test_a_first_version_that_does_not_fit_ends_the_worker(stage: Stage) -> None:
    stage.source.unfit = {0}
    with pytest.raises(WeightsRefused, match="does not fit"):
        stage.until(lambda: False)


def test_an_engine_that_starts_on_a_damaged_version_serves_the_last_whole_one_before_it(stage: Stage) -> None:
    for number in (3, 4):
        stage.source.faults[number] = CorruptVersion(f"v{number}/shard-0: expected sha256 a, found b")
    stage.source.number = 4
    stage.issue(a_prompt(0, min_version=2), a_prompt(1, min_version=3))
    stage.until(lambda: stage.depth("completions"))
    assert stage.source.fetches == [4, 3, 2], "each is tried once"
    assert "v4/shard-0" in str(stage.worker.status()["refused"])
    assert stage.depth("prompts") == 1, "what was admitted under a newer version waits for one"
    stage.source.number = 5
    stage.until(lambda: stage.depth("completions") == 2)
    assert stage.worker.status()["refused"] == ""
    assert stage.source.fetches == [4, 3, 2, 5]


def test_an_engine_with_nothing_whole_to_serve_waits_for_the_next_version(stage: Stage) -> None:
    stage.source.faults[0] = CorruptVersion("v0/shard-0: expected sha256 a, found b")
    stage.until(lambda: stage.worker.status().get("refused"))
    looks = stage.source.looks
    stage.until(lambda: stage.source.looks > looks + 3)
    assert stage.worker.status()["state"] == "waiting for the first weights"
    stage.source.number = 1
    stage.until(lambda: stage.engine.served is not None)
    assert stage.source.fetches == [0, 1]


@pytest.mark.parametrize("fault", [StoreError(5, "cannot read /x: Input/output error"), VersionMissing("deleted")])
def test_a_store_that_fails_is_asked_again(stage: Stage, fault: Exception) -> None:
    stage.until(lambda: stage.engine.served)
    stage.source.faults[1] = fault
    stage.source.number = 1
    stage.until(lambda: stage.source.fetches.count(1) > 3)
    assert stage.engine.served.number == 0
    del stage.source.faults[1]
    stage.until(lambda: stage.engine.served.number == 1)


@pytest.mark.parametrize("number", [0, 1])
def test_a_version_whose_files_cannot_be_read_for_now_is_loaded_later(stage: Stage, number: int) -> None:
    """The first one too: nothing serves yet, and yet the worker lives on."""
    stage.source.number = 0
    if number:
        stage.until(lambda: stage.engine.served)
    stage.engine.fault = OSError(5, "Input/output error")
    stage.source.number = number
    stage.until(lambda: stage.source.fetches.count(number) > 3)
    assert "Input/output error" in str(stage.worker.status()["refused"])
    stage.engine.fault = None
    stage.until(lambda: stage.engine.served is not None and stage.engine.served.number == number)
    stage.worker.step()
    assert stage.worker.status()["refused"] == ""


def test_a_slow_fetch_does_not_stall_generation(stage: Stage) -> None:
    stage.until(lambda: stage.engine.served)
    fetch, go_on = stage.source.fetch, threading.Event()

    def slow(version):
        go_on.wait(10)
        return fetch(version)

    stage.source.fetch = slow
    stage.source.number = 1
    stage.issue(*(a_prompt(i) for i in range(8)))
    stage.until(lambda: stage.depth("completions") == 8)
    assert stage.engine.served.number == 0
    go_on.set()
    stage.until(lambda: stage.engine.served.number == 1)


def test_a_newer_epoch_ends_the_worker(stage: Stage) -> None:
    stage.until(lambda: stage.engine.served)
    MemoryBuffer(stage.server, run_epoch=2).raise_epoch(role="run", epoch=2)
    with pytest.raises(Fenced):
        stage.until(lambda: False)


def test_a_buffer_that_is_gone_ends_the_worker(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args, **kwargs):
        raise BufferUnavailable("no answer")

    stage.issue(a_prompt(0))
    monkeypatch.setattr(stage.buffer, "advance", gone)
    with pytest.raises(BufferUnavailable):
        stage.until(lambda: False)


def test_the_fault_points_come_before_a_group_starts_and_before_it_is_put(stage: Stage) -> None:
    seen = []
    stage.worker._reached = lambda *place: seen.append((*place, stage.engine.running(), stage.depth("completions")))
    stage.issue(a_prompt(0))
    stage.until(lambda: stage.depth("completions"))
    assert seen == [("gen.start", 0, 0, 0), ("gen.group", 0, 0, 0)]


def test_run_ends_when_asked_and_keeps_nothing_running(stage: Stage) -> None:
    stage.issue(*(a_prompt(i) for i in range(5)))
    stop = threading.Event()
    thread = threading.Thread(target=stage.worker.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 10
    while stage.depth("completions") < 5 and time.monotonic() < deadline:
        time.sleep(0.001)  # the thread has no other sign
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert stage.results().keys() == set(range(5))
