"""The evaluator of a run, as a host runs it: versions in, figures out; it writes neither ledger nor weights.

setup ─▶ evaluate(version) ─▶ export(version) ─▶ evaluate …      asked by the driver, one at a time
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gen_cluster.engine import WeightsRefused
from orchestrator.faults import Reached
from orchestrator.periodic.best import replace_best
from weightstore.fetch import CorruptVersion, FetchedVersion, VersionMissing, WeightSource
from weightstore.manifest import WeightVersion

logger = logging.getLogger(__name__)


class Examiner(Protocol):
    """What finds out how good weights are.

    prepare()         whatever needs no version, such as the baseline's answers
    examine(fetched)  {name of a figure: number, text or mapping}, the same for the same weights; WeightsRefused: they do
                      not fit the engine, which then serves what it did
    """

    def prepare(self) -> None: ...

    def examine(self, fetched: FetchedVersion) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


class EvaluationWorker:
    """A version that is damaged or gone is an answer, `refused`, and no death; any other error ends the process."""

    def __init__(
        self, *, examiner: Examiner, weights: WeightSource, model_path: str, best: Path, reached: Reached
    ) -> None:
        """`model_path`: the folder with config and tokenizer. `best`: where `export` leaves a version."""
        self._examiner, self._weights = examiner, weights
        self._model_path, self._best, self._reached = model_path, best, reached
        self._fetched: FetchedVersion | None = None
        self._doing = "starting"

    def setup(self) -> None:
        self._doing = "answering for the baseline"
        self._examiner.prepare()
        self._doing = "idle"

    def evaluate(self, version: str) -> dict[str, Any]:
        """{refused: reason}, or the figures."""
        self._doing = f"evaluating {version}"
        try:
            fetched = self._fetch(version)
            self._reached("evaluation.fetched", fetched.manifest.version.number)
            return dict(self._examiner.examine(fetched))
        except (CorruptVersion, VersionMissing, WeightsRefused) as error:
            logger.warning("version not evaluated", extra={"version": version, "error": str(error)})
            return {"refused": str(error)}
        finally:
            self._doing = "idle"

    def export(self, version: str) -> dict[str, Any]:
        """{refused: reason}, or {out: folder}."""
        from train_cluster.model import save_folder  # torch and transformers, loaded by the engine already

        try:
            fetched = self._fetch(version)
            tensors = dict(fetched.tensors())
            replace_best(self._best, fetched.manifest.version, lambda out: save_folder(out, self._model_path, tensors))
        except (CorruptVersion, VersionMissing, OSError) as error:
            logger.warning("best version not exported", extra={"version": version, "error": str(error)})
            return {"refused": str(error)}
        return {"out": str(self._best)}

    def status(self) -> dict[str, Any]:
        return {"doing": self._doing}

    def close(self) -> None:
        self._examiner.close()

    def _fetch(self, version: str) -> FetchedVersion:
        """The last one is kept: the best is exported right after it was evaluated."""
        wanted = WeightVersion.parse(version)
        if self._fetched is None or self._fetched.manifest.version != wanted:
            self._fetched = self._weights.fetch(wanted)
        return self._fetched
