"""An adversary against the pacing rule: stragglers, deaths, discards, lagging engines, late and superseded publishes.

The rule under test is a pair of functions, so that refuted rules can be tried by the same adversary.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from experience.pacing import admissible, admissible_again, next_batch


@dataclass
class Group:
    min_version: int
    state: str = "waiting"
    """waiting | running | done"""
    engine: int = -1
    oldest: int = -1
    """Version of its first token."""


@dataclass
class Loop:
    """The whole loop in numbers; every method is one atomic step of one part."""

    eta: int
    batch_groups: int
    interval: int
    engines: list[int]
    """Version that each engine serves."""
    ahead: int
    """Batches that may be committed beyond the trained ones."""
    live_groups: dict[int, Group] = field(default_factory=dict)
    issued: int = 0
    committed: int = 0
    trained: int = 0
    published: list[int] = field(default_factory=lambda: [0])
    publishing: list[int] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)
    """Of the stalest token of each committed batch."""
    owed: int = 0
    """Dropped groups whose prompt was not issued anew yet."""
    dropped: int = 0

    def room(self) -> int:
        """The rule: groups that may be issued now."""
        return admissible(
            live=len(self.live_groups) + self.owed,
            committed=self.committed,
            published=max(self.published),
            batch_groups=self.batch_groups,
            max_staleness=self.eta,
            capacity=(self.eta + 1) * self.batch_groups,
        )

    def choose(self) -> tuple[int, ...] | None:
        """The rule: sequences of the next batch."""
        return next_batch(list(self.live_groups), batch_groups=self.batch_groups)

    def issue(self, count: int) -> None:
        for _ in range(count):
            self.live_groups[self.issued] = Group(min_version=max(self.published))
            self.issued += 1

    def issue_again(self) -> None:
        """The next attempts of dropped groups; the rule says how many."""
        count = admissible_again(
            live=len(self.live_groups),
            owed=self.owed,
            committed=self.committed,
            published=max(self.published),
            batch_groups=self.batch_groups,
            max_staleness=self.eta,
        )
        self.issue(count)
        self.owed -= count

    def drop(self) -> None:
        """What holds up the head, where enough others have arrived; nobody knows what is long enough, so at any moment."""
        done = sum(group.state == "done" for group in self.live_groups.values())
        late = [s for s in self.choose() or () if self.live_groups[s].state != "done"]
        if done >= self.batch_groups and late:
            for sequence in late:
                del self.live_groups[sequence]
            self.owed += len(late)
            self.dropped += len(late)

    def start(self, group: Group, engine: int) -> None:
        if group.state == "waiting" and self.engines[engine] >= group.min_version:
            group.state, group.engine, group.oldest = "running", engine, self.engines[engine]

    def finish(self, group: Group) -> None:
        if group.state == "running":
            group.state = "done"

    def kill(self, engine: int, version: int) -> None:
        for group in self.live_groups.values():
            if group.state == "running" and group.engine == engine:
                group.state = "waiting"
        self.engines[engine] = version

    def commit(self) -> None:
        chosen = self.choose()
        if chosen is None or self.owed or self.committed >= self.trained + self.ahead:
            return
        groups = [self.live_groups[sequence] for sequence in chosen]
        if all(group.state == "done" for group in groups):
            self.staleness.append(self.committed - min(group.oldest for group in groups))
            self.committed += 1
            for sequence in chosen:
                del self.live_groups[sequence]

    def train(self) -> None:
        if self.trained < self.committed:
            self.trained += 1
            if self.trained % self.interval == 0:
                self.publishing.append(self.trained)

    def publish(self, version: int) -> None:
        """A version becomes visible; older ones still on their way are superseded and never appear."""
        self.published.append(version)
        self.publishing = [other for other in self.publishing if other > version]


class TrainedInPlaceOfPublished(Loop):
    """Refuted: admission counts the steps trained, although engines can only serve what is published."""

    def room(self) -> int:
        window = (self.eta + self.trained + 1 - self.committed) * self.batch_groups
        return max(0, window - len(self.live_groups))


class ArrivedUnlessExpiring(Loop):
    """Refuted: a batch takes what has arrived, and waits only for groups that would be too old for the next one."""

    def choose(self) -> tuple[int, ...] | None:
        number = self.committed + 1
        expiring = [s for s, group in self.live_groups.items() if group.min_version + self.eta + 1 <= number]
        arrived = [s for s, group in self.live_groups.items() if group.state == "done" and s not in expiring]
        chosen = (expiring + arrived[::-1])[: self.batch_groups]
        return tuple(chosen) if len(chosen) == self.batch_groups else None


class OneBatchTooMany(Loop):
    """Broken on purpose: the window is one batch too wide; shows that the bound is tight."""

    def room(self) -> int:
        window = (self.eta + max(self.published) + 2 - self.committed) * self.batch_groups
        return max(0, window - len(self.live_groups))


def adversary(loop: Loop, rng: random.Random, *, steps: int) -> None:
    """Random steps, with moods that last: one engine stuck, publishing stuck, a straggling group."""
    stuck_engine = stuck_publish = False
    straggler = -1
    for _ in range(steps):
        if rng.random() < 0.03:
            stuck_engine, stuck_publish = rng.random() < 0.3, rng.random() < 0.4
            straggler = rng.choice(list(loop.live_groups)) if loop.live_groups else -1
        groups = [group for sequence, group in loop.live_groups.items() if sequence != straggler]
        engine = rng.randrange(len(loop.engines))
        match rng.choices(("issue", "start", "finish", "commit", "train", "publish", "update", "settle", "drop", "kill"),
                          (4, 8, 8, 6, 4, 3, 3, 0.7, 1.0, 0.3))[0]:  # fmt: skip
            case "issue":
                loop.issue_again()
                loop.issue(loop.room())
            case "start":
                for group in groups:
                    loop.start(group, engine)
            case "finish":
                for group in groups:
                    if rng.random() < 0.6:
                        loop.finish(group)
            case "commit":
                loop.commit()
            case "train":
                loop.train()
            case "publish" if loop.publishing and not stuck_publish:
                loop.publish(rng.choice(loop.publishing))
            case "update" if not (stuck_engine and engine == 0):
                newer = [version for version in loop.published if version >= loop.engines[engine]]
                loop.engines[engine] = rng.choice(newer)
            case "settle" if loop.live_groups:  # filtered or quarantined: never trained
                del loop.live_groups[rng.choice(list(loop.live_groups))]
            case "drop":
                loop.drop()
            case "kill":
                loop.kill(engine, rng.choice(loop.published))


def fair_round(loop: Loop) -> None:
    """Everybody does what they can, once."""
    loop.issue_again()
    loop.issue(loop.room())
    for engine in range(len(loop.engines)):
        loop.engines[engine] = max(loop.published)
    for group in loop.live_groups.values():
        loop.start(group, 0)
        loop.finish(group)
    loop.commit()
    loop.train()
    if loop.publishing:
        loop.publish(max(loop.publishing))


def play(rule: Callable[..., Loop], seed: int, *, steps: int = 400) -> Loop:
    """One game from a seed, which also draws the settings."""
    rng = random.Random(seed)
    eta = rng.choice((0, 0, 1, 2, 4))
    loop = rule(
        eta=eta,
        batch_groups=rng.randint(1, 4),
        interval=rng.randint(1, eta + 1),
        engines=[0] * rng.randint(1, 3),
        ahead=rng.randint(1, 3),
    )
    adversary(loop, rng, steps=steps)
    return loop
