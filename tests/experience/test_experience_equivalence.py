"""Random histories on the memory buffer and on a real server give the same answers, and balance every issued group."""

import random

import pytest
from experience_records import a_batch, a_prompt, a_settlement

from experience.config import ExperienceConfig
from experience.memory import MemoryBuffer, MemoryServer
from experience.redis_buffer import RedisBuffer


class Both:
    """Calls both buffers; answers must be equal. Leases are kept in pairs, since entry ids differ."""

    def __init__(self, memory, redis):
        self.memory, self.redis = memory, redis

    def call(self, name, *args, **kwargs):
        left, right = (getattr(buffer, name)(*args, **kwargs) for buffer in (self.memory, self.redis))
        assert left == right, name
        return left

    def lease(self, stage, count):
        pairs = [buffer.lease(stage, worker="w", count=count, lease_s=600.0) for buffer in (self.memory, self.redis)]
        left, right = ([(held.sequence, held.deliveries, held.data) for held in leases] for leases in pairs)
        assert left == right
        return list(zip(*pairs, strict=True))

    def with_lease(self, name, pair, *args, **kwargs):
        """A call that takes one lease as its first argument."""
        left, right = (
            getattr(buffer, name)(lease, *args, **kwargs)
            for buffer, lease in zip((self.memory, self.redis), pair, strict=True)
        )
        assert left == right, name
        return left

    def advance(self, pairs, data):
        left = self.memory.advance([(pair[0], data) for pair in pairs])
        assert left == self.redis.advance([(pair[1], data) for pair in pairs])
        return left

    def compare(self):
        for name in ("snapshot", "unsettled", "settled", "present"):
            self.call(name)


@pytest.mark.parametrize("seed", range(6))
def test_random_histories_agree(address, seed):
    rng = random.Random(seed)
    memory = MemoryBuffer(MemoryServer(), run_epoch=1, trainer_epoch=1)
    redis = RedisBuffer(
        address.connect, run_id=f"equal-{seed}", config=ExperienceConfig(), run_epoch=1, trainer_epoch=1
    )
    both, issued, held, ends = Both(memory, redis), 0, [], {}
    both.call("open", fingerprint="f")
    for role in ("run", "trainer"):
        both.call("raise_epoch", role=role, epoch=1)
    for _ in range(150):
        match rng.choice(("issue", "lease", "lease", "advance", "advance", "release", "alone", "settle", "commit", "take_over", "restore")):  # fmt: skip
            case "issue":
                count = rng.randint(0, 4)
                both.call("issue", [a_prompt(s) for s in range(issued, issued + count)], cursor=issued + count)
                issued += count
            case "lease":
                held += both.lease(rng.choice(("prompts", "completions")), rng.randint(1, 4))
            case "advance" if held:
                both.advance(rng.sample(held, rng.randint(1, min(3, len(held)))), b"%d" % rng.randrange(9))
            case "release" if held:
                both.with_lease("release", rng.choice(held), reason="r")
            case "alone" if held:
                both.with_lease("begin_alone", rng.choice(held), limit=2)
            case "settle" if issued:
                sequences = rng.sample(range(issued), min(2, issued))
                both.call("settle", sequences, outcome=rng.choice(("dropped", "filtered")), reason="r")
            case "commit":
                snapshot, settled = both.call("snapshot"), both.call("settled")
                trained = sorted(both.call("take", range(issued)))[:2]
                record = a_batch(
                    snapshot.committed + 1,
                    settled=(*settled, *(a_settlement(sequence) for sequence in trained)),
                    open=tuple(issue for issue in both.call("unsettled") if issue.sequence not in trained),
                    next_sequence=issued,
                )
                for settlement in record.settled:
                    assert ends.setdefault(settlement.sequence, settlement) is settlement, "settled twice"
                if rng.random() < 0.5:  # the crash between the ledger's commit and the buffer's
                    both.call("restore", record=record)
                both.call("commit", record)
            case "take_over":
                both.call("take_over")
                held.clear()  # the older life is fenced
            case "restore":
                snapshot = both.call("snapshot")
                both.call("restore", record=a_batch(snapshot.committed, open=tuple(both.call("unsettled"))))
        both.compare()
    known = {issue.sequence for issue in both.call("unsettled")} | {end.sequence for end in both.call("settled")}
    assert known | ends.keys() == set(range(issued))
    assert not known & ends.keys()
    redis.close()
