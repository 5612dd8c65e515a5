"""How far a policy has moved: KL(policy || reference) per answer, by exact log-probs of both."""

from collections.abc import Sequence

import numpy as np

from experience.schema import Float32Array
from orchestrator.evaluation.plan import Plan
from orchestrator.evaluation.records import Answers, Question
from score_cluster.config import ReferenceConfig

MEASURED_ANSWERS = 4096
"""Of a policy, the first samples of each prompt: pass@k takes many more, of which the KL would learn nothing."""
_TOKENS = 4096
"""Of a forward pass, padding included."""


def kl_k1(own_L: Float32Array, reference_L: Float32Array) -> float:
    """sum over tokens of log pi - log pi_ref, nats: its mean over the policy's own samples is KL(pi || pi_ref), unbiased
    (Schulman 2020, k1).
    """
    return float(np.sum(own_L.astype(np.float64) - reference_L.astype(np.float64)))


class ReferenceKl:
    """A frozen reference in float32: what an evaluation says of the KL has no noise of INT8 in it."""

    def __init__(self, plan: Plan) -> None:
        """ValueError: the reference cannot be loaded, or has another vocabulary."""
        from score_cluster.reference import HfReference  # loads transformers

        config = ReferenceConfig(path=plan.reference, precision="float32", micro_batch_tokens=_TOKENS)
        self._reference = HfReference(config, model_path=plan.model_path, threads=plan.threads)

    def per_answer(
        self, questions: Sequence[Question], answers: Answers, temperature: float
    ) -> list[list[float | None]]:
        """[P][S] nats, None for samples that are not measured; answers carry the log-probs under their own policy at this
        temperature.
        """
        from score_cluster.reference import Response

        measured = max(1, MEASURED_ANSWERS // len(questions))
        asked = [
            Response(prompt=question.tokens, tokens=answer.tokens, temperature=temperature)
            for question, row in zip(questions, answers, strict=True)
            for answer in row[:measured]
        ]
        found = iter(self._reference.logprobs(asked))
        return [
            [kl_k1(answer.logprobs, next(found)) if s < measured else None for s, answer in enumerate(row)]
            for row in answers
        ]
