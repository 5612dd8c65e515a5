"""What tests of several packages share: an object store, started once and only when a test asks for it; and the order in
which files are handed to the processes that run them."""

import uuid
from collections.abc import Iterator

import pytest
import s3_server

LONGEST_FIRST = (
    "test_loop_workers",
    "test_loop_driver",
    "test_loop_pipeline",
    "test_loop_watched",
    "test_loop_own_redis",
    "test_loop_cluster",
    "test_loop_s3",
    "test_loop_disk",
    "test_rank_worker",
    "test_loop_points",
    "test_rank_start",
    "test_train_reward_ranks",
    "test_weightstore_s3_faults",
    "test_zero_engine",
    "test_experience_leases",
)
"""Files that take longer than ten seconds: one of them begun last would run on alone. A file that is missing here costs
nothing but that."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server.running() as endpoint:
        yield endpoint


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of this test's own in the bucket; boto3 finds it through the environment."""
    for name, value in s3_server.environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}"
