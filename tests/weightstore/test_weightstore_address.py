"""What is an address in a bucket, and what every other text is told."""

import pytest

from weightstore.address import S3Address, parse_address
from weightstore.config import StoreConfig


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/runs", "my.bucket-1", "runs"),
        ("s3://bucket/a/b_C/", "bucket", "a/b_C"),
    ],
)
def test_an_address_has_a_bucket_and_a_prefix(url, bucket, prefix):
    address = parse_address(url)
    assert address == S3Address(bucket=bucket, prefix=prefix)
    assert str(address) == url.rstrip("/")
    inside = f"{prefix}/run" if prefix else "run"
    assert address.below("run") == S3Address(bucket=bucket, prefix=inside)
    assert address.below("run").object_key("epochs/1") == f"{inside}/epochs/1"


@pytest.mark.parametrize(
    ("url", "reason", "remedy"),
    [
        ("gs://bucket/x", "no kind of store", "name a folder, or s3://bucket/prefix"),
        ("file:///tmp", "no kind of store", "name a folder"),
        ("s3://", "names no bucket", "write s3://bucket/prefix"),
        ("s3://ab", "3 to 63", "write s3://bucket/prefix"),
        ("s3://Bucket", "lower-case", "write s3://bucket/prefix"),
        ("s3://127.0.0.1:9000/bucket", "names no bucket", "AWS_ENDPOINT_URL_S3"),
        ("s3://bucket//x", "single slashes", "write s3://bucket/prefix"),
        ("s3://bucket/../x", "starting with a dot", "write s3://bucket/prefix"),
        ("s3://bucket/a b", "letters", "write s3://bucket/prefix"),
        ("s3://bucket/x?versionId=1", "letters", "write s3://bucket/prefix"),
        ("s3://KEY:SECRET@bucket/x", "credentials do not belong here", "AWS_PROFILE"),
    ],
)
def test_anything_else_is_refused_without_being_repeated(url, reason, remedy):
    with pytest.raises(ValueError, match="; ") as caught:
        parse_address(url)
    given, _, advice = str(caught.value).partition("; ")
    assert reason in given
    assert remedy in str(caught.value)
    assert advice
    assert "SECRET" not in str(caught.value)


def test_a_recipe_takes_folders_as_they_are_and_addresses_only_whole():
    assert not StoreConfig(url="/data/runs").in_bucket
    assert not StoreConfig().in_bucket
    assert StoreConfig(url="s3://bucket/x").in_bucket
    with pytest.raises(ValueError, match="no kind of store"):
        StoreConfig(url="gs://bucket/x")
