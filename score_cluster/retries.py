"""How often and how soon a request that failed is made again."""

import threading
from random import Random

BASE_S, MOST_S = 0.5, 10.0
"""Of a wait before the first retry, and before any: services that restart take seconds."""
IN_HAND = 10.0
"""Retries that may come together, whatever was asked before."""


def full_jitter(retry: int, *, random: Random, base_s: float = BASE_S, most_s: float = MOST_S) -> float:
    """Seconds to wait before the retry of this number, from 1: uniform in 0 .. min(most, base · 2^(retry − 1)).

    Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): clients that failed together do not come back together.
    """
    return random.uniform(0.0, min(most_s, base_s * 2.0 ** (retry - 1)))


class RetryBudget:
    """Retries as a share of requests: each request earns `share` of one, each retry costs one; used by several threads.

    A service that is up has its odd failure retried; one that is down is asked (1 + share) times as often as one that is up, not
    (1 + retries) times.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._hand = IN_HAND
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A request is made for the first time."""
        with self._lock:
            self._hand = min(IN_HAND, self._hand + self._share)

    def spend(self) -> bool:
        """Whether there is a retry left; it is taken then."""
        with self._lock:
            if self._hand < 1:
                return False
            self._hand -= 1
            return True
