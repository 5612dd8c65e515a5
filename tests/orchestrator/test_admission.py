"""Admission: what is issued when, in which order and under which attempt, on a real buffer in memory."""

import logging

from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_recipes import a_recipe, an_issuer

from experience.memory import MemoryBuffer, MemoryServer
from experience.schema import Issue, Prompt
from experience.wire import decode
from orchestrator.admission import Admission, capacity_groups
from orchestrator.folder import RunFolder
from orchestrator.stores import open_buffer, open_server

GROUPS = 4


class Loop:
    """A buffer with its admission; steps are played by settling and counting."""

    def __init__(self, *, steps: int = 10, staleness: int = 2, capacity: int | None = None, cursor: int = 0) -> None:
        self.server = MemoryServer(cursor=cursor)
        self.buffer = MemoryBuffer(self.server, run_epoch=1, trainer_epoch=1)
        self.buffer.raise_epoch(role="run", epoch=1)
        self.buffer.raise_epoch(role="trainer", epoch=1)
        self.recipe = a_recipe(
            run__steps=steps,
            pacing={"batch_groups": GROUPS, "max_staleness": staleness},
            experience={"capacity_groups": capacity},
        )
        self.admission = self.restarted()

    def restarted(self) -> Admission:
        return Admission(self.recipe, buffer=self.buffer, issuer=an_issuer(self.recipe))

    def admit(self, *, published: int) -> int:
        return self.admission.admit(self.buffer.snapshot(), published=published)

    def commit(self) -> None:
        """The next batch, of the lowest sequences."""
        batch = sorted(issue.sequence for issue in self.buffer.unsettled())[:GROUPS]
        assert len(batch) == GROUPS
        for sequence in batch:
            self.server.forget(sequence)
            self.server.issued.pop(sequence)
        self.server.committed += 1

    def prompts(self) -> list[Prompt]:
        return [decode(entry.data, Prompt) for entry in self.server.streams["prompts"].values()]


def test_before_the_first_version_a_window_of_one_step_less_is_issued():
    """eta + p + 1 - v batches: 2 - 1 + 1 - 0 = 2 with nothing published, one more with version 0."""
    loop = Loop()
    assert [loop.admit(published=-1), loop.admit(published=-1)] == [2 * GROUPS, 0]
    assert {prompt.min_version for prompt in loop.prompts()} == {0}
    assert [loop.admit(published=0), loop.admit(published=0)] == [GROUPS, 0]


def test_synchronous_runs_wait_for_the_version():
    loop = Loop(staleness=0)
    assert loop.admit(published=-1) == 0
    assert loop.admit(published=0) == GROUPS
    loop.commit()
    assert loop.admit(published=0) == 0
    assert loop.admit(published=1) == GROUPS


def test_sequences_follow_the_order_of_the_data_across_calls():
    loop = Loop(cursor=998)
    loop.admit(published=-1)
    loop.admit(published=0)
    prompts = loop.prompts()
    assert [prompt.sequence for prompt in prompts] == list(range(12))
    assert [prompt.prompt_id for prompt in prompts[:4]] == ["words:0:998", "words:0:999", "words:1:0", "words:1:1"]
    assert {prompt.attempt for prompt in prompts} == {0}
    assert loop.buffer.snapshot().cursor == 998 + 12


def test_a_prompt_is_stamped_with_the_newest_version():
    loop = Loop(staleness=1)
    loop.admit(published=0)
    loop.commit()
    loop.admit(published=1)
    assert [prompt.min_version for prompt in loop.prompts()] == [0] * GROUPS + [1] * GROUPS


def test_what_is_settled_without_training_makes_room():
    loop = Loop()
    loop.admit(published=0)
    loop.buffer.settle([0, 5, 7], outcome="filtered", reason="all alike")
    assert loop.admit(published=0) == 3
    assert [prompt.sequence for prompt in loop.prompts()][-3:] == [12, 13, 14]


