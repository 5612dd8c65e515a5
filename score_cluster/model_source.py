"""Rewards of kind model: sequences out of answers, one reward model or an ensemble of them, failures by group."""

import hashlib
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experience.schema import Int32Array
from score_cluster import ensemble
from score_cluster.answers import Answers, RewardFailed, Scores
from score_cluster.frozen import load_tokenizer, tokenizer_difference
from score_cluster.reward_config import ModelRewardConfig
from score_cluster.reward_model import (
    HfRewardModel,
    RewardModel,
    card_warnings,
    check_reward_folder,
    weights_hash,
)

logger = logging.getLogger(__name__)


class ModelSource:
    """RewardSource of kind model. Values are the scores; measures, of an ensemble: every member's, and the disagreement."""

    def __init__(self, config: ModelRewardConfig, *, model_path: str, threads: int) -> None:
        """Load all members. ValueError: not a reward model, missing weights, another tokenizer than the policy's.

        model_path: the policy's folder. threads: intra-op threads, set for the whole process.
        """
        self.name = config.name
        self._config = config
        field = f"reward {config.name!r}: path"
        self._texts: _OwnText | None = None
        for path in config.folders:
            check_reward_folder(path, field=field)
            for line in card_warnings(path, field=field):
                logger.warning(line)
            tokenizer = load_tokenizer(path, field=field)
            if config.retokenise:
                self._texts = self._texts or _OwnText(tokenizer)
                _check_alike(tokenizer, self._texts.tokenizer, path=path, other=config.folders[0], field=field)
            else:
                policy = load_tokenizer(model_path, field="model.path")
                _check_policy_reads_alike(tokenizer, policy, path=path, model_path=model_path, field=field)
        self._members = tuple(_load(config, path, threads=threads, field=field) for path in config.folders)
        self.hash = _hash(config)

    def score(self, batch: Sequence[Answers]) -> list[Scores | RewardFailed]:
        """All completions of all groups that fit the model go through it together."""
        sequences = [self._sequences(answers) for answers in batch]
        problems = [self._unfit(rows) for rows in sequences]
        asked = [row for rows, problem in zip(sequences, problems, strict=True) if problem is None for row in rows]
        scores_MN = np.array([member.scores(asked) for member in self._members], dtype=np.float64)
        out: list[Scores | RewardFailed] = []
        start = 0
        for answers, rows, problem in zip(batch, sequences, problems, strict=True):
            if problem is None:
                scores_MG = scores_MN[:, start : start + len(rows)]
                start += len(rows)
                problem = self._not_finite(scores_MG)
            if problem is None:
                out.append(self._scores(scores_MG))
            else:
                out.append(RewardFailed(component=self.name, sequence=answers.sequence, problem=problem))
        return out

    def close(self) -> None:
        for member in self._members:
            member.close()

    def _sequences(self, answers: Answers) -> list[Int32Array]:
        """Of each completion, what the model reads."""
        if self._texts is None:
            return [np.concatenate([answers.prompt_tokens, tokens]) for tokens in answers.tokens]
        ends = zip(answers.completions, answers.finished, strict=True)
        return [self._texts.tokens(answers.prompt, text, finished=finished) for text, finished in ends]

    def _unfit(self, rows: Sequence[Int32Array]) -> str | None:
        longest, highest = max(len(row) for row in rows), max((int(row.max()) for row in rows if len(row)), default=0)
        context = min(member.context_tokens for member in self._members)
        if not all(len(row) for row in rows):
            return "an empty sequence has no last token to score"
        if longest > context:
            return f"a sequence of {longest} tokens is longer than the model's context of {context}"
        vocabulary = min(member.vocabulary for member in self._members)
        return f"token {highest} is outside the vocabulary of {vocabulary}" if highest >= vocabulary else None

    def _not_finite(self, scores_MG: np.ndarray) -> str | None:
        for path, scores_G in zip(self._config.folders, scores_MG, strict=True):
            for index, value in enumerate(scores_G):
                if not math.isfinite(value):
                    return f"{path} scored completion {index} {value}, which is not a finite number"
        return None

    def _scores(self, scores_MG: np.ndarray) -> Scores:
        if len(scores_MG) == 1:
            return Scores(values=tuple(scores_MG[0].tolist()))
        values_G = ensemble.combined(scores_MG, how=self._config.combine, std_factor=self._config.std_factor)
        members = {f"member_{index}": tuple(row_G.tolist()) for index, row_G in enumerate(scores_MG)}
        spread = tuple(ensemble.disagreement(scores_MG).tolist())
        return Scores(values=tuple(values_G.tolist()), measures={**members, "disagreement": spread})


class _OwnText:
    """Prompt and completion as text, read by the reward model's own tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def tokens(self, prompt: str, completion: str, *, finished: bool) -> Int32Array:
        """By its chat template, where it has one; else one after the other, with the end token where the answer ended by itself.

        Prompt and completion are tokenised apart, as reward training does, so that no token spans both.
        """
        if self.tokenizer.chat_template is not None:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
            ids = self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        else:
            end = [self.tokenizer.eos_token_id] if finished and self.tokenizer.eos_token_id is not None else []
            ids = [
                *self.tokenizer(prompt)["input_ids"],
                *self.tokenizer(completion, add_special_tokens=False)["input_ids"],
                *end,
            ]
        return np.asarray(ids, dtype=np.int32)


def _load(config: ModelRewardConfig, path: str, *, threads: int, field: str) -> RewardModel:
    precision, limit = config.precision_in_force, config.micro_batch_tokens
    if config.engine == "vllm":
        from score_cluster.pooling import VllmRewardModel  # loads vLLM

        return VllmRewardModel(
            path, precision=precision, tensor_parallel=config.tensor_parallel, threads=threads, field=field
        )
    return HfRewardModel(path, precision=precision, micro_batch_tokens=limit, threads=threads, field=field)


def _check_policy_reads_alike(tokenizer: Any, policy: Any, *, path: str, model_path: str, field: str) -> None:
    if difference := tokenizer_difference(tokenizer, policy):
        raise ValueError(
            f"{field} = {path}: its tokenizer is not that of the policy {model_path} ({difference}); set retokenise: true to "
            "have it read the text, or give a reward model of the policy's own family"
        )


def _check_alike(tokenizer: Any, first: Any, *, path: str, other: str, field: str) -> None:
    difference = tokenizer_difference(tokenizer, first)
    if difference is None and tokenizer.chat_template != first.chat_template:
        difference = "their chat templates differ"
    if difference is not None:
        raise ValueError(
            f"{field} = {path}: its tokenizer is not that of {other} ({difference}); "
            "members of an ensemble share one tokenizer, so give the others a component of their own"
        )


def _hash(config: ModelRewardConfig) -> str:
    """Of the weights of all members, and of what else decides a value."""
    parts = [*map(weights_hash, config.folders), config.precision_in_force, config.engine, str(config.retokenise)]
    if len(config.folders) > 1:
        parts += [config.combine, f"{config.std_factor:g}"]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
