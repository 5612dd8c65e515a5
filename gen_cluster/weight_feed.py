"""Looks for new weights and fetches them beside generation, in one background thread."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor

from weightstore.fetch import CorruptVersion, FetchedVersion, VersionMissing, WeightSource
from weightstore.manifest import WeightVersion

logger = logging.getLogger(__name__)

FAILED_INTERVALS = 20
"""Intervals of pause after a look that the store refused: it has been patient itself, and each refusal is logged."""


class WeightFeed:
    """At most one look is under way; after each one there is a pause of `interval_s`, a longer one after a failure."""

    def __init__(self, source: WeightSource, *, interval_s: float) -> None:
        self._source = source
        self._interval_s = interval_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weight-feed")
        self._look: Future[FetchedVersion | None] | None = None
        self._next_look = 0.0
        self._seen: WeightVersion | None = None
        self._falling_back = False

    def take(self) -> FetchedVersion | None:
        """The newest version, whole and verified, once; None: nothing new, or not fetched yet. Never blocks.

        A store that does not answer is asked again at the next look. CorruptVersion: once for each such version.
        """
        if self._look is None:
            if time.monotonic() >= self._next_look:
                self._look = self._thread.submit(self._fetch_newest)
            return None
        if not self._look.done():
            return None
        look, self._look = self._look, None
        self._next_look = time.monotonic() + self._interval_s
        try:
            return look.result()
        except OSError as error:
            self._next_look += self._interval_s * (FAILED_INTERVALS - 1)
            logger.warning("weights not fetched, will try again", extra={"error": str(error)})
            return None

    @property
    def newest_seen(self) -> WeightVersion | None:
        """The newest version that was given or refused."""
        return self._seen

    def again(self) -> None:
        """The version that was taken could not be put to use for now: give it once more, with the next look."""
        self._seen = None

    def fall_back(self) -> None:
        """The newest version cannot be served and no other is: give, once, the newest of those before it that is whole."""
        self._falling_back = True

    def close(self) -> None:
        """Waits for the look that is under way."""
        self._thread.shutdown(cancel_futures=True)

    def _fetch_newest(self) -> FetchedVersion | None:
        version = self._source.newest()
        if version is None:
            return None
        if version == self._seen:
            return self._fetch_before(version) if self._falling_back else None
        try:
            fetched = self._source.fetch(version)
        except VersionMissing:  # superseded and deleted since: the next look finds its successor
            return None
        except CorruptVersion:
            self._seen = version
            raise
        self._seen = version
        return fetched

    def _fetch_before(self, version: WeightVersion) -> FetchedVersion | None:
        found = None
        for older in self._source.before(version):
            try:
                found = self._source.fetch(older)
                break
            except (CorruptVersion, VersionMissing) as error:
                logger.warning("version passed over", extra={"version": str(older), "error": str(error)})
        self._falling_back = False
        return found
