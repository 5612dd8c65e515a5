"""A run of MLflow."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.sinks.config import MlflowConfig

_PARAMETERS, _METRICS = 100, 1000
"""Of one request, at most, by its REST interface."""
_VALUE_CHARACTERS = 500
"""Of a parameter: what every version takes."""
_STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowSink:
    """All lives of a run go on with one run there. Through its client, which keeps nothing that is the process's."""

    def __init__(
        self,
        config: MlflowConfig,
        *,
        name: str,
        run_id: str,
        keep: Callable[[str], None],
        hyperparameters: Mapping[str, Any],
    ) -> None:
        """`run_id`: of an earlier life, empty = there is none; then the new one's is given to `keep`."""
        from mlflow import MlflowClient  # optional: the extra of this name
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=config.tracking_uri)
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            self._id = run_id
        else:
            self._id = self._create(config.experiment, name)
            keep(self._id)
            # Parameters never change there; later lives change only what a resume may.
            parameters = [Param(key, str(value)[:_VALUE_CHARACTERS]) for key, value in hyperparameters.items()]
            for start in range(0, len(parameters), _PARAMETERS):
                self._client.log_batch(self._id, params=parameters[start : start + _PARAMETERS])

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        metrics = [self._metric(name, float(number), now_ms, step) for name, number in figures.items()]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + _METRICS])

    def event(self, step: int, text: str) -> None:
        self._client.set_tag(self._id, "headrace.event", f"step {step}: {text}")

    def close(self, state: str) -> None:
        self._client.set_terminated(self._id, status=_STATUS[state])

    def _create(self, experiment: str, name: str) -> str:
        found = self._client.get_experiment_by_name(experiment)
        where = found.experiment_id if found is not None else self._client.create_experiment(experiment)
        return str(self._client.create_run(where, run_name=name).info.run_id)
