"""A server that comes back without writes that it had acknowledged, under a life that goes on: the ledger wins.

The server is real and its append-only file is cut, as a kill under `appendfsync everysec` may leave it; or it is flushed.
"""

import os
import signal
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from orchestrator_recipes import a_recipe, an_issuer

from experience.buffer import BufferLost
from experience.config import ExperienceConfig, PacingConfig
from experience.ledger import Ledger
from experience.redis_buffer import RedisBuffer
from experience.schema import CompletionGroup, Controls, Production, Prompt, ScoredGroup
from experience.server import EmbeddedServer
from experience.wire import decode, encode
from orchestrator.admission import Admission
from orchestrator.audit import audit
from orchestrator.folder import RunFolder
from orchestrator.life import catch_up, recover
from orchestrator.server_loss import LossWatch
from train_cluster.compose import Composer
from train_cluster.config import GrpoConfig
from weightstore.blobs import FileBlobStore

GROUPS, STEPS = 2, 10
RECIPE = a_recipe(run__steps=STEPS, pacing={"batch_groups": GROUPS, "max_staleness": 2})
CONTROLS = Controls(learning_rate_scale=1.0, kl_scale=1.0, clip_low=0.2, clip_high=0.28, temperature=1.0)
PRODUCTION = Production(worker="w", deliveries=1, queued_at=0.0, leased_at=0.0, waited_s=0.0, worked_s=0.0)
DEADLINE_S = 60.0


class Life:
    """A driver's tick, workers and a composer, each with a client of its own, over a real server that can lose its tail."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.run = RunFolder(folder / "trial")
        self.server = EmbeddedServer(folder / "redis")
        self.server.start()
        stack.callback(self.server.stop)
        self.ledger = Ledger(FileBlobStore(self.run.path), 0)
        self.driver, self.worker, self.rank = (self.client(stack) for _ in range(3))
        self.raise_epochs()
        self.admission = Admission(RECIPE, buffer=self.driver, issuer=an_issuer(RECIPE))
        recover(self.driver, self.ledger, self.admission)
        self.mended = 0
        self.losses = LossWatch(self.driver, mend=self.mend)
        self.committed = 0
        self.composer = Composer(
            run_id="trial",
            lineage=0,
            epoch=1,
            buffer=self.rank,
            ledger=self.ledger,
            pacing=PacingConfig(batch_groups=GROUPS),
            algorithm=GrpoConfig(filter_uniform=False),
            controls=CONTROLS,
            seed=1,
            config_hash="h",
            timeout_s=5.0,
        )

    def client(self, stack: ExitStack) -> RedisBuffer:
        config = ExperienceConfig(retry_s=30.0)
        buffer = RedisBuffer(self.server.client, run_id="trial", config=config, run_epoch=1, trainer_epoch=1)
        stack.callback(buffer.close)
        return buffer

    def raise_epochs(self) -> None:
        self.driver.open(fingerprint="f")
        self.driver.raise_epoch(role="run", epoch=1)
        self.driver.raise_epoch(role="trainer", epoch=1)

    def mend(self) -> None:
        self.mended += 1
        self.composer.hold()
        self.raise_epochs()
        catch_up(self.driver, self.ledger, self.admission)
        self.composer.let_go()

    def tick(self) -> None:
        """What the driver does again and again."""
        snapshot = self.losses.snapshot(committed=self.committed)
        self.losses.pacing(lambda now: self.admission.admit(now, published=self.committed), snapshot)

    def arrive(self) -> None:
        """Generate and score all that waits; a worker that is told of a loss starts anew."""
        with suppress(BufferLost):
            for lease in self.worker.lease("prompts", worker="gen", count=100, lease_s=60.0):
                group = CompletionGroup(prompt=decode(lease.data, Prompt), completions=(), production=PRODUCTION)
                self.worker.advance([(lease, encode(group))])
            for lease in self.worker.lease("completions", worker="score", count=100, lease_s=60.0):
                group = decode(lease.data, CompletionGroup)
                scored = ScoredGroup(group=group, scores=(), component_hashes={}, production=PRODUCTION)
                self.worker.advance([(lease, encode(scored))])

    def step(self) -> None:
        """The next batch, with driver and workers at work beside the composer."""
        failed: list[BaseException] = []

        def compose() -> None:
            try:
                self.composer.compose(self.committed + 1)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=compose)
        thread.start()
        deadline = time.monotonic() + DEADLINE_S
        while thread.is_alive():
            assert time.monotonic() < deadline
            self.tick()
            self.arrive()
            thread.join(0.01)
        if failed:
            raise failed[0]
        self.committed += 1

    @property
    def log(self) -> Path:
        return max((self.server.folder / "appendonlydir").glob("*.incr.aof"))

    def lose_back_to(self, size: int) -> None:
        """SIGKILL, with only the first `size` bytes of the append-only file on disk."""
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while self.server.pid is not None:
            time.sleep(0.01)
        os.truncate(self.log, size)
        self.server.start()

    def finish(self) -> None:
        while self.committed < STEPS:
            self.step()
        report = audit(RECIPE, self.run)
        assert report.problems == []
        assert report.outcomes["trained"] == STEPS * GROUPS


@pytest.fixture
def life(tmp_path):
    with ExitStack() as stack:
        yield Life(tmp_path, stack)


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_batches_and_issues_that_were_lost_are_caught_up_in_the_same_life(life, batches):
    """`batches` commits, and all between them, are gone from the server; the ledger has them."""
    life.step()
    size = life.log.stat().st_size
    for _ in range(batches):
        life.step()
    for _ in range(2):  # the second look sees what the first issued
        life.tick()
    life.arrive()
    life.lose_back_to(size)
    life.finish()
    assert life.mended == 1


def test_a_flushed_server_is_filled_again(life):
    for _ in range(2):
        life.step()
    life.server.client().flushall()
    life.finish()
    assert life.mended >= 1


def test_a_flushed_server_is_filled_again_before_the_first_batch(life):
    life.tick()
    life.tick()
    life.server.client().flushall()
    life.finish()
    assert life.mended >= 1


def test_a_server_that_was_only_killed_needs_no_mending(life):
    life.step()
    life.lose_back_to(life.log.stat().st_size)
    life.finish()
    assert life.mended == 0


def test_a_batch_of_groups_that_have_their_end_is_never_committed(life):
    """Nobody mends: the composer alone must not train again what the server, but not the ledger, has forgotten."""
    life.step()
    size = life.log.stat().st_size
    life.step()
    life.lose_back_to(size)
    tries = iter([False] * 5 + [True])
    with pytest.raises(RuntimeError, match="given up on request") as caught:
        life.composer.compose(3, lambda: next(tries, True))
    assert life.ledger.newest() == 2
    assert isinstance(caught.value.__cause__, BufferLost) or life.rank.snapshot().committed < 2


def test_what_the_driver_writes_into_a_loss_is_mended(life):
    """The server is gone between the look and the issue."""
    life.step()
    snapshot = life.losses.snapshot(committed=1)
    life.server.client().flushall()

    def admit(now: Any) -> None:
        life.admission.admit(now, published=5)

    found = life.losses.pacing(admit, snapshot)
    assert (life.mended, found.committed) == (1, 1)
    life.finish()
