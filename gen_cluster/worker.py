"""The generation worker: prompts in, groups of completions out, on the newest weights."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from experience.buffer import ExperienceBuffer, Lease
from experience.leases import LeaseKeeper
from experience.schema import Prompt
from experience.wall_clock import WallClock
from experience.wire import decode, encode
from gen_cluster import metrics
from gen_cluster.config import GenerationConfig
from gen_cluster.engine import Engine, WeightsRefused
from gen_cluster.groups import HeldGroup
from gen_cluster.weight_feed import WeightFeed
from weightstore.fetch import CorruptVersion, WeightSource

logger = logging.getLogger(__name__)


def _nothing(point: str, step: int) -> None:
    """The default of fault points."""


class GenerationWorker:
    """Keeps one engine full.

    takes       prompts by lease, as many groups as have room; the newest version as soon as it is fetched
    waits for   a served version >= the prompt's min_version; an empty engine, before and while a suspect runs
    gives       finished groups, downstream, in one atomic step with their acknowledgement
    ends when   `stop` is set, or by raising: Fenced, BufferUnavailable, EngineLost, or a first version that does not fit the model

    A group that fails (overdue, refused by the engine) goes back as a suspect; it never becomes an empty answer.
    """

    def __init__(
        self,
        config: GenerationConfig,
        *,
        name: str,
        engine: Engine,
        buffer: ExperienceBuffer,
        weights: WeightSource,
        lease_s: float,
        alone_limit: int,
        reached: Callable[[str, int], None] = _nothing,
        began: float | None = None,
    ) -> None:
        """began: monotonic seconds, the beginning of this worker's life; None = now."""
        self._config = config
        self._name = name
        self._engine = engine
        self._buffer = buffer
        self._feed = WeightFeed(weights, interval_s=config.poll_interval_s)
        self._keeper = LeaseKeeper(
            buffer, lease_s, silent_s=config.deadline_s
        )  # an engine's step that takes longer hangs
        self._lease_s = lease_s
        self._alone_limit = alone_limit
        self._reached = reached
        self._wall = metrics.WALL.shows(WallClock(metrics.PHASES, began=began))
        metrics.MAX_SEQUENCES.set(config.engine.max_sequences)
        self._open = ExitStack()
        self._held: dict[str, HeldGroup] = {}
        """By entry id."""
        self._by_request: dict[str, HeldGroup] = {}
        self._next_lease = 0.0
        self._groups_done = 0
        self._tokens_done = 0
        self._refused = ""
        self._status: dict[str, Any] = {"state": "starting"}

    def setup(self) -> None:
        self._open.callback(self._engine.close)
        self._open.callback(self._feed.close)
        self._open.enter_context(self._keeper)

    def run(self, stop: threading.Event) -> None:
        """Returns with the leases held: whoever comes next gets them when they expire."""
        while not stop.is_set():
            if not self.step():
                with self._wall.during(self._idle_phase()):
                    stop.wait(self._config.poll_interval_s)

    def step(self) -> bool:
        """One pass; False when there was nothing to do."""
        self._wall.enter("other")
        self._drop_lost()
        updated = self._update_weights()
        self._give_up_overdue()
        leased = self._lease()
        self._start()  # before the engine's step, so that it never steps empty while a prompt could run
        self._observe()
        return self._generate() or updated or leased

    def status(self) -> dict[str, Any]:
        """As of the last step, the wall time by phase as of now; may be called from any thread."""
        return {**self._status, "wall": self._wall.told()}

    def close(self) -> None:
        self._open.close()

    # -- weights ---------------------------------------------------------------------------------------------------
    def _update_weights(self) -> bool:
        try:
            fetched = self._feed.take()
            if fetched is None:
                return False
            with metrics.UPDATE_SECONDS.time(), self._wall.during("load_weights"):
                self._engine.update(fetched)
        except (CorruptVersion, WeightsRefused) as error:
            metrics.REFUSED_VERSIONS.inc()
            self._refused = str(error)
            if self._engine.served is None and isinstance(error, WeightsRefused):
                raise  # of another model: no other version would fit
            if self._engine.served is None:
                self._feed.fall_back()
                logger.error("version refused, an older or the next one will do", extra={"error": str(error)})
            else:
                logger.error("version refused, the one before serves on", extra={"error": str(error)})
            return False
        except OSError as error:
            self._feed.again()
            self._refused = str(error)
            logger.warning("version not loaded, will try again", extra={"error": str(error)})
            return False
        version = fetched.manifest.version
        if version == self._feed.newest_seen:  # else it is a stand-in, and the refusal stands
            self._refused = ""
        metrics.SERVED_VERSION.set(version.number)
        logger.info("version served", extra={"version": str(version), "running": self._engine.running()})
        return True

    # -- prompts ---------------------------------------------------------------------------------------------------
    def _lease(self) -> bool:
        """Lease what could start now. After a short answer the buffer is left alone for a poll interval."""
        room = self._room()
        if room < 1 or time.monotonic() < self._next_lease:
            return False
        with self._wall.during("exchange"):
            leases = self._buffer.lease("prompts", worker=self._name, count=room, lease_s=self._lease_s)
        if len(leases) < room:
            self._next_lease = time.monotonic() + self._config.poll_interval_s
        for lease in leases:
            self._hold(lease)
        return bool(leases)

    def _room(self) -> int:
        """Groups to lease: none before the first weights, nor beside a suspect.

        One at least while nothing runs or could: a prompt that waits here for a newer version may depend, through the
        trainer, on one that nobody has leased.
        """
        startable = [group for group in self._held.values() if self._startable(group)]
        active = startable + [group for group in self._held.values() if group.started_at is not None]
        if self._engine.served is None or any(group.lease.suspect for group in active):
            return 0
        waiting = sum(group.prompt.group_size for group in self._held.values() if group.started_at is None)
        return max(0 if active else 1, (self._engine.free_slots() - waiting) // self._config.group_size)

    def _hold(self, lease: Lease) -> None:
        if lease.entry_id in self._held:  # our own lease of it expired, and it came back to us
            self._forget(self._held[lease.entry_id], result="lost")
        try:
            prompt = decode(lease.data, Prompt)
        except ValueError as error:
            if not lease.suspect or self._may_run_alone(lease):
                self._release(lease, reason=f"unreadable prompt: {error}")
            metrics.GROUPS.labels("refused").inc()
            return
        self._held[lease.entry_id] = HeldGroup(lease=lease, prompt=prompt, leased_at=time.monotonic())
        self._keeper.hold([lease])

    # -- groups ----------------------------------------------------------------------------------------------------
    def _startable(self, group: HeldGroup) -> bool:
        served = self._engine.served
        return group.started_at is None and served is not None and served.number >= group.prompt.min_version

    def _start(self) -> None:
        """Start what may start, in issue order; a suspect only alone, and nothing beside it."""
        running = [group for group in self._held.values() if group.started_at is not None]
        if any(group.lease.suspect for group in running):
            return
        startable = sorted(filter(self._startable, self._held.values()), key=lambda group: group.prompt.sequence)
        suspect = next((group for group in startable if group.lease.suspect), None)
        if suspect is not None:
            if not running:
                self._start_alone(suspect)
            return
        for group in startable:
            if self._by_request and self._engine.free_slots() < group.prompt.group_size:
                return
            self._start_group(group)

    def _start_alone(self, group: HeldGroup) -> None:
        if self._may_run_alone(group.lease):
            logger.warning("suspect runs alone", extra={"group": group.lease.sequence})
            self._start_group(group)
        else:
            self._forget(group, result="quarantined")

    def _start_group(self, group: HeldGroup) -> None:
        self._reached("gen.start", group.prompt.sequence)
        group.started_at = time.monotonic()
        sampling = group.prompt.sampling
        for index, request_id in enumerate(group.request_ids):
            self._by_request[request_id] = group
            try:
                self._engine.add(request_id, tokens=group.prompt.tokens, sampling=sampling, seed=sampling.seed + index)
            except ValueError as error:
                self._fail(group, reason=f"refused by the engine: {error}", result="refused")
                return

    def _generate(self) -> bool:
        if not self._by_request:
            return False
        cpu_s = time.process_time()
        with metrics.STEP_SECONDS.time(), self._wall.during("generate"):
            finished = self._engine.step()
        metrics.WORK_CPU_SECONDS.inc(time.process_time() - cpu_s)
        for one in finished:
            group = self._by_request.pop(one.request_id)
            group.finished[one.request_id] = one
            self._tokens_done += len(one.tokens)
            metrics.TOKENS.inc(len(one.tokens))
            metrics.FINISHED.labels(one.finish_reason).inc()
        self._put([group for group in self._held.values() if group.complete])
        return True

    def _put(self, groups: list[HeldGroup]) -> None:
        if not groups:
            return
        now = time.monotonic()
        outputs = []
        for group in groups:
            outputs.append((group.lease, encode(group.assemble(now=now))))
            self._reached("gen.group", group.prompt.sequence)
        with self._wall.during("exchange"):
            done = self._buffer.advance(outputs)
        self._tell([group for group, moved in zip(groups, done, strict=True) if moved])
        for group, moved in zip(groups, done, strict=True):
            assert group.started_at is not None
            metrics.GROUP_SECONDS.observe(now - group.started_at)
            self._groups_done += moved
            self._forget(group, result="done" if moved else "lost")

    def _tell(self, groups: list[HeldGroup]) -> None:
        """One line for all that have ended in this pass."""
        if not groups:
            return
        tokens = sum(len(one.tokens) for group in groups for one in group.finished.values())
        extra = {
            "groups": [group.lease.sequence for group in groups],
            "tokens": tokens,
            "version": str(self._engine.served),
        }
        logger.info("groups generated", extra=extra)

    def _give_up_overdue(self) -> None:
        now = time.monotonic()
        for group in [group for group in self._held.values() if group.overdue(now)]:
            self._fail(group, reason=f"not finished within {group.prompt.deadline_s} s", result="overdue")

    def _drop_lost(self) -> None:
        for entry_id in self._keeper.lost() & self._held.keys():
            self._forget(self._held[entry_id], result="lost")

    def _fail(self, group: HeldGroup, *, reason: str, result: str) -> None:
        """Give it back, for another try alone."""
        self._forget(group, result=result)
        self._release(group.lease, reason=reason)

    def _may_run_alone(self, lease: Lease) -> bool:
        with self._wall.during("exchange"):
            return self._buffer.begin_alone(lease, limit=self._alone_limit)

    def _release(self, lease: Lease, *, reason: str) -> None:
        with self._wall.during("exchange"):
            self._buffer.release(lease, reason=reason)

    def _forget(self, group: HeldGroup, *, result: str) -> None:
        unfinished = [request_id for request_id in group.request_ids if self._by_request.pop(request_id, None)]
        sampled = sum(len(one.tokens) for one in group.finished.values())
        if unfinished:
            sampled += self._engine.abort(unfinished)
            metrics.FINISHED.labels("abort").inc(len(unfinished))
        del self._held[group.lease.entry_id]
        self._keeper.drop([group.lease])
        metrics.GROUPS.labels(result).inc()
        if result != "done":
            metrics.GIVEN_UP_TOKENS.observe(sampled)
            logger.warning("group given up", extra={"group": group.lease.sequence, "result": result})

    # -- seen from outside -----------------------------------------------------------------------------------------
    def _observe(self) -> None:
        served = self._engine.served
        waiting = [group for group in self._held.values() if group.started_at is None]
        metrics.RUNNING.set(len(self._by_request))
        metrics.WAITING.set(len(waiting))
        self._status = {
            "state": self._state(waiting),
            "served": "" if served is None else str(served),
            "refused": self._refused,
            "running": len(self._by_request),
            "waiting": len(waiting),
            "groups_done": self._groups_done,
            "tokens_done": self._tokens_done,
        }

    def _idle_phase(self) -> str:
        """What a worker with nothing to do waits for."""
        if self._engine.served is None:
            return "wait_weights"
        return "wait_version" if self._held else "wait_prompts"

    def _state(self, waiting: list[HeldGroup]) -> str:
        if self._engine.served is None:
            return "waiting for the first weights"
        if self._by_request:
            return "generating"
        if waiting:
            return f"waiting for version {min(group.prompt.min_version for group in waiting)}"
        return "waiting for prompts"
