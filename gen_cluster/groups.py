"""A leased prompt on its way to a group of completions."""

from dataclasses import dataclass, field

import numpy as np

from experience.buffer import Lease
from experience.production import produced
from experience.schema import Completion, CompletionGroup, Prompt
from gen_cluster.engine import Finished


@dataclass(kw_only=True, slots=True, eq=False)
class HeldGroup:
    """What a worker knows of one group that it holds. Times are monotonic seconds."""

    lease: Lease
    prompt: Prompt
    leased_at: float
    started_at: float | None = None
    """None while it waits."""
    finished: dict[str, Finished] = field(default_factory=dict)
    """By request id."""

    @property
    def request_ids(self) -> list[str]:
        """One per sample, by index. The delivery is part of it: an earlier one may have been aborted here."""
        prefix = f"{self.prompt.group_id}#{self.lease.deliveries}"
        return [f"{prefix}/{index}" for index in range(self.prompt.group_size)]

    @property
    def complete(self) -> bool:
        return len(self.finished) == self.prompt.group_size

    def overdue(self, now: float) -> bool:
        return self.started_at is not None and now - self.started_at > self.prompt.deadline_s

    def assemble(self, *, now: float) -> CompletionGroup:
        """The complete group as it travels on."""
        assert self.started_at is not None
        return CompletionGroup(
            prompt=self.prompt,
            completions=tuple(
                _completion(index, self.finished[request_id], seed=self.prompt.sampling.seed + index)
                for index, request_id in enumerate(self.request_ids)
            ),
            production=produced(self.lease, leased_at=self.leased_at, started_at=self.started_at, finished_at=now),
        )


def _completion(index: int, finished: Finished, *, seed: int) -> Completion:
    return Completion(
        index=index,
        tokens=finished.tokens,
        sampled=np.ones(len(finished.tokens), dtype=np.bool_),
        behaviour_logprobs=finished.logprobs,
        spans=finished.spans,
        channels={},
        finish_reason=finished.finish_reason,
        seed=seed,
    )
