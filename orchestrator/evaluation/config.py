"""Settings of an evaluation: the section `evaluation` of a recipe, and of `headrace eval` without one."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from orchestrator.data.config import OneSource
from orchestrator.evaluation.keys import KEYS, is_figure
from score_cluster.http_address import url_problem

GATE = re.compile(
    r"\s*(?P<key>[A-Za-z_][\w.@ -]*?)\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>[-+]?\d+(\.\d*)?([eE][-+]?\d+)?)\s*"
)
"""`win_rate>=0.7`; orchestrator.evaluation.keys has the figures."""


def gate_problem(gate: str) -> str:
    """Why it is no condition, `reason; remedy`; "" where it is one."""
    match = GATE.fullmatch(gate)
    if match is None:
        return f"{gate!r} is no condition; write KEY>=VALUE, as in win_rate>=0.7 or kl<=15"
    if not is_figure(match["key"]):
        return f"{gate!r} names no figure; the figures are {', '.join(KEYS)}"
    return ""


class JudgeConfig(BaseModel):
    """Who says which of two answers is better: exactly one of model, function and url."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    """Folder of a reward model; the answer of the higher score wins."""
    function: str | None = None
    """`module:function`, a reward function (the higher value wins) or one that takes `first` and `second` and returns a number above 0 where the first is better, below 0 where the second is, and 0 for a tie."""
    url: str | None = None
    """HTTP judge: it gets prompt, first, second and metadata as JSON, and answers {"winner": "first", "second" or "tie"}."""
    arguments: Mapping[str, Any] = {}
    """Keyword arguments for the function, by name."""
    timeout_s: float = Field(default=60.0, gt=0)
    """For one verdict of the URL, or for what a function says of one prompt; large judges think for long."""
    attempts: int = Field(default=4, ge=1)
    """For one pair, with growing pauses; a judge that fails them all ends the evaluation."""
    concurrency: int = Field(default=8, ge=1)
    """Requests to the URL at a time."""
    token_variable: str | None = None
    """Environment variable whose value is sent to the URL as a bearer token."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None and (problem := url_problem(url)) is not None:
            raise ValueError(problem.replace(" or token_file", ""))
        return url

    @model_validator(mode="after")
    def _is_one(self) -> "JudgeConfig":
        given = [name for name in ("model", "function", "url") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a judge is one of model, function and url, not {' and '.join(given) or 'none'}; give one"
            )
        if self.arguments and self.function is None:
            raise ValueError("arguments are for a function; remove them")
        return self


class EvaluationConfig(OneSource):
    """Held-out prompts, how they are answered, and who judges; the first policy is the baseline of all others."""

    path: str
    """The held-out prompts: a file or folder as data.path."""
    limit: int | None = Field(default=500, ge=1)
    """Prompts at most, the first ones; 500 tell a win rate of 55 % from 50 % six times of ten, one of 60 % nearly always."""
    samples: int = Field(default=1, ge=1)
    """Answers a prompt and policy; pass@k needs k of them."""
    temperature: float | None = Field(default=None, gt=0)
    """null = generation.temperature: the policy as it is trained."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Response tokens; null = generation.max_tokens."""
    chat_template: bool | None = None
    """null = data.chat_template."""
    system_prompt: str | None = None
    """null = data.system_prompt."""
    judge: JudgeConfig | None = None
    """null = the recipe's own reward, the total of scoring.rewards: what was trained, so no judge of over-optimisation."""
    tie_margin: float = Field(default=0.0, ge=0)
    """Scores closer than this are a tie, where the judge gives scores."""
    reference: str | None = None
    """Model folder that the KL is measured against; null = the recipe's reference, or the baseline without a recipe."""
    category_column: str | None = None
    """Column by which the prompts are grouped in the results."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Of sampling and of the bootstrap; the same seed, policies and machine give the same answers."""
    resamples: int = Field(default=2000, ge=100)
    """Of the bootstrap: the 95 % limits are stable to some 0.2 percentage points."""
    interval_steps: int | None = Field(default=None, ge=1)
    """Evaluate the run's own versions so often while it runs, and its last one, by a process beside the training; null = never."""
    metric: Literal["win_rate", "reward"] = "win_rate"
    """By what the best version of a run is chosen: win rate against the model that it began with, or total reward."""
    deadline_s: float = Field(default=3600.0, gt=0)
    """For one evaluation during a run, which takes minutes; then its process is started anew. Also what the end of a run waits for."""
    patience_steps: int = Field(default=200, ge=1)
    """Where the metric has not risen for so long, the run says so."""
    gates: tuple[str, ...] = ()
    """Conditions such as win_rate>=0.7; `headrace eval` ends with exit code 1 where one fails."""

    @field_validator("gates")
    @classmethod
    def _are_conditions(cls, gates: tuple[str, ...]) -> tuple[str, ...]:
        for gate in gates:
            if problem := gate_problem(gate):
                raise ValueError(problem)
        return gates
