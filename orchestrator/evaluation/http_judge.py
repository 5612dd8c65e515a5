"""A judge of pairs behind HTTP: one POST a pair, retried, and never taken for a verdict when it is none.

    POST URL   {"prompt": "…", "first": "…", "second": "…", "metadata": {…}}
    200        {"winner": "first" | "second" | "tie"}

Connections refused or lost, time-outs, 429 and 5xx are tried again; anything else ends the evaluation with one line.
"""

import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from orchestrator.errors import EvaluationFailed
from orchestrator.evaluation.config import JudgeConfig
from orchestrator.evaluation.judges import Pair, Progress

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0
"""Before the second attempt, doubling from there, each with full jitter."""
LONGEST_REPLY_BYTES = 1024**2
"""Of a reply that is read; a verdict has some 20."""
_VALUES = {"first": 1.0, "second": -1.0, "tie": 0.0}


class _Transient(Exception):
    """Worth another attempt."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Elsewhere the token has no business."""

    def redirect_request(self, *_: object) -> None:
        return None


def _read(reply: Any, *, deadline: float) -> bytes:
    """TimeoutError: a reply that trickles in; a socket's own time-out is per read."""
    data = b""
    while (part := reply.read1(LONGEST_REPLY_BYTES)) and len(data) < LONGEST_REPLY_BYTES:
        data += part
        if time.monotonic() > deadline:
            raise TimeoutError
    return data


class HttpJudge:
    """See the module."""

    def __init__(self, config: JudgeConfig) -> None:
        """ValueError: the variable with the token is not set."""
        assert config.url is not None
        self._config = config
        self.name = config.url.partition("?")[0]
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if config.token_variable is not None:
            token = os.environ.get(config.token_variable)
            if not token:
                raise ValueError(
                    f"evaluation.judge.token_variable = {config.token_variable}: this variable is not set; "
                    "export it, or set evaluation.judge.token_variable=null"
                )
            self._headers["Authorization"] = f"Bearer {token}"
        self._jitter = random.Random(0)
        self._opener = urllib.request.build_opener(_NoRedirect)

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
        question = pair.question
        asked = {"prompt": question.text, "first": pair.first, "second": pair.second, "metadata": question.metadata}
        body = json.dumps(asked).encode()
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, self._config.attempts + 1):
            try:
                return self._post(body)
            except _Transient as error:
                if attempt == self._config.attempts:
                    tried = f"after {attempt} attempt{'s' * (attempt > 1)}"
                    raise EvaluationFailed(f"judge {self.name} {error} {tried}; is the service up?") from error
            time.sleep(self._jitter.uniform(0, pause_s))  # back-off: nobody tells when the service has recovered
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        raise AssertionError("attempts >= 1")

    def _post(self, body: bytes) -> float:
        assert self._config.url is not None
        request = urllib.request.Request(self._config.url, data=body, headers=self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._config.timeout_s) as reply:
                data = _read(reply, deadline=time.monotonic() + self._config.timeout_s)
        except urllib.error.HTTPError as error:
            if error.code == 429 or error.code >= 500:
                raise _Transient(f"answered {error.code} {error.reason}") from error
            raise EvaluationFailed(
                f"judge {self.name} answered {error.code} {error.reason}; correct evaluation.judge.url or its token"
            ) from error
        except TimeoutError as error:
            raise _Transient(f"did not answer within {self._config.timeout_s:g} s") from error
        except (OSError, HTTPException) as error:  # URLError is an OSError, with the cause as its reason
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _Transient(f"did not answer within {self._config.timeout_s:g} s") from error
            raise _Transient(f"cannot be reached ({' '.join(str(reason).split())})") from error
        return self._verdict(data)

    def _verdict(self, data: bytes) -> float:
        try:
            winner = json.loads(data)["winner"]
            return _VALUES[winner]
        except (ValueError, TypeError, KeyError) as error:
            shown = " ".join(data[:80].decode("utf-8", "replace").split())
            raise EvaluationFailed(
                f'judge {self.name} answered {shown!r}, not {{"winner": "first" | "second" | "tie"}}; correct the service'
            ) from error
