"""Requests to an object store: one boto3 client; what passes is retried here, what lasts is said in one line.

The SDK's own retries are off: it would repeat a conditional put in silence, and report as lost a race that its first,
unanswered request had won.
"""

import errno
import itertools
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from weightstore import metrics
from weightstore.address import S3Address
from weightstore.blobs import StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
"""For a connection; a store within reach takes one in far less than a second."""
READ_TIMEOUT_S = 60.0
"""For the next bytes of an answer, not for all of it. boto3's own default."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
"""Before the first retry, at most; doubled with each, up to the second. Drawn evenly from 0 up ("full jitter"), so that
clients that failed together do not come back together."""

PASSING_CODES = {
    "BadDigest",  # these four: the body was damaged on its way
    "IncompleteBody",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
RENEW = "renew the credentials that boto3 finds (AWS_PROFILE, AWS_ACCESS_KEY_ID, or a role of the machine)"
GRANT = (
    "grant s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on "
    "what is below the prefix"
)
REGION = "set AWS_REGION to the bucket's region"
CONDITIONS = "use a store that honours If-None-Match in PutObject and in CompleteMultipartUpload, or a folder that all nodes share"
REMEDIES = {
    "NoSuchBucket": "create the bucket, or correct store.url",
    "InvalidBucketName": "correct store.url",
    "AccessDenied": GRANT,
    "403": GRANT,  # of a HEAD, whose answer has no body and so no code
    "AllAccessDisabled": GRANT,
    "InvalidAccessKeyId": RENEW,
    "SignatureDoesNotMatch": RENEW,
    "ExpiredToken": RENEW,
    "InvalidToken": RENEW,
    "TokenRefreshRequired": RENEW,
    "400": f"{RENEW}, and {REGION}",
    "301": REGION,
    "PermanentRedirect": REGION,
    "AuthorizationHeaderMalformed": REGION,
    "RequestTimeTooSkewed": "set the clock of this machine",
    "QuotaExceeded": "raise the quota, or keep fewer versions and checkpoints",
    "NotImplemented": CONDITIONS,
}

Verdict = Literal["absent", "taken", "conflict", "passing", "lasting"]


class Absent(Exception):
    """There is no such object, or no such upload."""


class Taken(Exception):
    """The object exists, and the request was to create it."""


class Conflict(Exception):
    """Two writes of one object met and this one was not done: begin it anew."""


VERDICTS: dict[type[Exception], Verdict] = {Absent: "absent", Taken: "taken", Conflict: "conflict"}
RAISED: dict[Verdict, type[Exception]] = {verdict: kind for kind, verdict in VERDICTS.items()}


class S3Client:
    """One bucket and prefix. Clients of boto3 may be shared between threads, sessions may not: ours makes one client.

    `connections`: threads that send requests at once. `retry_s`: for one request, from its first failure on.
    """

    def __init__(self, address: S3Address, *, connections: int, retry_s: float) -> None:
        self.address = address
        self._connections, self._retry_s = connections, retry_s
        self._lock = threading.Lock()
        self._client: Any = None

    def request(
        self,
        action: str,
        key: str,
        send: Callable[[Any], T],
        *,
        patient: bool = True,
        at_once: tuple[Verdict, ...] = ("absent", "taken"),
    ) -> T:
        """send(client), again while its error passes. StoreError: it lasts. Not `patient`: one try.

        `at_once`: raised as Absent, Taken or Conflict. A Conflict passes unless named: `send` is begun anew.
        """
        gives_up_at = None
        for failures in itertools.count():
            try:
                answer = send(self._connected())
                if failures:
                    logger.info("store answers again", extra={"action": action, "key": key, "failures": failures})
                return answer
            except Exception as error:
                verdict = judged(error)
                if verdict is None:
                    raise
                if verdict in at_once:
                    raise RAISED[verdict](key) from error
                now = time.monotonic()
                gives_up_at = gives_up_at or now + self._retry_s
                wait = random.uniform(0, min(FIRST_WAIT_S * 2 ** min(failures, 16), LONGEST_WAIT_S))
                if verdict == "lasting" or not patient or now + wait > gives_up_at:
                    raise self._reported(error, action, key, lasting=verdict == "lasting") from error
                level = logging.DEBUG if failures else logging.WARNING
                extra = {"action": action, "key": key, "cause": reason(error), "wait_s": wait}
                logger.log(level, "store does not answer, will try again", extra=extra)
                metrics.RETRIED_REQUESTS.labels(action).inc()
            time.sleep(wait)
        raise AssertionError("itertools.count ended")

    def named(self, key: str) -> dict[str, str]:
        """The arguments of a request that name the object."""
        return {"Bucket": self.address.bucket, "Key": self.address.object_key(key)}

    def where(self, key: str) -> str:
        return f"s3://{self.address.bucket}/{self.address.object_key(key)}"

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        import boto3  # heavy, and only where a store is one
        from botocore.config import Config

        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=min(CONNECT_TIMEOUT_S, self._retry_s),
            read_timeout=min(READ_TIMEOUT_S, self._retry_s),
            max_pool_connections=self._connections,
            tcp_keepalive=True,
        )
        return boto3.session.Session().client("s3", config=config)

    def _reported(self, error: Exception, action: str, key: str, *, lasting: bool) -> StoreError:
        gave_up = "" if lasting else f", for {self._retry_s:g} s (store.retry_s)"
        return StoreError(
            errno.EIO, f"cannot {action} {self.where(key)}: {reason(error)}{gave_up}; {_remedy(error, lasting=lasting)}"
        )


def judged(error: Exception) -> Verdict | None:
    """What an error means; None: it is not the store's."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if type(error) in VERDICTS:
        return VERDICTS[type(error)]
    if isinstance(error, exceptions.ClientError):
        return _judged_answer(_code(error), _status(error))
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "lasting"
    passing = (
        exceptions.HTTPClientError,
        HTTPError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
        exceptions.FlexibleChecksumError,
        exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError,
        ResponseParserError,
    )
    if isinstance(error, passing):
        return "passing"
    return "lasting" if isinstance(error, exceptions.BotoCoreError) else None


def reason(error: Exception) -> str:
    """One line without credentials: the messages of the SDK are not repeated, but for the host that was asked."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return f"the store answers {_code(error)}"
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return "boto3 finds no whole credentials"
    asked = re.search(r"https?://(?:[^/\s@]*@)?([^/\s\"'?]+)", str(error))
    host = f" of {asked[1]}" if asked else ""
    return f"{type(error).__name__}{host}"


def _judged_answer(code: str, status: int) -> Verdict:
    if code in ("NoSuchBucket", "NotImplemented"):
        return "lasting"
    if status == 404:
        return "absent"
    if status == 412:
        return "taken"
    if status == 409:
        return "conflict"
    return "passing" if code in PASSING_CODES or status in (408, 429) or status >= 500 else "lasting"


def _remedy(error: Exception, *, lasting: bool) -> str:
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError) and _code(error) in REMEDIES:
        return REMEDIES[_code(error)]
    if isinstance(error, exceptions.SSLError):
        return "name the store's certificate authority in AWS_CA_BUNDLE"
    if isinstance(error, exceptions.ClientError | Conflict) or not lasting:
        return "see that the store is up and within reach (AWS_ENDPOINT_URL_S3 says where), then resume"
    return "see boto3's guide to credentials and configuration (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3)"


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) or str(_status(error))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
