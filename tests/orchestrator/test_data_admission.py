"""Admission where prompts are passed over or used up: the ledger's cursor counts places, not prompts."""

import pytest
from orchestrator_recipes import Words, a_recipe

from experience.memory import MemoryBuffer, MemoryServer
from experience.schema import Prompt
from experience.wire import decode
from orchestrator import metrics
from orchestrator.admission import Admission
from orchestrator.errors import RunFailed
from orchestrator.prompts import PromptIssuer, SourcePrompt

GROUPS = 4


class Places(Words):
    """Every third place holds a prompt that cannot be asked; `end` places in all."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def draw(self, cursor: int) -> tuple[SourcePrompt, int] | None:
        while cursor % 3 == 2:
            cursor += 1
        return super().draw(cursor) if cursor < self.end else None


class Loop:
    def __init__(self, *, end: int) -> None:
        self.server = MemoryServer()
        self.buffer = MemoryBuffer(self.server, run_epoch=1, trainer_epoch=1)
        self.buffer.raise_epoch(role="run", epoch=1)
        self.buffer.raise_epoch(role="trainer", epoch=1)
        recipe = a_recipe(run__steps=10, pacing={"batch_groups": GROUPS, "max_staleness": 1}, data__passes=2)
        issuer = PromptIssuer(recipe, source=Places(end), stop_token_ids=(1,), lineage=0)  # type: ignore[arg-type]
        self.admission = Admission(recipe, buffer=self.buffer, issuer=issuer)

    def admit(self, *, published: int) -> int:
        return self.admission.admit(self.buffer.snapshot(), published=published)

    def settle(self, count: int, *, committed: int) -> None:
        for sequence in sorted(issue.sequence for issue in self.buffer.unsettled())[:count]:
            self.server.forget(sequence)
            self.server.issued.pop(sequence)
        self.server.committed += committed

    def ids(self) -> list[str]:
        return [decode(entry.data, Prompt).prompt_id for entry in self.server.streams["prompts"].values()]


def test_places_are_passed_over_once_counted_and_never_come_back():
    before = metrics.PASSED_OVER._value.get()
    loop = Loop(end=1000)
    assert loop.admit(published=0) == 2 * GROUPS
    assert loop.ids() == [f"words:0:{place}" for place in (0, 1, 3, 4, 6, 7, 9, 10)]
    assert loop.buffer.snapshot().cursor == 11
    assert loop.buffer.snapshot().next_sequence == 8
    assert metrics.PASSED_OVER._value.get() - before == 3
    loop.settle(GROUPS, committed=1)
    assert loop.admit(published=1) == GROUPS
    assert loop.ids()[-4:] == [f"words:0:{place}" for place in (12, 13, 15, 16)]
    assert loop.admission.cursors(loop.buffer.snapshot()) == {"words": {"pass": 0, "place": 17}}


def test_prompts_that_are_used_up_end_the_run_once_the_rest_makes_no_batch():
    loop = Loop(end=9)  # six prompts
    assert loop.admit(published=0) == 6
    assert loop.admit(published=0) == 0  # a batch can be made of those in flight
    loop.settle(GROUPS, committed=1)
    with pytest.raises(RunFailed, match=r"data.passes = 2: all prompts were issued.*resume with a higher data.passes"):
        loop.admit(published=1)
