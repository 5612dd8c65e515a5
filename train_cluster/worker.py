"""One rank of the trainer, as a host runs it: collective operations that answer with plain numbers and strings.

    setup ─▶ train(1) ─▶ publish(1) ─▶ checkpoint(1) ─▶ train(2) …      called on all ranks alike, in one order
    compose(k+1), published(k), saved(k)                                 on rank 0, each from a thread of its own

A rank that fails in an operation is of no more use: all ranks end and start anew from the newest cut under a new epoch.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experience.buffer import ExperienceBuffer
from experience.config import PacingConfig
from experience.ledger import Ledger
from experience.schema import BatchRecord, Controls
from experience.wall_clock import WallClock
from train_cluster import checkpoint, distributed, metrics
from train_cluster.compose import Composer
from train_cluster.config import HISTORY_STEPS, TrainingConfig
from train_cluster.publication import Publisher, weights_digest
from train_cluster.snapshot import Writer, agree_on_cut, load, snapshot
from train_cluster.supervised.rank import StageRank
from train_cluster.trained import TrainedModels
from weightstore import retention
from weightstore.blobs import BlobStore
from weightstore.config import StoreConfig
from weightstore.pins import pins

logger = logging.getLogger(__name__)

WRITE_DEADLINE_S = 600.0
"""For the slowest rank's files of a version or a checkpoint, once rank 0 has written its own."""

NO_VERSION = -1
"""Before the first publication."""


