"""Issues prompts as the pacing rule allows, in the data's order, and anew those that were dropped or lost."""

import logging
from collections.abc import Mapping, Sequence

from experience import pacing
from experience.buffer import BufferFull, ExperienceBuffer, Snapshot
from experience.recovery import owed_attempts
from experience.schema import Issue, Prompt
from orchestrator import metrics
from orchestrator.config import Recipe
from orchestrator.errors import RunFailed
from orchestrator.faults import Reached
from orchestrator.prompts import PromptIssuer

log = logging.getLogger(__name__)


class Admission:
    """admit(snapshot) issues as many groups as may be issued now, and says how many.

    A snapshot may be old by the time of the issue, and that is safe: only admission itself raises `live`, and
    everything else that can happen meanwhile raises what is admissible.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        buffer: ExperienceBuffer,
        issuer: PromptIssuer,
        reached: Reached = lambda point, step: None,
    ) -> None:
        self._recipe, self._buffer, self._issuer, self._reached = recipe, buffer, issuer, reached
        self._full = False
        self._idle: tuple[Snapshot, int] | None = None
        """Under which counters and version nothing was to be issued."""

    def admit(self, snapshot: Snapshot, *, published: int) -> int:
        """Dropped prompts come first. They are read after the snapshot: of the room that it shows, theirs is known."""
        if (snapshot, published) == self._idle:
            return 0  # as before: whatever could change the answer moves a counter
        unsettled = self._buffer.unsettled()
        owed = owed_attempts(unsettled=unsettled, settled=self._buffer.settled())
        again = self._admit_again(owed, snapshot, published=published)
        count = again + self._admit_new(snapshot, published=published, owed=len(owed), ahead=again)
        self._idle = None if count or self._full else (snapshot, published)
        return count

    def _admit_again(self, owed: Sequence[Issue], snapshot: Snapshot, *, published: int) -> int:
        count = pacing.admissible_again(
            live=snapshot.live,
            owed=len(owed),
            committed=snapshot.committed,
            published=published,
            batch_groups=self._recipe.pacing.batch_groups,
            max_staleness=self._recipe.pacing.max_staleness,
        )
        if count:
            self._anew(owed[:count], snapshot, min_version=max(published, 0))
        return count

    def _admit_new(self, snapshot: Snapshot, *, published: int, owed: int, ahead: int) -> int:
        """`owed` places are taken; `ahead` of them were issued since the snapshot."""
        pacing_config, live = self._recipe.pacing, snapshot.live + owed
        allowed = pacing.admissible(
            live=live,
            committed=snapshot.committed,
            published=published,
            batch_groups=pacing_config.batch_groups,
            max_staleness=pacing_config.max_staleness,
            capacity=capacity_groups(self._recipe),
        )
        still_needed = (self._recipe.run.steps - snapshot.committed) * pacing_config.batch_groups - live
        count = min(allowed, still_needed)
        if count <= 0:
            return 0
        first, version = snapshot.next_sequence + ahead, max(published, 0)
        prompts: list[Prompt] = []
        cursor = snapshot.cursor
        while len(prompts) < count:
            drawn = self._issuer.next(cursor, sequence=first + len(prompts), min_version=version)
            if drawn is None:
                break
            prompt, cursor = drawn
            prompts.append(prompt)
        if not prompts:
            self._refuse_to_starve(live)
            return 0
        if not self._issue(prompts, cursor=cursor):
            return 0
        metrics.ISSUED.labels(attempt="first").inc(len(prompts))
        metrics.PASSED_OVER.inc(cursor - snapshot.cursor - len(prompts))
        return len(prompts)

    def cursors(self, snapshot: Snapshot) -> Mapping[str, Mapping[str, int]]:
        """How far each data set is."""
        return self._issuer.source.cursors(snapshot.cursor)

    def _refuse_to_starve(self, live: int) -> None:
        """RunFailed once the prompts are used up and those in flight make no batch: groups were filtered or quarantined."""
        if live < self._recipe.pacing.batch_groups:
            raise RunFailed(
                f"data.passes = {self._recipe.data.passes}: all prompts were issued, and what is left of them makes no "
                "batch; resume with a higher data.passes, or data.passes=null"
            )

    def _issue(self, prompts: Sequence[Prompt], *, cursor: int) -> bool:
        """False where the server's memory is full, which is no error: groups leave it, and the next call tries again."""
        self._reached("issue.before", prompts[0].sequence)
        try:
            self._put(prompts, cursor=cursor)
        except BufferFull as error:
            if not self._full:
                log.warning("buffer is full", extra={"why": str(error)})
            self._full = True
            return False
        if self._full:
            log.info("buffer takes prompts again")
        self._full = False
        self._reached("issue.after", prompts[0].sequence)
        return True

    def issue_anew(self, issues: Sequence[Issue], snapshot: Snapshot) -> None:
        """Give lost prompts their next attempt, whatever the pace: each replaces a group that is settled right after.

        They wait for the version of the last committed batch, which the trainer publishes once it has caught up: the
        newest of this moment may be older than the one that the lost groups were admitted under.
        """
        self._anew(issues, snapshot, min_version=snapshot.committed)

    def _anew(self, issues: Sequence[Issue], snapshot: Snapshot, *, min_version: int) -> None:
        first = snapshot.next_sequence
        prompts = [
            self._issuer.anew(issue, sequence=first + offset, min_version=min_version)
            for offset, issue in enumerate(issues)
        ]
        self._put(prompts, cursor=snapshot.cursor)
        metrics.ISSUED.labels(attempt="again").inc(len(prompts))

    def _put(self, prompts: Sequence[Prompt], *, cursor: int) -> None:
        self._buffer.issue(prompts, cursor=cursor)
        if not prompts:
            return
        groups = [prompt.sequence for prompt in prompts]
        extra = {"groups": groups, "attempt": prompts[0].attempt, "min_version": prompts[0].min_version}
        log.info("prompts issued", extra=extra)


def capacity_groups(recipe: Recipe) -> int:
    """Groups in flight, at most; by default what the staleness bound can use."""
    return recipe.experience.capacity_groups or (recipe.pacing.max_staleness + 1) * recipe.pacing.batch_groups
