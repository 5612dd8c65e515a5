"""Prometheus's HTTP API, as far as a picture needs it, with nothing but the standard library."""

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 60.0
"""Of one query: Prometheus gives up on its own after two minutes; a picture should not take that long."""
DAY = "1d"
"""How far back a run is looked for."""


class Refused(Exception):
    """The server cannot be reached, or does not answer the question; says so in a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """The course of one series: labels, and (Unix time, value) by rising time, without values that are not numbers."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def instant(self, query: str, *, at: float) -> list[Series]:
        """One point a series; those that are no number keep their place among the others, with no point."""
        found = self._get("query", query=query, time=f"{at:.3f}")["result"]
        return [_series(each["metric"], [each["value"]]) for each in found]

    def course(self, query: str, *, start: float, end: float, step_s: float) -> list[Series]:
        """A point each `step_s` from `start` to `end`, both Unix times."""
        span = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_s:.3f}"}
        found = self._get("query_range", query=query, **span)["result"]
        return [_series(each["metric"], each["values"]) for each in found]

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
                return dict(json.load(answer)["data"])
        except urllib.error.HTTPError as error:
            raise Refused(f"{self.url} refused {parameters.get('query', path)}: {_reason(error)}") from None
        except (OSError, ValueError) as error:
            raise Refused(f"no answer from {self.url}: {error}") from None


def _series(labels: Mapping[str, str], values: list[list[Any]]) -> Series:
    points = ((float(when), float(value)) for when, value in values)
    return Series(labels=labels, points=tuple(point for point in points if math.isfinite(point[1])))


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError):
        return str(error)
