"""Ranks in this process behind the calls that `Trainer` makes, as strict as the real ones and finished on command."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """A remote call: finished, failed or still running, as the test says."""

    what: tuple[Any, ...]
    life: int
    effect: Callable[[], Any]
    finished: bool = False
    value: Any = None
    cause: str | None = None

    def finish(self) -> None:
        if not self.finished:
            self.value, self.finished = self.effect(), True

    def fail(self, cause: str) -> None:
        self.cause, self.finished = cause, True


def outcome(call: Call) -> tuple[bool, Any, str | None]:
    return call.finished, call.value, call.cause


@dataclass
class Cluster:
    """What outlives the ranks (ledger, versions, cuts), and every life of them. Calls in `held` (`train`, `train 3`) stay running."""

    committed: int = 0
    versions: list[int] = field(default_factory=list)
    """In the order in which they were written."""
    cuts: list[int] = field(default_factory=lambda: [0])
    world: int = 2
    held: set[str] = field(default_factory=set)
    lives: list[list["Rank"]] = field(default_factory=list)
    """The ranks of each spawn."""
    operations: list[tuple[Any, ...]] = field(default_factory=list)
    """What rank 0 was called to do, in order."""
    calls: list[Call] = field(default_factory=list)

    def spawn(self, life: int, now: float) -> list[Any]:
        assert life == len(self.lives), "lives are numbered from 0"
        assert all(rank.killed for ranks in self.lives for rank in ranks), "ranks of two lives at once"
        ranks = [Rank(self, life, index) for index in range(self.world)]
        self.lives.append(ranks)
        return ranks

    @property
    def ranks(self) -> list["Rank"]:
        return self.lives[-1]

    def call(self, *what: Any, effect: Callable[[], Any]) -> Call:
        call = Call(what, len(self.lives) - 1, effect)
        self.calls.append(call)
        if not self.held & {what[0], f"{what[0]} {what[1]}"}:
            call.finish()
        return call

    def running(self, name: str) -> list[Call]:
        """In ranks that live."""
        life = len(self.lives) - 1
        alive = bool(self.lives) and not self.ranks[0].killed
        return [
            call
            for call in self.calls
            if alive and call.what[0] == name and (call.finished, call.life) == (False, life)
        ]

    def release(self, name: str) -> None:
        self.held.discard(name)
        for call in self.running(name):
            call.finish()

    def done(self, name: str) -> list[int]:
        """The steps for which rank 0 was called."""
        return [operation[1] for operation in self.operations if operation[0] == name]


class Rank:
    """Both the member that the driver sees and the worker behind it."""

    def __init__(self, cluster: Cluster, life: int, index: int) -> None:
        self.cluster, self.life, self.index = cluster, life, index
        self.name = f"rank-{index}"
        self.status: dict[str, Any] = {}
        self.death: str | None = None
        self.ready, self.killed, self.stopped = True, False, False
        self.setup_answer = {"step": max(cluster.cuts)}
        self.step = max(cluster.cuts)
        self.writing: set[str] = set()
        self.actor = self
        for name in ("call", "compose", "wait", "stop"):
            setattr(self, name, Remote(getattr(self, f"_{name}")))

    def pulse(self, now: float) -> str | None:
        return self.death

    def kill(self) -> None:
        self.killed = True

    def _stop(self) -> None:
        self.stopped = True
        for call in self.cluster.running("compose"):
            call.fail("ComposeCancelled: given up on request")

    def _call(self, name: str, step: int, *arguments: Any) -> Call:
        """train | publish | checkpoint, with the real ranks' refusals."""
        assert not self.killed, f"{name} {step} was asked of ranks that are gone"
        if name == "train":
            assert step == self.step + 1, f"train {step} after step {self.step}"
            assert step <= self.cluster.committed, f"batch {step} is not committed"
        else:
            assert step == self.step, f"{name} {step} with the weights of step {self.step}"
            assert name not in self.writing, f"{name} {step} while another is being written"
            if self.index == 0:  # only rank 0 is asked when its version is whole
                self.writing.add(name)
        if self.index == 0:
            self.cluster.operations.append((name, step, *arguments))

        def effect() -> dict[str, int]:
            if name == "train":
                self.step = step
            return {"step": step}

        return self.cluster.call(name, step, effect=effect)

    def _compose(self, number: int) -> Call:
        assert self.index == 0, "rank 0 composes"
        assert not self.cluster.running("compose"), "one batch at a time"
        assert number <= self.cluster.committed + 1, f"batch {number} after {self.cluster.committed}"
        self.cluster.operations.append(("compose", number))

        def effect() -> dict[str, int]:
            self.cluster.committed = max(self.cluster.committed, number)
            return {"number": number}

        return self.cluster.call("compose", number, effect=effect)

    def _wait(self, name: str, step: int = -1, timeout_s: float = 0.0) -> Call:
        assert self.index == 0, "rank 0 knows when a version or a cut is whole"

        def effect() -> dict[str, int]:
            if name == "published":
                self.writing.discard("publish")
                self.cluster.versions.append(step)
                return {"number": step, "epoch": self.life + 1}
            if name == "saved":
                self.writing.discard("checkpoint")
                self.cluster.cuts.append(step)
            return {"step": step}

        return self.cluster.call(name, step, effect=effect)


class Remote:
    """`method.remote(…)`."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method
