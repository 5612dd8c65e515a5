"""What the server of groups tells of itself: memory, append-only file, connections. Looked at, and never waited for."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import redis

from orchestrator import metrics

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks: INFO costs the server some 50 µs and us 0.5 ms."""

NOTHING: Mapping[str, Any] = {"used_bytes": None, "limit_bytes": None, "aof_ok": None}
"""Of a server that did not answer, or not yet, or forbids the question."""


class RedisState:
    """tick(now, ask) asks, at most every LOOK_S; `seen` is the last answer, as the timeline has it.

    ask: ExperienceBuffer.server_info.
    """

    def __init__(self) -> None:
        self._looked_at = -LOOK_S
        self._forbidden = False
        self._silent = False
        self.seen: Mapping[str, Any] = NOTHING

    def tick(self, now: float, ask: Callable[[], Mapping[str, Any]]) -> None:
        if self._forbidden or now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        try:
            if info := ask():
                self.seen = _show(info)
            self._silent = False
        except redis.exceptions.NoPermissionError as error:
            self._forbidden = True
            metrics.REDIS_UP.set(1)
            log.info("the server's state is not ours to ask for", extra={"why": str(error)})
        except redis.RedisError as error:
            self.seen = NOTHING
            metrics.REDIS_UP.set(0)
            if not self._silent:  # once for each time that it falls silent
                log.warning("the server does not tell its state", extra={"error": str(error)})
            self._silent = True


_GAUGES = (
    ("used_memory", metrics.REDIS_MEMORY),
    ("maxmemory", metrics.REDIS_MEMORY_LIMIT),
    ("aof_enabled", metrics.REDIS_AOF_ENABLED),
    ("aof_delayed_fsync", metrics.REDIS_AOF_DELAYED),
    ("aof_current_size", metrics.REDIS_AOF_BYTES),
    ("connected_clients", metrics.REDIS_CLIENTS),
)
"""By field of INFO, numbers all; what speaks Redis's protocol need not tell each of them."""


def _show(info: Mapping[str, Any]) -> dict[str, Any]:
    metrics.REDIS_UP.set(1)
    for name, gauge in _GAUGES:
        if name in info:
            gauge.set(int(info[name]))
    write_ok = info.get("aof_last_write_status", "ok") == "ok"
    metrics.REDIS_AOF_WRITE_OK.set(write_ok)
    return {
        "used_bytes": info.get("used_memory"),
        "limit_bytes": info.get("maxmemory"),
        "aof_ok": bool(info["aof_enabled"]) and write_ok if "aof_enabled" in info else None,
    }