def test_capacity_is_never_exceeded():
    loop = Loop(capacity=12)
    assert loop.admit(published=3) == 12
    assert loop.admit(published=9) == 0


def test_capacity_is_what_the_staleness_bound_can_use_unless_given():
    pacing = {"batch_groups": GROUPS, "max_staleness": 2}
    assert capacity_groups(a_recipe(pacing=pacing)) == 12
    assert capacity_groups(a_recipe(pacing=pacing, experience={"capacity_groups": 50})) == 50


def test_no_more_is_issued_than_the_last_step_needs():
    loop = Loop(steps=2)
    assert loop.admit(published=0) == 2 * GROUPS
    loop.buffer.settle([3], outcome="quarantined", reason="")
    assert loop.admit(published=0) == 1
    loop.commit()
    assert loop.admit(published=1) == 0
    loop.commit()
    assert loop.admit(published=2) == 0
    assert loop.buffer.snapshot().next_sequence == 2 * GROUPS + 1


def test_an_old_snapshot_admits_less_never_more():
    loop = Loop(capacity=100)
    loop.admit(published=0)
    old = loop.buffer.snapshot()
    loop.commit()
    assert loop.admission.admit(old, published=0) == 0
    assert loop.admission.admit(old, published=1) == GROUPS
    assert loop.buffer.snapshot().live == 12  # the window of p = 1, v = 1


def test_a_lost_prompt_is_issued_under_its_next_attempt_whatever_the_pace():
    loop = Loop()
    loop.admit(published=0)
    lost = [Issue(sequence=1, prompt_id="words:0:1", attempt=0), Issue(sequence=6, prompt_id="words:0:6", attempt=4)]
    loop.admission.issue_anew(lost, loop.buffer.snapshot())
    again = loop.prompts()[12:]
    assert [(p.sequence, p.prompt_id, p.attempt, p.min_version) for p in again] == [
        (12, "words:0:1", 1, 0),
        (13, "words:0:6", 5, 0),
    ]
    assert [p.metadata["prompt"] for p in again] == ["words:0:1", "words:0:6"]
    assert loop.buffer.snapshot().cursor == 12  # no prompt was drawn from the data


def test_an_attempt_samples_anew():
    loop = Loop()
    loop.admit(published=0)
    loop.admission.issue_anew([loop.buffer.unsettled()[0]], loop.buffer.snapshot())
    first, again = loop.prompts()[0], loop.prompts()[-1]
    assert first.prompt_id == again.prompt_id
    assert first.sampling.seed != again.sampling.seed


def test_a_dropped_prompt_is_issued_anew_once_and_first():
    loop = Loop(steps=3)  # all that is needed is issued: the next attempt takes the place of the dropped group
    loop.admit(published=0)
    loop.buffer.settle([1, 2], outcome="dropped", reason="late")
    assert loop.admit(published=0) == 2
    again = loop.prompts()[-2:]
    assert [(p.sequence, p.prompt_id, p.attempt) for p in again] == [(12, "words:0:1", 1), (13, "words:0:2", 1)]
    assert loop.buffer.snapshot().live == 12
    assert loop.buffer.snapshot().cursor == 12
    assert loop.admit(published=0) == 0
    assert loop.restarted().admit(loop.buffer.snapshot(), published=0) == 0  # known from the buffer, not from memory


def test_a_next_attempt_that_is_dropped_itself_is_owed_again():
    loop = Loop()
    loop.admit(published=0)
    loop.buffer.settle([0], outcome="dropped", reason="late")
    loop.admit(published=0)
    loop.buffer.settle([12], outcome="dropped", reason="late")
    assert loop.admit(published=0) == 1
    assert [(p.prompt_id, p.attempt) for p in loop.prompts()[-1:]] == [("words:0:0", 2)]


def test_nothing_lost_issues_nothing():
    loop = Loop(cursor=5)
    loop.admission.issue_anew([], loop.buffer.snapshot())
    assert (loop.buffer.snapshot().next_sequence, loop.buffer.snapshot().cursor) == (0, 5)


