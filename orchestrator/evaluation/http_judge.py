"""A judge of pairs behind HTTP: one POST a pair, retried, and never taken for a verdict when it is none.

    POST URL   {"prompt": "…", "first": "…", "second": "…", "metadata": {…}}
    200        {"winner": "first" | "second" | "tie"}

Connections refused or lost, time-outs, 429 and 5xx are tried again; anything else ends the evaluation with one line.
Redirects are not followed.
"""

import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from orchestrator.errors import EvaluationFailed
from orchestrator.evaluation.config import JudgeConfig
from orchestrator.evaluation.records import Pair, Progress
from score_cluster.http_address import shown
from score_cluster.http_post import PostFailed, authorization, post
from score_cluster.retries import full_jitter

FIRST_PAUSE_S = 0.25
"""Before the second attempt, at most; it doubles from there."""
_VALUES = {"first": 1.0, "second": -1.0, "tie": 0.0}


class HttpJudge:
    """See the module."""

    def __init__(self, config: JudgeConfig) -> None:
        """ValueError: the variable with the token is not set."""
        assert config.url is not None
        self._config = config
        self.name = shown(config.url)
        self._headers = {"Accept": "application/json"}
        if config.token_variable is not None:
            token = os.environ.get(config.token_variable, "")
            value = authorization(token)
            if value is None:
                reason = "holds no token that a header can carry" if token else "is not set"
                raise ValueError(
                    f"evaluation.judge.token_variable = {config.token_variable}: this variable {reason}; "
                    "export it, or set evaluation.judge.token_variable=null"
                )
            self._headers["Authorization"] = value
        self._random = Random()

    def prefer(self, pairs: Sequence[Pair], progress: Progress) -> list[float]:
        """See `PairJudge`. The first pair that cannot be judged ends all: nothing is asked after it."""
        failed, done = threading.Event(), 0

        def ask(pair: Pair) -> float:
            if failed.is_set():
                return 0.0  # never read: the failure is raised
            try:
                return self._ask(pair)
            except BaseException:
                failed.set()
                raise

        found = []
        with ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="judge") as pool:
            for value in pool.map(ask, pairs):
                found.append(value)
                done += 1
                progress(done, len(pairs))
        return found

    def _ask(self, pair: Pair) -> float:
        config, question = self._config, pair.question
        assert config.url is not None
        asked = {"prompt": question.text, "first": pair.first, "second": pair.second, "metadata": question.metadata}
        body = json.dumps(asked).encode()
        for attempt in range(1, config.attempts + 1):
            try:
                answer = post(config.url, body, headers=self._headers, timeout_s=config.timeout_s, context=None)
                return self._value(answer)
            except PostFailed as error:
                if attempt == config.attempts or not error.transient:
                    tried = f" after {attempt} attempt{'s' * (attempt > 1)}; is the service up?" * error.transient
                    raise EvaluationFailed(f"judge {self.name} {error}{tried}") from error
            # Back-off: nobody tells when the service has recovered.
            time.sleep(full_jitter(attempt, random=self._random, base_s=FIRST_PAUSE_S))
        raise AssertionError("attempts >= 1")

    def _value(self, answer: dict[str, Any]) -> float:
        winner = answer.get("winner")
        if not isinstance(winner, str) or winner not in _VALUES:
            raise PostFailed(
                f'answered the winner {json.dumps(winner)[:80]}, and only "first", "second" and "tie" can win',
                transient=False,
            )
        return _VALUES[winner]
