"""Evaluation beside the training: which version is asked about, what becomes of the figures, which version is the best.

    pin `candidate` ─▶ evaluate ─▶ line in evaluations.jsonl ─▶ pin `best` ─▶ <run>/best

In this order, so that a death in between loses nothing: the line says which version is the best, the pin still spares it,
and the next life points `best` at it and exports it. Nothing here decides what is trained.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from orchestrator.console import Console
from orchestrator.evaluation.config import EvaluationConfig
from orchestrator.faults import Reached
from orchestrator.folder import RunFolder
from orchestrator.member import Member
from orchestrator.periodic import metrics
from orchestrator.periodic.best import exported
from orchestrator.periodic.post import Answered, Post
from orchestrator.periodic.results import Results, summary
from orchestrator.periodic.schedule import due
from orchestrator.sections import SuperviseConfig
from weightstore.blobs import BlobStore
from weightstore.manifest import WeightVersion
from weightstore.pins import BEST, CANDIDATE, pin, pins

log = logging.getLogger(__name__)

_HOW = {"interval_steps", "deadline_s", "patience_steps", "metric", "gates"}
"""Settings that change no figure."""


class PeriodicEvaluation:
    """tick(now) never blocks: what takes long is done by the evaluator's process."""

    def __init__(
        self,
        config: EvaluationConfig,
        supervise: SuperviseConfig,
        *,
        folder: RunFolder,
        store: BlobStore,
        lineage: int,
        run_epoch: int,
        newest: WeightVersion | None,
        spawn: Callable[[str, int, int, float], Member],
        console: Console,
        told: Callable[[dict[str, Any]], None] = lambda line: None,
        reached: Reached = lambda point, step: None,
    ) -> None:
        """`newest`: the version that this life begins with. `told`: gets each new line."""
        assert config.interval_steps is not None
        self._config, self._interval = config, config.interval_steps
        self._folder, self._store, self._run_epoch = folder, store, run_epoch
        self._newest, self._console, self._reached = newest, console, reached
        self._told = told
        self._final_wait_s = supervise.starting_s + config.deadline_s
        self._post = Post(supervise, deadline_s=config.deadline_s, spawn=spawn)
        self._results = Results(folder, metric=config.metric, settings=digest(config))
        self._last = self._results.last_step
        """Number of the newest version that was evaluated or refused."""
        self._pinned = pins(store, lineage=lineage).get(BEST)
        self._exported = exported(folder.best)
        self._owes_best = self._results.best is not None
        self._warned_at: int | None = None
        """Best step of the last warning that it has stood for long."""
        self._waited_since: float | None = None
        if self._results.last is not None:
            self._show(self._results.last)

    def published(self, version: WeightVersion) -> None:
        self._newest = version

    def tick(self, now: float, *, trained: bool, final: bool) -> None:
        """`trained`: the loop is under way, whose engines come first. `final`: there will be no further version."""
        if self._post.closed or not trained:
            return
        answered = self._post.tick(now)
        if self._post.closed:
            self._complain(f"no further evaluation in this life of the run: {self._post.closed}")
        elif answered is not None:
            self._take(answered)
        if not self._post.free:
            return
        if self._owes_best:
            self._settle_best(now)
        elif self._due(final=final):
            self._ask(now)

    def settled(self, now: float) -> bool:
        """Nothing is owed to a run that has trained its last step, or it has been waited for long enough."""
        busy = self._owes_best or self._post.asked is not None or self._due(final=True)
        if self._post.closed or not busy:
            return True
        self._waited_since = now if self._waited_since is None else self._waited_since
        if now - self._waited_since > self._final_wait_s:
            self._post.close("the run is over")
            self._complain(f"the last version is not evaluated: no answer within {self._final_wait_s:g} s")
        return bool(self._post.closed)

    def members(self) -> list[Member]:
        return self._post.members()

    def status(self) -> dict[str, Any]:
        asked = self._post.asked
        doing = f"{asked.method} {asked.version}" if asked else "idle"
        return {
            "last": self._results.last,
            "best": self._results.best,
            "metric": self._config.metric,
            "doing": f"given up: {self._post.closed}" if self._post.closed else doing,
            "restarts": max(0, self._post.lives - 1),
        }

    # -- asking ------------------------------------------------------------------------------------------------------
    def _due(self, *, final: bool) -> bool:
        if self._newest is None:
            return False
        return due(self._newest.number, last=self._last, interval_steps=self._interval, final=final)

    def _ask(self, now: float) -> None:
        """Pinned first: retention must not sweep away what may turn out to be the best."""
        assert self._newest is not None
        try:
            pin(self._store, CANDIDATE, self._newest, run_epoch=self._run_epoch)
        except OSError as error:
            self._refuse(self._newest.number, str(error))
            return
        self._reached("evaluation.asked", self._newest.number)
        self._post.ask(now, "evaluate", str(self._newest))

    # -- answers -----------------------------------------------------------------------------------------------------
    def _take(self, answered: Answered) -> None:
        version = WeightVersion.parse(answered.asked.version)
        refused = answered.answer.get("refused")
        if answered.asked.method == "export":
            self._owes_best = False  # refused: the next life tries again, or the next best version
            if refused:
                self._complain(f"{self._folder.best} is not written: {refused}")
            else:
                self._exported = version
        elif refused:
            self._refuse(version.number, str(refused))
        else:
            self._evaluated(version, answered)

    def _refuse(self, number: int, reason: str) -> None:
        self._last = max(self._last, number)
        metrics.FAILURES.inc()
        self._complain(f"version {number} is not evaluated: {reason}")

    def _evaluated(self, version: WeightVersion, answered: Answered) -> None:
        before = self._results.best
        self._last = max(self._last, version.number)
        figures = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "epoch": self._run_epoch,
            "step": version.number,
            "version": str(version),
            **answered.answer,
            "seconds": round(answered.seconds, 3),
        }
        try:
            self._results.add(figures)
        except OSError as error:
            self._complain(f"the evaluation of step {version.number} is not noted: {error}")
        self._reached("evaluation.written", version.number)
        is_best = self._results.best is not before
        self._owes_best = self._owes_best or is_best
        self._console.say(f"evaluation  {summary(figures)}{'  best so far' if is_best else ''}")
        log.info("version evaluated", extra={"version": str(version), "best": is_best, "wall_s": answered.seconds})
        self._show(figures)
        self._told(figures)
        self._mind_patience()

    def _show(self, line: dict[str, Any]) -> None:
        metrics.observe(line)
        metrics.WITHOUT_RISE.set(self._results.without_rise())
        if self._results.best is not None:
            metrics.BEST_STEP.set(self._results.best["step"])

    def _mind_patience(self) -> None:
        """Once for each best version: more training of this kind may well be a waste, but that is for people to decide."""
        best, without = self._results.best, self._results.without_rise()
        if best is None or without < self._config.patience_steps or self._warned_at == best["step"]:
            return
        self._warned_at = best["step"]
        self._complain(
            f"{self._config.metric} has not risen for {without} steps: step {best['step']} is still the best"
        )

    # -- the best one --------------------------------------------------------------------------------------------------
    def _settle_best(self, now: float) -> None:
        """Point the pin at the best version that is still there, and have it exported; owed until the evaluator answers,
        since one that dies forgets its question."""
        self._owes_best = False
        try:
            version = self._best_kept()
            if version is None:
                return
            if version != self._pinned:
                pin(self._store, BEST, version, run_epoch=self._run_epoch)
                self._pinned = version
                self._reached("best.pinned", version.number)
        except OSError as error:
            self._complain(f"the best version is not pinned: {error}")
            return
        if version != self._exported:
            self._owes_best = True
            self._post.ask(now, "export", str(version))

    def _best_kept(self) -> WeightVersion | None:
        for line in self._results.ranked():
            version = WeightVersion.parse(line["version"])
            if self._store.exists(version.manifest_key):
                return version
            log.warning("a better version is gone", extra={"version": str(version)})
        return None

    def _complain(self, line: str) -> None:
        log.warning("%s", line)
        self._console.say(f"warning: {line}")


def digest(config: EvaluationConfig) -> str:
    """Of the settings that figures depend on: only lines of the same digest are compared."""
    content = json.dumps(config.model_dump(mode="json", exclude=_HOW), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