class TrainerRank(StageRank):
    """The learner on its share of the models, with what feeds it, publishes it and saves it."""

    def __init__(
        self,
        *,
        run_id: str,
        lineage: int,
        epoch: int,
        rank: int,
        world_size: int,
        master_addr: str,
        master_port: int,
        interface: str = "",
        config: TrainingConfig,
        pacing: PacingConfig,
        store_config: StoreConfig,
        model_path: str,
        critic_path: str | None = None,
        random_init: bool,
        seed: int,
        config_hash: str,
        controls: Controls,
        store: BlobStore,
        ledger: Ledger,
        buffer: ExperienceBuffer | None,
        drop_after_s: float | None = None,
        reached: Callable[[str, int], None] = lambda point, step: None,
        began: float | None = None,
    ) -> None:
        """`buffer`: on rank 0 of a run; None elsewhere, and in a replay. `critic_path`: where PPO's critic starts from, unless
        it is model_path. `drop_after_s`: see Composer. `interface`: see `distributed.join`. `began`: monotonic
        seconds, the beginning of this rank's life; None = now."""
        self._wall = metrics.WALL.shows(WallClock(metrics.PHASES, began=began))
        super().__init__(
            rank=rank,
            world_size=world_size,
            master_addr=master_addr,
            master_port=master_port,
            interface=interface,
            config=config,
            seed=seed,
            reached=reached,
        )
        self._lineage, self._epoch = lineage, epoch
        self._store_config = store_config
        self._model_path, self._random_init = Path(model_path), random_init
        self._critic_path = Path(critic_path) if critic_path is not None else None
        self._config_hash = config_hash
        self._store, self._ledger = store, ledger
        self._max_staleness, self._publish_interval = pacing.max_staleness, pacing.publish_interval_batches
        self._resources = ExitStack()
        """What the model in hand holds open."""
        self._composer = (
            None
            if buffer is None
            else Composer(
                run_id=run_id,
                lineage=lineage,
                epoch=epoch,
                buffer=buffer,
                ledger=ledger,
                pacing=pacing,
                algorithm=config.algorithm,
                controls=controls,
                seed=seed,
                config_hash=config_hash,
                timeout_s=config.compose_timeout_s,
                drop_after_s=drop_after_s,
                reached=reached,
            )
        )
        self._background: tuple[Callable[[], None], ...] = ()
        """Raise what was left half done."""
        self._step = 0
        self._torn = False
        """True inside a step, and for good after one that failed: the weights are those of no step."""
        self._cursors: Mapping[str, int] = {"prompts": 0}

    # -- start -------------------------------------------------------------------------------------------------------
    def setup(self, cut_step: int | None = None, fine_tune: bool = False) -> dict[str, Any]:
        """(collective) Join, and load the newest whole cut, or that of `cut_step`; without any, begin by writing cut 0.

        `fine_tune`: only join; a stage brings its own model. ValueError: no cut is whole, and the ledger no longer reaches
        back to batch 1.
        """
        self._wall.enter("start")
        self._join()
        if fine_tune:
            self._resources.close()
            self._wall.enter("other")
            return {"step": 0}
        logger.info("group joined")
        self._build()
        logger.info("engine built")
        cut = agree_on_cut(self._store, self._lineage, self._models.policy, step=cut_step)
        if cut is not None:
            if cut_step is None:
                checkpoint.check_new_beginning(
                    self._store, self._lineage, batches=self._ledger.numbers(), step=cut.step
                )
            self._resume(cut)
        elif cut_step is None:
            checkpoint.check_new_beginning(self._store, self._lineage, batches=self._ledger.numbers())
            self.checkpoint(0, NO_VERSION)
            self.saved(0, WRITE_DEADLINE_S)
        else:
            raise ValueError(f"there is no whole checkpoint at step {cut_step} to start from")
        self._doing = "idle"
        self._wall.enter("wait_batch")
        return {"step": self._step, "parameters": self._models.parameters}

    def _build(self) -> None:
        self._resources.close()
        self._models = TrainedModels(
            model_path=self._model_path,
            critic_path=self._critic_path,
            random_init=self._random_init,
            seed=self._seed,
            config=self._config,
            rank=self._rank,
            world_size=self._world_size,
            updated=lambda: self._reached("rank.step", self._step + 1),
        )
        self._resources.callback(self._models.close)
        self._learner = self._models.learner
        self._publisher = Publisher(
            self._models.policy,
            self._store,
            lineage=self._lineage,
            epoch=self._epoch,
            model_path=self._model_path,
            aliases=self._models.aliases,
            shard_bytes=self._store_config.shard_bytes,
            deadline_s=WRITE_DEADLINE_S,
            reached=self._reached,
        )
        self._resources.callback(self._publisher.close)
        self._writer = Writer(
            self._store,
            lineage=self._lineage,
            epoch=self._epoch,
            rank=self._rank,
            world_size=self._world_size,
            config_hash=self._config_hash,
            deadline_s=WRITE_DEADLINE_S,
            reached=self._reached,
        )
        self._resources.callback(self._writer.close)
        self._background = (self._publisher.check, self._writer.check)

    def _resume(self, cut: checkpoint.Cut) -> None:
        if cut.config_hash != self._config_hash:
            raise ValueError(
                f"{cut.manifest_key} was written under another recipe ({cut.config_hash}, not {self._config_hash})"
            )
        load(self._store, cut, self._models.engines)
        self._learner.load_state(dict(cut.state["learner"]))
        self._step, self._cursors = cut.step, cut.cursors
        logger.info("checkpoint loaded", extra={"step": cut.step, "epoch": cut.epoch, "ranks": cut.world_size})

    # -- steps -------------------------------------------------------------------------------------------------------
    def compose(self, number: int) -> dict[str, Any]:
        """Rank 0, from a thread of its own: make and commit batch `number`; waits for its groups. `cancel` ends it."""
        if self._composer is None:
            raise ValueError("only rank 0 of a run composes batches; this rank has no buffer")
        began = time.monotonic()
        record = self._composer.compose(number, self._cancelled.is_set)
        return {**_summary(record), "waited_s": time.monotonic() - began}

    def hold(self) -> None:
        """Rank 0: no batch is committed until `let_go`."""
        assert self._composer is not None
        self._composer.hold()

    def let_go(self) -> None:
        assert self._composer is not None
        self._composer.let_go()

    def train(self, number: int) -> dict[str, Any]:
        """(collective) Train committed batch `number`, which must be the next; the step's report."""
        with self._wall.during("train"):
            return self._train(number)

    def _train(self, number: int) -> dict[str, Any]:
        self._check()
        if number != self._step + 1:
            raise ValueError(f"train({number}) after step {self._step}: batch {self._step + 1} is next")
        self._doing = f"train {number}"
        record = self._ledger.read(number)
        if record is None:
            raise ValueError(f"batch {number} is not in the ledger: it was not committed, or has been pruned")
        distributed.meet()  # a store that fails for a while answers one rank long before another
        self._torn = True
        began, cpu_s = time.monotonic(), time.process_time()
        report = self._learner.step(record)
        logger.info("step trained", extra={"step": number, "seconds": time.monotonic() - began})
        metrics.WORK_CPU_SECONDS.inc(time.process_time() - cpu_s)
        self._step, self._torn, self._doing = number, False, "idle"
        self._cursors = {"prompts": record.cursor}
        if self._rank == 0:
            metrics.observe(report, publish_interval=self._publish_interval)
        return asdict(report)

    # -- versions and checkpoints ------------------------------------------------------------------------------------
    def publish(self, number: int) -> dict[str, Any]:
        """(collective) Copy the weights of step `number`, the newest, and write them as a version in the background."""
        self._check(number)
        with self._wall.during("publish"), metrics.PUBLISH_STALL.time():
            return {"number": number, "gather_s": self._publisher.publish(number)}

    def published(self, number: int, timeout_s: float) -> dict[str, Any]:
        """Rank 0: {number, epoch, digest, bytes, gather_s, write_s} once the version is committed; then older ones go."""
        answer = self._publisher.wait(number, timeout_s=timeout_s)
        retention.sweep(
            self._store,
            self._lineage,
            newest=number,
            max_staleness=self._max_staleness,
            cut_steps=[cut.step for cut in checkpoint.cuts(self._store, self._lineage)],
            pinned=pins(self._store, lineage=self._lineage).values(),
            ranks_epoch=self._epoch,
        )
        return answer

    def checkpoint(self, number: int, newest_version: int, cursors: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Copy all state of step `number`, the newest, and write it as a cut in the background.

        `newest_version`: number of the newest committed version, -1 = none. `cursors`: prompts drawn by data set; the
        cursor of the last trained batch unless given.
        """
        self._check(number)
        began = time.monotonic()
        with self._copying():
            taken = snapshot(
                self._models.engines,
                step=number,
                state={"learner": self._learner.state()},
                newest_version=newest_version,
                cursors=cursors or self._cursors,
            )
            self._writer.start(taken)
        logger.info("checkpoint copied", extra={"step": number, "seconds": time.monotonic() - began})
        return {"step": number}

    def saved(self, number: int, timeout_s: float) -> dict[str, Any]:
        """{step, epoch, bytes, write_s} once this rank's part is written; on rank 0, once the cut is committed."""
        answer = self._writer.wait(number, timeout_s=timeout_s)
        metrics.CHECKPOINT_SECONDS.observe(answer["write_s"])
        return answer

    @contextmanager
    def _copying(self) -> Iterator[None]:
        """A checkpoint; the one of the start belongs to the start."""
        with metrics.CHECKPOINT_STALL.time():
            if self._wall.phase == "start":
                yield
            else:
                with self._wall.during("checkpoint"):
                    yield

    def prune(self) -> dict[str, Any]:
        """Rank 0: delete the cuts beyond those to keep, and batches that neither one of these nor the history needs.

        The cut nearest to a pinned version stays as well, and needs no batches: the run goes on from a newer one.
        """
        keep = self._config.checkpoint.keep
        pinned = [version.number for version in pins(self._store, lineage=self._lineage).values()]
        nearest = checkpoint.nearest_cuts(self._store, self._lineage, pinned)
        deleted = checkpoint.prune(self._store, self._lineage, keep=keep, pinned=nearest)
        oldest = min((cut.step for cut in checkpoint.cuts(self._store, self._lineage)[:keep]), default=0)
        keep_from = max(1, min(oldest, self._ledger.newest() - HISTORY_STEPS) + 1)
        self._ledger.prune(keep_from)
        return {"cuts_deleted": len(deleted), "batches_from": keep_from}

    def weights_digest(self) -> str:
        """(collective) The digest that a version of the weights as they are would have."""
        self._check(self._step)
        return weights_digest(self._models.policy)

    # -- the rest ----------------------------------------------------------------------------------------------------
    def status(self) -> dict[str, Any]:
        """Raises what failed in the background: a rank that is asked for nothing more would keep it to itself."""
        for check in self._background:
            check()
        return {"step": self._step, "doing": self._doing, "wall": self._wall.told(), **self._stage}

    def close(self) -> None:
        """Give up what is still being written, and leave the group."""
        self._cancelled.set()
        self._resources.close()
        distributed.leave()

    def _check(self, number: int | None = None) -> None:
        """Raise what failed in the background, and refuse to copy what is not the whole of step `number`."""
        for check in self._background:
            check()
        if self._torn:
            raise ValueError(f"step {self._step + 1} failed half-way: start the ranks anew from a checkpoint")
        if number is not None and number != self._step:
            raise ValueError(f"step {number} was asked for, but the weights are those of step {self._step}")


def _summary(record: BatchRecord) -> dict[str, Any]:
    outcomes = [settlement.outcome for settlement in record.settled]
    return {
        "number": record.number,
        "epoch": record.epoch,
        "groups": len(record.groups),
        "bytes": sum(map(len, record.groups)),
        "next_sequence": record.next_sequence,
        "settled": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
    }
