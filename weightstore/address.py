"""The address of a run's store in a bucket: `s3://bucket/prefix`. Imports no boto3."""

import re
from dataclasses import dataclass

from weightstore.blobs import SEGMENT

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""What S3 takes for the name of a bucket."""

SCHEME = "s3://"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Address:
    bucket: str
    prefix: str
    """Before every key, without slashes at its ends; "" = the top of the bucket."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def below(self, name: str) -> "S3Address":
        return S3Address(bucket=self.bucket, prefix=self.object_key(name))

    def object_key(self, key: str) -> str:
        """The key of a blob as the bucket knows it."""
        return f"{self.prefix}/{key}" if self.prefix else key


def parse_address(url: str) -> S3Address:
    """ValueError `reason; remedy`: it is none. What it says does not repeat the url, which may hold what it must not."""
    if not url.startswith(SCHEME):
        raise ValueError("no kind of store; name a folder, or s3://bucket/prefix")
    if "@" in url:
        raise ValueError(
            "credentials do not belong here, since a recipe is copied and logged; leave them to boto3's own places "
            "(AWS_PROFILE, AWS_ACCESS_KEY_ID, a role of the machine), and write s3://bucket/prefix"
        )
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    prefix = prefix.rstrip("/")
    if not BUCKET.fullmatch(bucket):
        raise ValueError(
            "names no bucket: 3 to 63 lower-case letters, digits, dots and hyphens; write s3://bucket/prefix, and the "
            "endpoint of a store of your own into AWS_ENDPOINT_URL_S3"
        )
    if prefix and not all(SEGMENT.fullmatch(part) for part in prefix.split("/")):
        raise ValueError(
            "its prefix may hold letters, digits and ._- between single slashes, no part starting with a dot; "
            "write s3://bucket/prefix"
        )
    return S3Address(bucket=bucket, prefix=prefix)
