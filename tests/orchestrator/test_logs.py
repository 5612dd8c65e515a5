"""A line of a log: who says it, of which run, and what the call said beside its event. Milliseconds."""

import json
import logging
import sys
from typing import Any

from orchestrator.log_reader.entry import parse
from orchestrator.logs import JsonLines


def line_of(event: str, *, exc_info: Any = None, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger("gen_cluster.worker").makeRecord(
        "gen_cluster.worker", logging.WARNING, __file__, 1, event, (), exc_info, extra=extra
    )
    text = JsonLines(run="trial", worker="gen-0").format(record)
    assert "\n" not in text
    assert parse(text, worker="other", before=0.0).worker == "gen-0"
    return dict(json.loads(text))


def test_a_line_names_its_run_its_worker_and_what_was_said() -> None:
    line = line_of("group given up", group=7, result="overdue", _private="kept back")
    assert list(line)[1:] == ["level", "logger", "run", "worker", "event", "group", "result"]
    assert (line["level"], line["logger"], line["run"], line["worker"]) == (
        "warning", "gen_cluster.worker", "trial", "gen-0",
    )  # fmt: skip
    assert (line["event"], line["group"], line["result"]) == ("group given up", 7, "overdue")
    assert line["time"].endswith("+00:00")


def test_an_error_has_its_traceback_in_the_line() -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        line = line_of("failed", exc_info=sys.exc_info())
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("ValueError: odd")
