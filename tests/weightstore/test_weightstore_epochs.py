from concurrent.futures import ThreadPoolExecutor

import pytest

from weightstore.epochs import claim_epoch, newest_epoch, read_epoch, superseded


def test_epochs_count_from_one_and_record_their_life(store):
    assert newest_epoch(store) == 0
    assert claim_epoch(store, kind="orchestrator", life={"packages": {"torch": "2.13"}}) == 1
    assert claim_epoch(store, kind="ranks", life={"world_size": 2}) == 2
    assert newest_epoch(store) == 2
    record = read_epoch(store, 2)
    assert (record.epoch, record.kind, record.life) == (2, "ranks", {"world_size": 2})
    assert store.list("epochs") == ["epochs/000001.json", "epochs/000002.json"]
    with pytest.raises(KeyError):
        read_epoch(store, 3)


def test_lives_that_claim_at_once_get_an_epoch_each(reopen):
    def claim(_):
        return claim_epoch(reopen(), kind="ranks", life={})

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(24))) == list(range(1, 25))


def test_newer_ranks_end_ranks_and_a_newer_orchestrator_ends_all(store):
    def ended():
        return [superseded(store, epoch) for epoch in range(1, newest_epoch(store) + 1)]

    for kind, expected in (
        ("orchestrator", [False]),
        ("ranks", [False, False]),
        ("ranks", [False, True, False]),
        ("orchestrator", [True, True, True, False]),
        ("ranks", [True, True, True, False, False]),
    ):
        claim_epoch(store, kind=kind, life={})
        assert ended() == expected
