"""How good a version is: its answers to the held-out prompts, judged against those of the model the run began with."""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.evaluation.evaluator import Evaluator
from orchestrator.evaluation.folder_weights import read_folder, tied_names
from orchestrator.evaluation.plan import Plan
from orchestrator.evaluation.records import PolicyAnswers
from orchestrator.evaluation.sampling import BASELINE, CHALLENGER, PolicySampler
from weightstore.fetch import FetchedVersion
from weightstore.manifest import WeightVersion

_BASELINE = WeightVersion(0, 0, 0)
"""No run publishes under it: epochs begin at 1."""


class VersionExaminer:
    """An engine of its own, whose weights are swapped; the baseline answers once.

    All versions are asked the same prompts with the same seeds, so that they differ by their weights alone.
    """

    def __init__(self, plan: Plan, *, baseline: Path | None) -> None:
        """Takes seconds. `baseline`: a model folder with weights; None: there is none to win against."""
        from gen_cluster.vllm_engine import VllmEngine  # vLLM

        self._plan, self._folder = plan, baseline
        self._sampler = PolicySampler(VllmEngine(plan.engine, model_path=plan.model_path))
        self._evaluator = Evaluator(plan)
        self._baseline: PolicyAnswers | None = None

    def prepare(self) -> None:
        if self._folder is not None:
            weights = read_folder(self._folder, version=_BASELINE, aliases=tied_names(self._plan.model_path))
            self._baseline = self._answers("baseline", weights, stream=BASELINE)

    def examine(self, fetched: FetchedVersion) -> Mapping[str, float]:
        """The flat figures of orchestrator.evaluation.keys.KEYS. EvaluationFailed: a judge or a reward failed."""
        version = self._answers("version", fetched, stream=CHALLENGER)
        if self._baseline is None:
            return self._evaluator.compare(version, []).figures["version"]
        return self._evaluator.compare(self._baseline, [version]).figures["version"]

    def close(self) -> None:
        self._sampler.close()

    def _answers(self, name: str, weights: FetchedVersion, *, stream: int) -> PolicyAnswers:
        drawn = self._sampler.answers(weights, self._plan.questions, self._plan.drawing, stream=stream)
        return self._evaluator.score(name, drawn)
