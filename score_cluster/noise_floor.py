"""What quantising the reference alone makes of equal weights, and whether a KL target can be told from it."""

import logging
from collections.abc import Sequence

from score_cluster import metrics

logger = logging.getLogger(__name__)

ENOUGH_RESPONSES = 64
"""Before a warning: fewer say little of a mean that a single odd response can dominate."""


class NoiseFloor:
    """Mean KL per response over all samples of version 0, and one warning if the target lies below it."""

    def __init__(self, *, target_nats: float | None) -> None:
        """target_nats: per response; None = nothing steers the KL."""
        self._target = target_nats
        self._sum = 0.0
        self._count = 0
        self.nats: float | None = None
        """Per response; None before the first sample."""
        self.warning = ""
        """Once there are enough responses to say that the target cannot be reached."""

    def add(self, kl_per_response: Sequence[float]) -> None:
        """Of further samples of version 0, nats."""
        if not kl_per_response:
            return
        self._sum += sum(kl_per_response)
        self._count += len(kl_per_response)
        floor = self._sum / self._count
        self.nats = floor
        metrics.KL_NOISE_FLOOR.set(floor)
        if self._target is None or self._count < ENOUGH_RESPONSES:
            return
        below = self._target < floor
        metrics.KL_BELOW_NOISE.set(below)
        if below and not self.warning:
            self.warning = (
                f"training.kl.target_nats = {self._target:g}: equal weights already measure {floor:.3g} nats a response, the "
                "noise of the reference's precision, so that no policy can reach the target; raise it, or set "
                "scoring.reference.precision=int8_weights, or float32"
            )
            logger.warning("%s", self.warning)
