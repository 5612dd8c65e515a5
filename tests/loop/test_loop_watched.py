"""One run as an outsider sees it: while it lives, and what is left of it afterwards.

The run starts once for the whole file, and so does the Prometheus that scrapes it (`watched_run.py`). To add a test, append
it to its half and ask for the fixture of that half:

    live     the run is at work, all its processes were scraped at least once, and it stays at work for some 30 s more:
             look quickly, change nothing, wait for nothing that takes long
    ended    the command has ended by itself with exit code 0; the server still answers for all that was scraped

Both give a `Watched`: `.run` is the run's folder, `.life` its process, `.prometheus.query(…)` an instant vector,
`.prometheus.url` the server's address, `.started` a Unix time before the start. The halves stand in this order in the
file and pytest keeps it; a test that is run alone gets what it asks for all the same.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from watched_run import STEPS, Watched, watching

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def watched(workplace: Path) -> Iterator[Watched]:
    with watching(workplace) as seen:
        yield seen


@pytest.fixture
def live(watched: Watched) -> Watched:
    assert watched.is_live(), "the run is over before the tests that look at it live: raise STEPS in watched_run.py"
    watched.wait_until_at_work()
    return watched


@pytest.fixture
def ended(watched: Watched) -> Watched:
    watched.wait_for_the_end()
    return watched


# While it lives.


def test_every_process_of_a_living_run_is_scraped(live: Watched) -> None:
    up = {sample["metric"]["worker"]: sample["value"][1] for sample in live.prometheus.query('up{run="watched"}')}
    assert up == dict.fromkeys(("driver", "eval-0", "gen-0", "rank-0", "rank-1", "score-0"), "1")


# After its end.


def test_the_run_that_was_watched_ended_well(ended: Watched) -> None:
    status = ended.life.status()
    assert (status["state"], status["step"]) == ("completed", STEPS)
