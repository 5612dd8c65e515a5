"""Rewards of kind http: a service that is asked once for each prompt's completions; docs/scoring.md has the JSON."""

import hashlib
import json
import math
import os
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from score_cluster.answers import Answers, RewardFailed, Scores
from score_cluster.http_address import shown
from score_cluster.http_post import PostFailed, authorization, post
from score_cluster.retries import RetryBudget, full_jitter
from score_cluster.reward_config import HttpRewardConfig

_LEAST_S = 0.001
"""For a try: the wait before it may have taken the rest of the budget, and no socket waits for less than nothing."""


class HttpSource:
    """RewardSource of kind http. What fails is the group: a service that is down never lowers a reward."""

    def __init__(self, config: HttpRewardConfig) -> None:
        """Nothing is sent. ValueError: a token or certificates that cannot be read."""
        self.name = config.name
        self.hash = hashlib.sha256(f"http\0{config.url}".encode()).hexdigest()
        self._config = config
        self._where = shown(config.url)
        self._context = _context(config)
        _headers(config)
        self._budget = RetryBudget(config.retry_share)
        self._random = Random()
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix=f"http-{config.name}")

    def score(self, batch: Sequence[Answers]) -> list[Scores | RewardFailed]:
        """Several groups at a time, `concurrency` at most."""
        return list(self._pool.map(self._score, batch))

    def close(self) -> None:
        """No retry is begun any more; a request under way is left to its time-out."""
        self._closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _score(self, answers: Answers) -> Scores | RewardFailed:
        try:
            return Scores(values=_scores(self._asked(answers), count=len(answers.completions)))
        except PostFailed as error:
            failure = RewardFailed(component=self.name, sequence=answers.sequence, problem=f"{self._where} {error}")
            failure.__cause__ = error
            return failure

    def _asked(self, answers: Answers) -> dict[str, Any]:
        """The service's answer, after retries. PostFailed: the last failure, and how often it was tried."""
        config = self._config
        body = _body(answers)
        started = time.monotonic()
        self._budget.earn()
        for tries in range(1, config.retries + 2):
            left_s = max(_LEAST_S, config.budget_s - (time.monotonic() - started))
            try:
                return post(
                    config.url,
                    body,
                    headers=_headers(config),
                    timeout_s=min(config.timeout_s, left_s),
                    context=self._context,
                )
            except PostFailed as error:
                stopped = self._stopped(error, tries, until=started + config.budget_s)
                if stopped is not None:
                    raise PostFailed(f"{error}{_times(tries)}{stopped}", transient=error.transient) from error
        raise AssertionError("the last try returns or raises")

    def _stopped(self, error: PostFailed, tries: int, *, until: float) -> str | None:
        """Why there is no further try; None, after the wait for it, where there is one."""
        if not error.transient or tries > self._config.retries:
            return ""
        wait_s = full_jitter(tries, random=self._random)
        if time.monotonic() + wait_s >= until:
            return f", and budget_s = {self._config.budget_s:g} is used up"
        if not self._budget.spend():
            return f", and the share of retries is used up (retry_share = {self._config.retry_share:g})"
        return ", and the scorer ends" if self._closing.wait(wait_s) else None


def _times(tries: int) -> str:
    return f" ({tries} tries)" if tries > 1 else ""


def _body(answers: Answers) -> bytes:
    """ValueError: metadata that JSON cannot carry."""
    content = {
        "group": answers.sequence,
        "prompt": answers.prompt,
        "completions": list(answers.completions),
        "metadata": dict(answers.metadata),
    }
    return json.dumps(content, allow_nan=False, ensure_ascii=False).encode()


def _scores(answer: dict[str, Any], *, count: int) -> tuple[float, ...]:
    """PostFailed: not one finite number a completion."""
    scores = answer.get("scores")
    if not isinstance(scores, list):
        raise PostFailed("answered without a list of scores", transient=False)
    if len(scores) != count:
        raise PostFailed(f"gave {len(scores)} scores for {count} completions", transient=False)
    return tuple(_finite(index, value) for index, value in enumerate(scores))


def _finite(index: int, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PostFailed(f"scored completion {index} a JSON {type(value).__name__}, not a number", transient=False)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise PostFailed(f"scored completion {index} {number}, which is not a finite number", transient=False)
    return number


def _headers(config: HttpRewardConfig) -> dict[str, str]:
    """ValueError: a token that is not there or that no header can carry; it is never shown."""
    if config.token_file is not None:
        where, token = f"token_file {config.token_file}", _read(config)
    elif config.token_variable is not None:
        where, token = f"token_variable {config.token_variable}", os.environ.get(config.token_variable, "")
    else:
        return {}
    value = authorization(token)
    if value is None:
        raise ValueError(f"reward {config.name!r}: {where} holds no token; put one there, in one line without spaces")
    return {"Authorization": value}


def _read(config: HttpRewardConfig) -> str:
    try:
        return Path(str(config.token_file)).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise ValueError(
            f"reward {config.name!r}: token_file {config.token_file} cannot be read ({reason}); name a file with a token"
        ) from None  # a decoding error quotes what it read


def _context(config: HttpRewardConfig) -> ssl.SSLContext | None:
    if not config.url.startswith("https://"):
        return None
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"reward {config.name!r}: ca_file {config.ca_file} holds no certificates ({error}); give a PEM file"
        ) from error
