"""Remote rewards on a real loopback server: answers, time-outs, retries, limits, TLS, and secrets that stay secret."""

import json
import logging
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import pytest
from score_workers import arrived, exhaust, worker

from experience.buffer import ExperienceBuffer
from score_cluster import http_source
from score_cluster.answers import Answers, RewardFailed, Scores
from score_cluster.http_source import HttpSource
from score_cluster.retries import IN_HAND, RetryBudget, full_jitter
from score_cluster.reward_config import HttpRewardConfig

SECRET = "sesame-open-4711"


class Judge(ThreadingHTTPServer):
    """Answers POST /NAME as the mode of that name says; keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.release = threading.Event()
        """Ends what hangs."""
        self.gate = threading.Barrier(1)
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    def url(self, mode: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.server_address[1]}/{mode}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        judge, mode = cast(Judge, self.server), self.path.strip("/")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with judge.lock:
            judge.requests.append({"body": body, "token": self.headers.get("Authorization")})
            judge.counts[mode] += 1
            count = judge.counts[mode]
        lengths = [float(len(text)) for text in body["completions"]]
        if mode == "hang":
            judge.release.wait(30)
        elif mode == "drip":
            self._drip(judge)
        elif mode == "flaky" and count <= 2:
            self._send(503, b"busy")
        elif mode == "counted":
            self._counted(judge, lengths)
        elif mode in ANSWERS:
            self._send(*ANSWERS[mode])
        else:
            self._json({"scores": lengths, "note": "more keys are ignored"})

    def _drip(self, judge: Judge) -> None:
        """A byte at a time, each well within any time-out of a socket."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while not judge.release.wait(0.05):
            try:
                self.wfile.write(b" ")
            except OSError:
                return

    def _counted(self, judge: Judge, lengths: Sequence[float]) -> None:
        with judge.lock:
            judge.running += 1
            judge.most_running = max(judge.most_running, judge.running)
        judge.gate.wait(20)
        with judge.lock:
            judge.running -= 1
        self._json({"scores": lengths})

    def _json(self, answer: Any) -> None:
        self._send(200, json.dumps(answer).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 302:
            self.send_header("Location", "/ok")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not to stderr."""


ANSWERS: dict[str, tuple[int, bytes, str]] = {
    "html": (200, b"<!doctype html><html><body>Log in</body></html>", "text/html"),
    "error": (500, b"stack trace", "text/plain"),
    "denied": (401, b"no", "text/plain"),
    "moved": (302, b"", "text/plain"),
    "list": (200, b"[1.0]", "application/json"),
    "unnamed": (200, b'{"score": 1}', "application/json"),
    "few": (200, b'{"scores": [1.0]}', "application/json"),
    "many": (200, b'{"scores": [1.0, 2.0, 3.0]}', "application/json"),
    "nan": (200, b'{"scores": [1.0, NaN]}', "application/json"),
    "huge": (200, b'{"scores": [1.0, 1' + b"0" * 400 + b"]}", "application/json"),
    "text": (200, b'{"scores": [1.0, "2.0"]}', "application/json"),
    "true": (200, b'{"scores": [1.0, true]}', "application/json"),
    "long": (200, b" " * (4 * 2**20 + 1), "application/json"),
}


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_source, "full_jitter", lambda retry, random: 0.0)


@pytest.fixture
def source() -> Iterator[Callable[..., HttpSource]]:
    opened: list[HttpSource] = []

    def source(url: str, **settings: Any) -> HttpSource:
        opened.append(HttpSource(HttpRewardConfig(name="judge", kind="http", url=url, **settings)))
        return opened[-1]

    yield source
    for one in opened:
        one.close()


def answers(*texts: str, sequence: int = 7) -> Answers:
    return Answers(
        sequence=sequence,
        prompt="Say «hi»",
        prompt_tokens=np.zeros(1, dtype=np.int32),
        metadata={"topic": "greeting"},
        completions=texts,
        tokens=tuple(np.zeros(1, dtype=np.int32) for _ in texts),
        finished=(True,) * len(texts),
        max_tokens=8,
    )


def failure(found: Scores | RewardFailed) -> str:
    assert isinstance(found, RewardFailed)
    assert (found.component, found.sequence) == ("judge", 7)
    assert "\n" not in str(found)
    return str(found).removeprefix("reward 'judge' failed on group 7: ")


def test_one_post_a_group_carries_what_a_judge_needs(judge: Judge, source: Callable[..., HttpSource]) -> None:
    (found,) = source(judge.url("ok")).score([answers("a", "bcd")])
    assert isinstance(found, Scores)
    assert (found.values, found.measures) == ((1.0, 3.0), {})
    body = {"group": 7, "prompt": "Say «hi»", "completions": ["a", "bcd"], "metadata": {"topic": "greeting"}}
    assert judge.requests == [{"body": body, "token": None}]


@pytest.mark.parametrize(
    ("mode", "said", "tries"),
    [
        ("html", "answered with text/html that is no JSON", 1),
        ("denied", "answered 401 Unauthorized", 1),
        ("moved", "answered 302 Found, and redirects are not followed", 1),
        ("list", "answered with a JSON list, not with an object", 1),
        ("unnamed", "answered without a list of scores", 1),
        ("few", "gave 1 scores for 2 completions", 1),
        ("many", "gave 3 scores for 2 completions", 1),
        ("nan", "scored completion 1 nan, which is not a finite number", 1),
        ("huge", "scored completion 1 inf, which is not a finite number", 1),
        ("text", "scored completion 1 a JSON str, not a number", 1),
        ("true", "scored completion 1 a JSON bool, not a number", 1),
        ("long", "answered with more than 4194304 bytes of application/json", 1),
        ("error", "answered 500 Internal Server Error (3 tries)", 3),
    ],
)
def test_a_bad_answer_is_one_line_that_names_the_service(
    judge: Judge, source: Callable[..., HttpSource], mode: str, said: str, tries: int
) -> None:
    (found,) = source(judge.url(mode), retries=2).score([answers("a", "b")])
    assert failure(found) == f"{judge.url(mode)} {said}"
    assert judge.counts[mode] == tries


@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_a_service_that_does_not_finish_is_given_up(judge: Judge, source: Callable[..., HttpSource], mode: str) -> None:
    started = time.monotonic()
    (found,) = source(judge.url(mode), retries=1, timeout_s=0.3).score([answers("a")])
    assert failure(found) == f"{judge.url(mode)} did not answer within 0.3 s (2 tries)"
    assert time.monotonic() - started < 10  # the server hangs for 30


def test_a_service_that_is_not_there_is_named(judge: Judge, source: Callable[..., HttpSource]) -> None:
    url = judge.url("ok")
    judge.shutdown()
    judge.server_close()
    (found,) = source(url, retries=1).score([answers("a")])
    assert failure(found) == f"{url} cannot be reached (Connection refused) (2 tries)"


def test_what_passes_is_retried(judge: Judge, source: Callable[..., HttpSource]) -> None:
    (found,) = source(judge.url("flaky"), retries=2).score([answers("ab")])
    assert isinstance(found, Scores)
    assert found.values == (2.0,)
    assert judge.counts["flaky"] == 3


def test_the_budget_of_a_group_ends_its_retries(
    judge: Judge, source: Callable[..., HttpSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_source, "full_jitter", lambda retry, random: 5.0)
    (found,) = source(judge.url("error"), budget_s=4.0, timeout_s=1.0).score([answers("a")])
    assert failure(found).endswith("Internal Server Error, and budget_s = 4 is used up")
    assert judge.counts["error"] == 1


def test_all_groups_together_retry_no_more_than_their_share(judge: Judge, source: Callable[..., HttpSource]) -> None:
    judged = source(judge.url("error"), retries=3, retry_share=0.5, concurrency=1)
    found = judged.score([answers("a")] * 10)
    # ten in hand at first, three a group: 9 for the first three groups, which earn 0.5 each while below ten;
    # afterwards half a retry a group
    retries = judge.counts["error"] - 10
    assert retries == int(IN_HAND + 9 * 0.5)
    assert "the share of retries is used up (retry_share = 0.5)" in failure(found[-1])


def test_no_more_requests_run_at_once_than_allowed(judge: Judge, source: Callable[..., HttpSource]) -> None:
    judge.gate = threading.Barrier(3)  # each batch of three meets, so that three do run together
    found = source(judge.url("counted"), concurrency=3).score([answers("a" * n) for n in range(9)])
    assert [one.values for one in found if isinstance(one, Scores)] == [(float(n),) for n in range(9)]
    assert judge.most_running == 3


def test_full_jitter_doubles_its_range_up_to_a_limit() -> None:
    random = Random(0)
    for retry, most in ((1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 10.0), (60, 10.0)):
        waits = [full_jitter(retry, random=random) for _ in range(300)]
        assert 0 <= min(waits) < 0.1 * most
        assert 0.9 * most < max(waits) <= most


def test_a_retry_budget_earns_its_share_and_holds_no_more_than_it_began_with() -> None:
    budget = RetryBudget(0.25)
    for _ in range(100):
        budget.earn()
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    earned = []
    for _ in range(8):
        budget.earn()
        earned.append(budget.spend())
    assert earned == [False, False, False, True] * 2


@pytest.mark.parametrize("kind", ["variable", "file"])
def test_a_token_is_sent_and_never_shown(
    judge: Judge,
    source: Callable[..., HttpSource],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setenv("JUDGE_TOKEN", SECRET)
    where = {"token_variable": "JUDGE_TOKEN"} if kind == "variable" else {"token_file": str(tmp_path / "token")}
    source(judge.url("ok"), **where).score([answers("a")])
    assert judge.requests[-1]["token"] == f"Bearer {SECRET}"
    denied = source(judge.url("denied"), **where)
    (found,) = denied.score([answers("a")])
    assert judge.requests[-1]["token"] == f"Bearer {SECRET}"
    for text in (repr(found), repr(found.__cause__), caplog.text, denied.hash, denied._config.model_dump_json()):
        assert SECRET not in text


@pytest.mark.parametrize("content", ["", "two words", "line\r\nbreak: x", "smörgås", "\x00"])
def test_a_token_that_is_none_is_refused_unseen(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    config = HttpRewardConfig(name="judge", kind="http", url="http://h/", token_file=str(tmp_path / "token"))
    with pytest.raises(
        ValueError, match=r"reward 'judge': token_file .*/token (holds no token|cannot be read)"
    ) as caught:
        HttpSource(config)
    assert not content or content not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ValueError, match="token_variable NO_SUCH_TOKEN holds no token"):
        HttpSource(config.model_copy(update={"token_file": None, "token_variable": "NO_SUCH_TOKEN"}))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Self-signed, for 127.0.0.1; the key stands in the same file."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=judge", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True, timeout=60)
    return tmp_path / "cert.pem"


def test_tls_with_a_ca_of_our_own(judge: Judge, source: Callable[..., HttpSource], certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    judge.socket = context.wrap_socket(judge.socket, server_side=True)
    trusting = {"ca_file": str(certificate)}
    (found,) = source(judge.url("ok", "https"), **trusting).score([answers("abc")])
    assert isinstance(found, Scores)
    (found,) = source(judge.url("ok", "https"), retries=3).score([answers("a")])
    assert "has a certificate that is not trusted (self-signed certificate); name its authority" in failure(found)
    assert "tries" not in str(found)
    (found,) = source(judge.url("drip", "https"), **trusting, retries=0, timeout_s=0.5).score([answers("a")])
    assert failure(found).endswith("/drip did not answer within 0.5 s")
    with pytest.raises(ValueError, match=r"ca_file .*key.pem holds no certificates"):
        source("https://h/", ca_file=str(certificate.with_name("key.pem")))


def test_a_service_that_is_down_quarantines_and_lowers_no_reward(
    judge: Judge, buffer: ExperienceBuffer, policy_folder: str, complete: Callable[..., None]
) -> None:
    complete([{}, {}], ["a"])
    config = HttpRewardConfig(name="judge", kind="http", url=judge.url("error"), retries=1)
    scorer = worker(buffer, policy_folder, config)
    exhaust(scorer)
    assert arrived(buffer) == {}
    settled = buffer.settled()
    assert {one.outcome for one in settled} == {"quarantined"}
    assert f"reward 'judge' failed on group 0: {judge.url('error')} answered 500" in settled[0].reason
    assert "Traceback" not in scorer.status()["last_failure"]
