"""A gauge that says nothing before it has something to say."""

from collections.abc import Iterable

from prometheus_client import Gauge
from prometheus_client.core import Metric


class LateGauge(Gauge):
    """Without labels, and absent from scrapes until it is set: a 0 that nobody measured would move means and ring alarms."""

    _seen = False

    def set(self, value: float) -> None:
        super().set(value)
        self._seen = True

    def collect(self) -> Iterable[Metric]:
        return super().collect() if self._seen else []
