"""The contract of BlobStore; every implementation passes it (the fixtures in conftest.py name them)."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest


def test_the_first_put_wins_and_stays(store):
    assert store.put_if_absent("ledger/0/1.batch", b"first")
    assert not store.put_if_absent("ledger/0/1.batch", b"second")
    assert store.get("ledger/0/1.batch") == b"first"
    assert store.size("ledger/0/1.batch") == 5
    assert store.exists("ledger/0/1.batch")


def test_a_put_file_is_consumed_whoever_wins(store):
    for content, won in ((b"first", True), (b"second", False)):
        path = store.scratch()
        path.write_bytes(content)
        assert store.put_file_if_absent("weights/shard", path) is won
        assert not path.exists()
    assert store.get("weights/shard") == b"first"
    with store.local_file("weights/shard") as path:
        mapped = np.memmap(path, dtype=np.uint8, mode="c")
    assert bytes(mapped) == b"first"  # a mapping outlives the file


def test_another_process_sees_what_was_put(store, reopen):
    store.put_if_absent("a/b", b"1")
    assert reopen().get("a/b") == b"1"


def test_what_is_missing_is_a_key_error(store):
    store.put_if_absent("folder/blob", b"")
    for key in ("nothing", "folder/nothing", "folder"):
        assert not store.exists(key)
        for read in (store.get, store.size, lambda key: store.local_file(key).__enter__()):
            with pytest.raises(KeyError, match=key):
                read(key)


def test_list_is_sorted_and_bounded_by_folders(store):
    for key in ("a/10", "a/9", "a/b/c", "ab/1", "b"):
        store.put_if_absent(key, b"x")
    store.scratch().write_bytes(b"unfinished")
    assert store.list("a") == ["a/10", "a/9", "a/b/c"]
    assert store.list("") == ["a/10", "a/9", "a/b/c", "ab/1", "b"]
    assert store.list("nothing") == []


def test_delete_is_idempotent_and_makes_room_for_a_new_put(store):
    store.put_if_absent("a/b/c", b"old")
    store.put_if_absent("a/d", b"kept")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert store.list("") == ["a/d"]
    assert store.put_if_absent("a/b/c", b"new")
    assert store.get("a/b/c") == b"new"


def test_replace_creates_and_overwrites(store):
    for content in (b"1", b"22"):
        store.replace("newest/e000001.json", content)
        assert store.get("newest/e000001.json") == content


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", ".scratch/x", "a/.tmp-1", "a b", "a\n"])
def test_a_key_that_could_leave_the_store_is_refused(store, key):
    for use in (
        store.get,
        store.exists,
        store.delete,
        lambda key: store.put_if_absent(key, b""),
        lambda key: store.replace(key, b""),
    ):
        with pytest.raises(ValueError, match="blob key"):
            use(key)


def test_of_racing_threads_exactly_one_wins(reopen):
    stores = [reopen() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for attempt in range(10):
            barrier = Barrier(8)

            def race(index, key=f"epochs/{attempt}", barrier=barrier):
                barrier.wait()
                return stores[index].put_if_absent(key, b"%d" % index)

            wins = list(pool.map(race, range(8)))
            assert sum(wins) == 1
            assert stores[0].get(f"epochs/{attempt}") == b"%d" % wins.index(True)


def test_puts_survive_deletes_in_the_same_folder(reopen):
    stores = [reopen() for _ in range(4)]

    def churn(index):
        for turn in range(20):
            key = f"deep/folder/{index}-{turn}"
            assert stores[index].put_if_absent(key, b"x")
            assert stores[index].get(key) == b"x"
            stores[index].delete(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert stores[0].list("") == []
