"""What an object store and the way to it can do to a request, over HTTP: passing faults do not show, lasting ones are one
line, and of all that try one key exactly one wins, whatever answers are lost.

About 30 s: some hundred requests through a proxy, and waits that were asked for.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from fault_proxy import Fault

from weightstore import s3
from weightstore.address import parse_address
from weightstore.blobs import BlobDamaged, StoreError
from weightstore.s3 import S3BlobStore

PART = 5 * 1024**2
"""The smallest that S3 takes, but for the last."""
LARGE = bytes(range(256)) * (PART // 128) + b"the last part is short"
"""Three parts."""

RETRY_S = 20.0


@pytest.fixture
def opened(proxy, s3_url, tmp_path):
    def opened(retry_s=RETRY_S) -> S3BlobStore:
        address = parse_address(s3_url)
        return S3BlobStore(address, threads=3, retry_s=retry_s, scratch_folder=tmp_path, part_bytes=PART)

    return opened


@pytest.fixture
def store(opened):
    return opened()


def write(store, data):
    path = store.scratch()
    path.write_bytes(data)
    return path


def read(store, key):
    with store.local_file(key) as path:
        return path.read_bytes()


def uploads(proxy, s3_url):
    """Uploads that were begun and neither completed nor aborted."""
    import boto3

    client = boto3.session.Session().client("s3", endpoint_url=proxy.upstream)
    prefix = parse_address(s3_url).prefix
    found = client.list_multipart_uploads(Bucket=parse_address(s3_url).bucket).get("Uploads", [])
    return [upload for upload in found if upload["Key"].startswith(prefix)]


PASSING = [
    Fault(kind="status", method="?", status=500, code="InternalError", times=2),
    Fault(kind="status", method="?", status=502, code="BadGateway"),
    Fault(kind="status", method="?", status=503, code="SlowDown", times=3),
    Fault(kind="status", method="?", status=429, code="TooManyRequests"),
    Fault(kind="status", method="?", status=400, code="RequestTimeout"),
    Fault(kind="reset", method="?"),
    Fault(kind="reset in the request", method="?"),
    Fault(kind="reply lost", method="?"),
]


def of(fault, method, **changes):
    return Fault(**{**vars(fault), "method": method, "seen": 0, **changes})


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind} {fault.status}")
def test_a_passing_fault_of_any_request_does_not_show(store, proxy, fault):
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        proxy.add(of(fault, method))
    assert store.put_if_absent("ledger/0/1.batch", b"batch")
    assert store.get("ledger/0/1.batch") == b"batch"
    assert store.size("ledger/0/1.batch") == 5
    store.delete("ledger/0/1.batch")
    assert not store.exists("ledger/0/1.batch")
    assert [fault.method for fault in proxy.faults if fault.seen <= fault.times] == []  # each was met and overcome


@pytest.mark.parametrize("kind", ["reset in the answer", "truncated", "cut short", "flipped"])
def test_what_breaks_on_the_way_back_is_read_again(store, proxy, kind):
    store.put_if_absent("a", b"content")
    proxy.add(Fault(kind=kind, method="GET"))
    assert store.get("a") == b"content"
    assert proxy.count("GET") == 2


@pytest.mark.parametrize("status", [500, 409])
def test_a_listing_survives_its_pages(store, proxy, status):
    for number in range(3):
        store.put_if_absent(f"a/{number}", b"")
    proxy.add(Fault(kind="status", method="GET", contains="list-type=2", status=status, times=2))
    assert store.list("a") == ["a/0", "a/1", "a/2"]


def test_a_listing_has_all_pages_and_only_blobs(store, proxy, s3_url, monkeypatch):
    for number in range(5):
        store.put_if_absent(f"a/{number}", b"")
    paged = store._client._connected().list_objects_v2
    monkeypatch.setattr(store._client._client, "list_objects_v2", lambda **asked: paged(**asked, MaxKeys=2))
    address = parse_address(s3_url)
    for key in ("a/", "a/.hidden"):  # what a console leaves for an empty folder, and no blob of ours
        store._client._client.put_object(Bucket=address.bucket, Key=address.object_key(key), Body=b"")
    assert store.list("a") == [f"a/{number}" for number in range(5)]
    assert proxy.count("GET", "list-type=2") == 4


# -- who won -----------------------------------------------------------------------------------------------------------


def test_a_put_whose_answer_was_lost_has_won(store, proxy):
    proxy.add(Fault(kind="reply lost", method="PUT"))
    assert store.put_if_absent("a", b"mine")
    assert proxy.count("PUT") == 2
    assert not store.put_if_absent("a", b"mine")  # another put of the same bytes has not


def test_a_lost_race_stays_lost_when_its_answers_are_lost(opened, proxy):
    assert opened().put_if_absent("a", b"theirs")
    proxy.add(Fault(kind="reply lost", method="PUT", times=2), Fault(kind="reply lost", method="HEAD"))
    assert not opened().put_if_absent("a", b"mine")
    assert opened().get("a") == b"theirs"


def test_a_conflict_is_tried_again(store, proxy):
    proxy.add(Fault(kind="status", method="PUT", status=409, code="ConditionalRequestConflict", times=2))
    assert store.put_if_absent("a", b"mine")
    assert proxy.count("PUT") == 3


def test_a_winner_that_is_deleted_at_once_leaves_the_place_free(store, proxy):
    """412, and then no such object: the next try finds out."""
    proxy.add(Fault(kind="status", method="PUT", status=412, code="PreconditionFailed"))
    assert store.put_if_absent("a", b"mine")


def test_of_racing_writers_exactly_one_wins_under_lost_answers(opened, proxy):
    stores = [opened() for _ in range(8)]
    for number in range(6):
        key = f"epochs/{number}"
        lost = [Fault(kind="reply lost", method="PUT", contains=key, nth=nth) for nth in (1, 3, 4, 9)]
        proxy.add(*lost, Fault(kind="status", method="PUT", contains=key, status=503, nth=6))
        barrier = Barrier(len(stores))

        def race(index, key=key, barrier=barrier):
            barrier.wait()
            return stores[index].put_if_absent(key, b"%d" % index)

        with ThreadPoolExecutor(len(stores)) as pool:
            wins = list(pool.map(race, range(len(stores))))
        assert sum(wins) == 1
        assert stores[0].get(key) == b"%d" % wins.index(True)


# -- files in parts ----------------------------------------------------------------------------------------------------


def test_a_large_file_goes_and_comes_in_parts(store, proxy, s3_url):
    path = write(store, LARGE)
    assert store.put_file_if_absent("weights/shard", path)
    assert not path.exists()
    assert proxy.count("PUT", "partNumber") == 3
    assert store.size("weights/shard") == len(LARGE)
    assert read(store, "weights/shard") == LARGE
    assert proxy.count("GET", "weights/shard") == 3
    assert not store.put_file_if_absent("weights/shard", write(store, LARGE))
    assert uploads(proxy, s3_url) == []
    assert list(store.scratch().parent.iterdir()) == []


FAULTS_OF_PARTS = [
    Fault(kind="status", method="POST", contains="uploads", status=503),
    Fault(kind="reset in the request", method="PUT", contains="partNumber=2"),
    Fault(kind="reply lost", method="PUT", contains="partNumber=3"),
    Fault(kind="status", method="POST", contains="uploadId", status=500),
    Fault(kind="reply lost", method="POST", contains="uploadId"),
]


@pytest.mark.parametrize("fault", FAULTS_OF_PARTS, ids=lambda fault: f"{fault.kind} {fault.contains} {fault.status}")
def test_a_passing_fault_of_an_upload_does_not_show(store, proxy, s3_url, fault):
    proxy.add(of(fault, fault.method))
    assert store.put_file_if_absent("weights/shard", write(store, LARGE))
    assert read(store, "weights/shard") == LARGE
    assert uploads(proxy, s3_url) == []


@pytest.mark.parametrize(("status", "code"), [(409, "ConditionalRequestConflict"), (404, "NoSuchUpload")])
def test_an_upload_that_cannot_be_completed_is_begun_anew(store, proxy, s3_url, status, code):
    """S3 wants all parts again after a conflict."""
    proxy.add(Fault(kind="status", method="POST", contains="uploadId", status=status, code=code))
    assert store.put_file_if_absent("weights/shard", write(store, LARGE))
    assert proxy.count("POST", "uploads") == 2
    assert proxy.count("PUT", "partNumber") == 6
    assert read(store, "weights/shard") == LARGE
    assert uploads(proxy, s3_url) == []


def test_a_completion_whose_answer_was_lost_and_whose_upload_is_gone_has_won(store, proxy, s3_url):
    """S3 forgets a completed upload: the retry finds none, and the object itself says whose it is."""
    proxy.add(
        Fault(kind="reply lost", method="POST", contains="uploadId"),
        Fault(kind="status", method="POST", contains="uploadId", nth=2, status=404, code="NoSuchUpload"),
    )
    assert store.put_file_if_absent("weights/shard", write(store, LARGE))
    assert proxy.count("POST", "uploads") == 1
    assert read(store, "weights/shard") == LARGE
    assert uploads(proxy, s3_url) == []


def test_of_two_uploads_that_overlap_the_first_to_complete_wins(store, opened, proxy, s3_url):
    proxy.add(Fault(kind="held", method="PUT", contains="partNumber=1"))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(opened().put_file_if_absent, "weights/shard", write(store, bytes(len(LARGE))))
        proxy.await_requests("PUT", "partNumber=1")
        assert store.put_file_if_absent("weights/shard", write(store, LARGE))
        proxy.released.set()
        assert slow.result() is False
    assert read(store, "weights/shard") == LARGE
    assert uploads(proxy, s3_url) == []


def test_an_upload_that_fails_is_aborted_and_nothing_appears(opened, proxy, s3_url):
    store = opened(retry_s=0.5)
    proxy.add(Fault(kind="status", method="PUT", contains="partNumber=2", status=500, times=10**6))
    path = write(store, LARGE)
    with pytest.raises(
        StoreError, match=r"cannot write s3://.*/weights/shard: the store answers InternalError, for 0.5 s"
    ):
        store.put_file_if_absent("weights/shard", path)
    assert not path.exists()
    assert not store.exists("weights/shard")
    assert uploads(proxy, s3_url) == []


@pytest.mark.parametrize("kind", ["reset in the answer", "truncated", "cut short", "flipped"])
def test_a_part_that_breaks_on_the_way_back_is_read_again(store, proxy, kind):
    store.put_file_if_absent("weights/shard", write(store, LARGE))
    proxy.add(Fault(kind=kind, method="GET", nth=2))
    assert read(store, "weights/shard") == LARGE


# -- what lasts --------------------------------------------------------------------------------------------------------


def test_damage_in_the_store_is_named_and_not_passed_on(store, proxy, s3_url):
    address = parse_address(s3_url)
    store.put_if_absent("a", b"content")
    head = store._client._client.head_object(Bucket=address.bucket, Key=address.object_key("a"))
    store._client._client.put_object(
        Bucket=address.bucket, Key=address.object_key("a"), Body=b"c0ntent", Metadata=head["Metadata"]
    )
    for look in (store.get, lambda key: read(store, key)):
        before = proxy.count("GET")
        with pytest.raises(BlobDamaged, match=rf"{s3_url}/a: expected sha256 \w{{64}}, found \w{{64}}"):
            look("a")
        assert proxy.count("GET") - before == s3.READS


def test_an_object_that_another_program_put_is_read_without_a_hash(store, s3_url):
    """A copy brought back by hand; manifests and the ledger check what is in it."""
    address = parse_address(s3_url)
    store._client._connected().put_object(Bucket=address.bucket, Key=address.object_key("a"), Body=b"restored")
    assert store.get("a") == b"restored"
    assert read(store, "a") == b"restored"


LASTING = [
    (403, "AccessDenied", "grant s3:ListBucket"),
    (403, "InvalidAccessKeyId", "renew the credentials"),
    (400, "ExpiredToken", "renew the credentials"),
    (404, "NoSuchBucket", "create the bucket"),
    (400, "AuthorizationHeaderMalformed", "set AWS_REGION"),
    (501, "NotImplemented", "a store that honours If-None-Match"),
]


@pytest.mark.parametrize(("status", "code", "remedy"), LASTING)
def test_a_lasting_error_is_one_line_at_once(store, proxy, s3_url, status, code, remedy, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    proxy.add(*(Fault(kind="status", method=method, status=status, code=code, times=99) for method in ("PUT", "GET")))
    actions = {
        f"cannot write {s3_url}/a": lambda: store.put_if_absent("a", b""),
        f"cannot read {s3_url}/a": lambda: store.get("a"),
        f"cannot list {s3_url}/a": lambda: store.list("a"),
    }
    for start, action in actions.items():
        with pytest.raises(StoreError) as caught:
            action()
        assert str(caught.value).startswith(f"{start}: the store answers {code}; ")
        assert remedy in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "hush-hush" not in repr(caught.value)
    assert len(proxy.requests) == len(actions)


def test_an_outage_longer_than_the_budget_is_one_line_and_a_shorter_one_is_none(opened, proxy, s3_url, caplog):
    caplog.set_level(logging.INFO)
    patient, hasty = opened(), opened(retry_s=0.5)
    proxy.down = True
    with pytest.raises(
        StoreError, match=rf"cannot write {s3_url}/a: \w+ of 127.0.0.1:\d+, for 0.5 s \(store.retry_s\); "
    ):
        hasty.put_if_absent("a", b"")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(patient.put_if_absent, "a", b"mine")
        while (
            "will try again" not in caplog.text.partition("cannot write")[2] and not caplog.text.count("try again") > 1
        ):
            assert not waiting.done()
        proxy.down = False
        assert waiting.result(RETRY_S)
    assert "store answers again" in caplog.text


def test_a_store_that_hangs_does_not_outlast_the_budget(opened, proxy):
    store = opened(retry_s=0.5)
    proxy.add(Fault(kind="held", method="GET", times=9))
    with pytest.raises(StoreError, match="ReadTimeoutError"):
        store.get("a")


def test_no_credentials_are_one_line(opened, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreError, match=r"boto3 finds no whole credentials; .*AWS_PROFILE"):
        opened().get("a")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match=r"ProfileNotFound; .*AWS_PROFILE"):
        opened().get("a")


# -- stores that ignore the condition ----------------------------------------------------------------------------------


def test_a_store_that_commits_is_accepted_and_nothing_is_left_there(store, proxy, s3_url):
    store.prove_conditional_puts()
    assert store.list("") == []
    assert uploads(proxy, s3_url) == []


@pytest.mark.parametrize("operation", ["put_object", "complete_multipart_upload"])
def test_a_store_that_ignores_the_condition_is_refused(store, proxy, operation, monkeypatch):
    honest = getattr(store._client._connected(), operation)
    monkeypatch.setattr(store._client._client, operation, lambda IfNoneMatch, **rest: honest(**rest))
    name = "PutObject" if operation == "put_object" else "CompleteMultipartUpload"
    with pytest.raises(ValueError, match=rf"ignores If-None-Match in {name}.*; use a store that honours"):
        store.prove_conditional_puts()
    assert store.list("") == []