def test_a_full_server_is_asked_again_and_complained_of_once(tmp_path, caplog):
    """On a real server of 8 MiB: it takes prompts until it is full, and more once groups have left it."""
    caplog.set_level(logging.INFO, logger="orchestrator.admission")
    recipe = a_recipe(run__steps=100, pacing={"batch_groups": 8, "max_staleness": 0}, experience={"memory_mib": 8})
    server = open_server(recipe, RunFolder(tmp_path))
    server.start()
    buffer = open_buffer(recipe, RunFolder(tmp_path), run_epoch=1, trainer_epoch=1)
    try:
        buffer.raise_epoch(role="run", epoch=1)
        buffer.raise_epoch(role="trainer", epoch=1)
        admission = Admission(recipe, buffer=buffer, issuer=an_issuer(recipe))
        client = server.client()
        assert admission.admit(buffer.snapshot(), published=0) == 8
        buffer.settle([0, 1, 2], outcome="filtered", reason="all alike")
        client.eval("#!lua flags=allow-oom\nredis.call('SET', 'ballast', string.rep('x', 2^23))", 0)
        assert [admission.admit(buffer.snapshot(), published=0) for _ in range(3)] == [0, 0, 0]
        assert (buffer.snapshot().next_sequence, buffer.snapshot().cursor) == (8, 8)
        client.delete("ballast")
        assert [admission.admit(buffer.snapshot(), published=0) for _ in range(2)] == [3, 0]
        said = [r.message for r in caplog.records if r.name == "orchestrator.admission"]
        assert [message for message in said if message != "prompts issued"] == [
            "buffer is full",
            "buffer takes prompts again",
        ]
    finally:
        buffer.close()
        server.stop()


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_whatever_happens_every_group_trained_is_fresh_enough_and_none_is_issued_in_vain(data):
    """A token of version n in batch k is k - 1 - n old: at most eta, with n >= the prompt's min_version."""
    steps, staleness = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 3))
    loop = Loop(steps=steps, staleness=staleness)
    floor: dict[int, int] = {}
    published, dropped = -1, 0
    actions = data.draw(st.lists(st.sampled_from(["admit", "publish", "commit", "settle"]), max_size=60))
    for action in [*actions, *["publish", "admit", "commit"] * 8]:
        live = [issue.sequence for issue in loop.buffer.unsettled()]
        if action == "admit":
            loop.admit(published=published)
            floor |= {prompt.sequence: prompt.min_version for prompt in loop.prompts()}
            assert loop.buffer.snapshot().live <= (staleness + 1) * GROUPS
        elif action == "publish":
            published = loop.server.committed  # what is committed may be trained, and what is trained may be published
        elif action == "commit" and len(live) >= GROUPS:
            loop.commit()
            for sequence in sorted(live)[:GROUPS]:
                assert loop.server.committed - 1 - floor[sequence] <= staleness
        elif action == "settle" and live:
            loop.buffer.settle([data.draw(st.sampled_from(live))], outcome="filtered", reason="")
            dropped += 1
    assert loop.server.committed == steps
    assert loop.server.next_sequence == steps * GROUPS + dropped - len(loop.buffer.unsettled())


def test_what_is_issued_and_settled_is_read_again_only_when_a_counter_or_the_version_has_moved(monkeypatch):
    loop, reads = Loop(), []
    unsettled = loop.buffer.unsettled
    monkeypatch.setattr(loop.buffer, "unsettled", lambda: reads.append(1) or unsettled())
    assert [loop.admit(published=0) for _ in range(4)] == [3 * GROUPS, 0, 0, 0]
    assert len(reads) == 2  # to issue, and to see that nothing more is due
    loop.buffer.settle([5], outcome="dropped", reason="late")
    assert [loop.admit(published=0) for _ in range(3)] == [1, 0, 0]
    loop.commit()
    assert [loop.admit(published=1) for _ in range(2)] == [GROUPS, 0]
