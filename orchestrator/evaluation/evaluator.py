"""The core of an evaluation: answers of policies in, a comparison out. Whoever has an engine uses it like this:

    plan = plan_of(recipe)                                  # orchestrator.evaluation.plan: reads and checks the prompts
    sampler = PolicySampler(VllmEngine(plan.engine, model_path=plan.model_path))      # orchestrator.evaluation.sampling
    evaluator = Evaluator(plan)                             # loads judge, rewards and reference, once
    drawn = sampler.answers(fetched, plan.questions, plan.drawing, stream=BASELINE)   # a weightstore FetchedVersion
    first = evaluator.score("version 0", drawn)             # rewards, judge's scores, KL of each answer
    other = evaluator.score("version 40", sampler.answers(later, plan.questions, plan.drawing, stream=CHALLENGER))
    comparison = evaluator.compare(first, [other])          # a Comparison
    comparison.figures["version 40"]["win_rate"]            # the flat figures: orchestrator.evaluation.keys.KEYS

Keep `first` and compare it with any number of later versions. A model FOLDER becomes a FetchedVersion by
orchestrator.evaluation.folder_weights.read_folder; `orchestrator.evaluation.command.run` is `headrace eval`, which
starts an engine in a process of its own for each architecture.

ValueError: something named in the recipe is missing or does not fit. EvaluationFailed: a judge or a reward failed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gen_cluster.engine import Finished
from orchestrator.evaluation import figures as fg
from orchestrator.evaluation import statistics as st
from orchestrator.evaluation.judges import PairJudge, ScoreJudge, both_orders, open_judge, silent
from orchestrator.evaluation.kl import ReferenceKl
from orchestrator.evaluation.plan import Plan
from orchestrator.evaluation.records import Answer, Pair, PolicyAnswers, Progress, Scored
from orchestrator.evaluation.rewards import Rewards

OWN_REWARD = "the recipe's reward"
"""Name of the judge where none is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Every policy by its figures; the first is the baseline that the others are compared with."""

    judge: str
    policies: tuple[PolicyAnswers, ...]
    figures: Mapping[str, Mapping[str, float]]
    """{policy: {key: value}}, keys as in `keys.KEYS`; win rates and ratios are there for all but the baseline."""
    categories: Mapping[str, Mapping[str, Mapping[str, float]]]
    """{policy: {category: {prompts, win_rate, win_rate_low, win_rate_high, score, length}}}, as far as there are such."""
    won: Mapping[str, tuple[float, ...]]
    """{policy: [P] share of comparisons with the baseline that it won at each prompt, ties half}"""

    @property
    def baseline(self) -> str:
        return self.policies[0].name

    @property
    def labels(self) -> dict[str, str]:
        """{policy: the last part of its path}, where that tells each from the others."""
        names = [one.name for one in self.policies]
        ends = [name.rpartition("/")[2] for name in names]
        return dict(zip(names, ends if len(set(ends)) == len(ends) else names, strict=True))


class Evaluator:
    """Scores answers and compares policies; loads its models once, at its start. Used from one thread."""

    def __init__(self, plan: Plan) -> None:
        """ValueError: a judge, reward or reference that cannot be loaded, or no judge at all.

        `orchestrator.evaluation.check.refuse` finds most of that without loading anything.
        """
        self._plan, self._config = plan, plan.config
        self._rewards = _rewards(plan)
        judge = None
        if self._config.judge is not None:
            judge = open_judge(
                self._config.judge,
                model_path=plan.model_path,
                threads=plan.threads,
                max_tokens=plan.drawing.max_tokens,
            )
        self.judge = OWN_REWARD if judge is None else judge.name
        self._score_judge = judge if isinstance(judge, ScoreJudge) else None
        self._pair_judge = judge if isinstance(judge, PairJudge) else None
        self._kl = None if plan.reference is None else ReferenceKl(plan)

    def score(self, name: str, drawn: Sequence[Sequence[Finished]], *, progress: Progress = silent) -> PolicyAnswers:
        """All that can be said of a policy's answers [P][S] one by one. EvaluationFailed: who could not say it."""
        questions = self._plan.questions
        answers = [[self._answer(one) for one in row] for row in drawn]
        values = None if self._rewards is None else self._rewards.values(questions, answers, progress=progress)
        scores = None
        if self._score_judge is not None:
            scores = self._score_judge.scores(questions, answers, progress)
        elif self._pair_judge is None:
            assert values is not None
            scores = [[value.total for value in row] for row in values]
        kls = None if self._kl is None else self._kl.per_answer(questions, answers, self._plan.drawing.temperature)
        return PolicyAnswers(
            name=name,
            scored=tuple(
                tuple(
                    Scored(
                        answer=answer,
                        reward=None if values is None else values[p][s].total,
                        components={} if values is None else values[p][s].components,
                        score=None if scores is None else scores[p][s],
                        kl=None if kls is None else kls[p][s],
                    )
                    for s, answer in enumerate(row)
                )
                for p, row in enumerate(answers)
            ),
        )

    def compare(
        self, baseline: PolicyAnswers, others: Sequence[PolicyAnswers], *, progress: Progress = silent
    ) -> Comparison:
        """Each of the others with the baseline; none of them = the baseline's figures alone.

        EvaluationFailed: a judge of pairs could not say.
        """
        policies = (baseline, *others)
        figures = {one.name: fg.policy_figures(one, **self._bootstrap) for one in policies}
        won: dict[str, tuple[float, ...]] = {}
        for other in others:
            won[other.name], judged = self._judged(baseline, other, progress)
            figures[other.name] |= (
                judged
                | fg.reward_figures(baseline, other, **self._bootstrap)
                | fg.ratio_figures(figures[baseline.name], figures[other.name])
            )
        return Comparison(
            judge=self.judge,
            policies=policies,
            figures=figures,
            categories={one.name: self._by_category(one, won.get(one.name)) for one in policies},
            won=won,
        )

    @property
    def _bootstrap(self) -> dict[str, int]:
        return {"resamples": self._config.resamples, "seed": self._config.seed}

    def _judged(
        self, baseline: PolicyAnswers, other: PolicyAnswers, progress: Progress
    ) -> tuple[tuple[float, ...], dict[str, float]]:
        """[P] the share won at each prompt, and the figures of it."""
        if self._pair_judge is not None:
            return self._judged_by_pairs(self._pair_judge, baseline, other, progress)
        first, second = fg.scores_of(baseline), fg.scores_of(other)
        assert first is not None
        assert second is not None
        margin = self._config.tie_margin
        won = tuple(fg.won_by_prompt(first, second, margin=margin))
        ties = float(np.mean([st.tie_share(a, b, margin=margin) for a, b in zip(first, second, strict=True)]))
        return won, fg.win_figures(won, ties=ties, **self._bootstrap)

    def _judged_by_pairs(
        self, judge: PairJudge, baseline: PolicyAnswers, other: PolicyAnswers, progress: Progress
    ) -> tuple[tuple[float, ...], dict[str, float]]:
        """Sample i of the one against sample i of the other: S pairs a prompt."""
        pairs = [
            Pair(question=question, first=a.answer.text, second=b.answer.text)
            for question, row_a, row_b in zip(self._plan.questions, baseline.scored, other.scored, strict=True)
            for a, b in zip(row_a, row_b, strict=True)
        ]
        verdicts = both_orders(judge, pairs, progress)
        samples = self._plan.drawing.samples
        won = tuple(float(np.mean(verdicts.second_won[at : at + samples])) for at in range(0, len(pairs), samples))
        ties = sum(one == 0.5 for one in verdicts.second_won) / len(pairs)
        figures = fg.win_figures(won, ties=ties, **self._bootstrap)
        return won, figures | {"self_disagreement": verdicts.disagreement}

    def _by_category(self, policy: PolicyAnswers, won: Sequence[float] | None) -> dict[str, dict[str, float]]:
        labels = [question.category for question in self._plan.questions]
        if self._config.category_column is None:
            return {}
        return {
            label: fg.category_figures(policy, indices, won, **self._bootstrap)
            for label, indices in st.grouped(labels).items()
        }

    def _answer(self, one: Finished) -> Answer:
        return Answer(
            text=self._plan.text(one.tokens), tokens=one.tokens, logprobs=one.logprobs, finish_reason=one.finish_reason
        )


def _rewards(plan: Plan) -> Rewards | None:
    """The recipe's, if there is one."""
    scoring = plan.scoring
    if scoring is None:
        return None
    return Rewards(
        scoring.rewards,
        constraints=scoring.constraints,
        model_path=plan.model_path,
        threads=plan.threads,
        timeout_s=scoring.reward_timeout_s,
        max_tokens=plan.drawing.max_tokens,
    )
