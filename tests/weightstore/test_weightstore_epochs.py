from concurrent.futures import ThreadPoolExecutor

from weightstore.epochs import SCHEMA, EpochRecord, claim_epoch, newest_epoch
from weightstore.seal import unseal


def test_epochs_count_from_one_and_record_their_life(store):
    assert newest_epoch(store) == 0
    assert claim_epoch(store, kind="orchestrator", life={"packages": {"torch": "2.13"}}) == 1
    assert claim_epoch(store, kind="ranks", life={"world_size": 2}) == 2
    assert newest_epoch(store) == 2
    record = unseal(store.get("epochs/000002.json"), EpochRecord, name="epoch 2", schema=SCHEMA)
    assert (record.epoch, record.kind, record.life) == (2, "ranks", {"world_size": 2})
    assert store.list("epochs") == ["epochs/000001.json", "epochs/000002.json"]


def test_lives_that_claim_at_once_get_an_epoch_each(reopen):
    def claim(_):
        return claim_epoch(reopen(), kind="ranks", life={})

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(12))) == list(range(1, 13))
