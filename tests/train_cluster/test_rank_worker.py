"""Two real ranks that are stopped and killed inside a step, come back from the newest cut, and end where they would have."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from rank_processes import join_ranks, run_ranks, start_ranks
from tokenizers import Tokenizer, models, pre_tokenizers
from train_records import CONTROLS, a_record, random_group, save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from experience.config import PacingConfig
from experience.ledger import Ledger
from train_cluster import metrics
from train_cluster.checkpoint import cuts
from train_cluster.config import CheckpointConfig, CriticConfig, KlConfig, OptimizerConfig, PpoConfig, TrainingConfig
from train_cluster.supervised import sft_data
from train_cluster.supervised.sft_config import SftConfig
from train_cluster.supervised.sft_rows import Tokens
from train_cluster.worker import TrainerRank
from weightstore.blobs import FileBlobStore
from weightstore.config import StoreConfig
from weightstore.fetch import read_manifest
from weightstore.manifest import WeightVersion

TIMEOUT_S = 8.0
STEPS = 3
# A forgotten generator, controller or moment must show in the weights.
CONFIG = TrainingConfig(
    ranks=2,
    dtype="float32",
    algorithm=PpoConfig(critic=CriticConfig(warmup_steps=1, learning_rate=3e-3)),
    epochs=2,
    mini_batches=2,
    micro_batch_tokens=24,
    attention_dropout=0.1,
    kl=KlConfig(adaptive=True, coefficient=0.05, target_nats=0.01),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
    checkpoint=CheckpointConfig(keep=2),
    collective_timeout_s=TIMEOUT_S,
)
EXPORTED = tuple(
    f"{what}_seconds_{part}"
    for what in ("publish_stall", "checkpoint_stall", "checkpoint")
    for part in ("count", "sum")
)
STOPPED, KILLED, FINISHED = 1, 2, 3
"""Epochs of the three lives."""


def a_rank(rank: int, world_size: int, port: int, folder: Path, epoch: int, reached: Any) -> TrainerRank:
    store = FileBlobStore(folder / "store")
    return TrainerRank(
        run_id="r",
        lineage=0,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
        master_addr="127.0.0.1",
        master_port=port,
        config=CONFIG,
        pacing=PacingConfig(batch_groups=2),
        store_config=StoreConfig(shard_bytes=3000),
        model_path=str(folder / "model"),
        random_init=True,
        seed=3,
        config_hash="c",
        controls=CONTROLS,
        store=store,
        ledger=Ledger(store, lineage=0),
        buffer=None,
        reached=reached,
    )


def an_sft(folder: Path, name: str) -> tuple[dict[str, Any], str, str, str]:
    """Arguments of the operation; the stage and its result are named alike."""
    config = SftConfig(
        base=str(folder / "model"),
        random_init=True,
        path="the examples say it",
        epochs=40,
        batch_examples=8,
        learning_rate=2e-2,
        warmup_steps=0,
    )
    return config.model_dump(), str(folder / name), str(folder / f"{name}-stage"), "i"


def stopped_in_step_2(rank: int, world_size: int, port: int, folder: Path) -> None:
    """Saves step 1; then rank 1 stops in the middle of step 2."""

    def reached(point: str, step: int) -> None:
        if (rank, point, step) == (1, "rank.step", 2):
            os.kill(os.getpid(), signal.SIGSTOP)

    worker = a_rank(rank, world_size, port, folder, STOPPED, reached)
    assert worker.setup()["step"] == 0
    worker.train(1)
    worker.publish(1)
    worker.published(1, 30)
    worker.checkpoint(1, 1)
    worker.saved(1, 30)
    _fail_in_step_2(worker, folder / "stopped.json")


def killed_in_step_2(rank: int, world_size: int, port: int, folder: Path) -> None:
    """Fine-tunes until it is asked to stop; resumes at step 1; then rank 1 is killed in step 2, after the policy's first update."""

    def reached(point: str, step: int) -> None:
        if (rank, point, step) == (1, "rank.step", 2):
            os.kill(os.getpid(), signal.SIGKILL)
        if (rank, point, step) == (1, "stage.step", 7):
            worker.cancel()

    worker = a_rank(rank, world_size, port, folder, KILLED, reached)
    worker.setup(fine_tune=True)
    answer = worker.sft(*an_sft(folder, "broken"))
    assert (answer["step"], answer["finished"]) == (8, False)
    assert worker.setup()["step"] == 1
    _fail_in_step_2(worker, folder / "killed.json")


def _fail_in_step_2(worker: TrainerRank, answer: Path) -> None:
    """What the surviving rank sees, and that it then copies nothing."""
    began = time.monotonic()
    with pytest.raises(RuntimeError) as failure:
        worker.train(2)
    seconds = time.monotonic() - began
    refused = []
    for operation in (lambda: worker.publish(1), lambda: worker.checkpoint(1, 1), lambda: worker.train(2)):
        with pytest.raises(ValueError, match="half-way") as refusal:
            operation()
        refused.append(str(refusal.value))
    answer.write_text(json.dumps({"seconds": seconds, "error": str(failure.value), "refused": refused}))
    os._exit(3)


def finishes(rank: int, world_size: int, port: int, folder: Path) -> None:
    """Resumes at step 1 and trains to the end; then fine-tunes; then replays all steps from cut 0, undisturbed."""
    began = time.monotonic()
    worker = a_rank(rank, world_size, port, folder, FINISHED, lambda point, step: None)
    found: dict[str, Any] = {"setup": worker.setup()}
    found["reports"] = [worker.train(step) for step in range(2, STEPS + 1)]
    worker.publish(STEPS)
    found["published"] = worker.published(STEPS, 30)
    found["digest"] = worker.weights_digest()
    found["status"] = worker.status()
    with pytest.raises(ValueError, match="batch 4 is not in the ledger"):
        worker.train(4)
    with pytest.raises(ValueError, match="batch 4 is next"):
        worker.train(3)
    with pytest.raises(ValueError, match="are those of step 3"):
        worker.publish(2)

    assert worker.setup(cut_step=0)["step"] == 0
    found["replayed"] = [worker.train(step) for step in range(1, STEPS + 1)][1:]
    found["replayed digest"] = worker.weights_digest()
    worker.checkpoint(STEPS, STEPS)
    found["saved"] = worker.saved(STEPS, 30)
    found["wall"], found["elapsed"] = worker.status()["wall"], time.monotonic() - began
    found["exported"] = {name: REGISTRY.get_sample_value(f"headrace_train_{name}") for name in EXPORTED}
    if rank == 0:
        found["pruned"] = worker.prune()
    worker.setup(fine_tune=True)
    found["sft"] = worker.sft(*an_sft(folder, "tuned"))
    found["broken"] = worker.sft(*an_sft(folder, "broken"))
    worker.close()
    if rank == 0:
        (folder / "finished.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three lives over one ledger."""
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny_model(folder / "model")
    _save_tokenizer(folder / "model")
    example = Tokens(
        ids=np.array([1, 2, 3, 3, 2, 1, 0], np.int32), trained=np.arange(7) > 2
    )  # abc, then cba and the end
    for name in ("tuned", "broken"):
        (folder / f"{name}-stage").mkdir()
        sft_data.save(folder / f"{name}-stage" / sft_data.FILE, [example] * 8, [example])
    ledger = Ledger(FileBlobStore(folder / "store"), lineage=0)
    for number in range(1, STEPS + 1):
        ledger.commit(a_record(number, [random_group(10 * number + i, size=3) for i in range(2)]))

    stopped = start_ranks(stopped_in_step_2, 2, folder)
    stopped[0].join(240)
    assert join_ranks(stopped, timeout_s=0) == [3, None]
    assert join_ranks(start_ranks(killed_in_step_2, 2, folder)) == [3, -signal.SIGKILL]
    run_ranks(finishes, 2, folder)
    return folder


def test_a_stopped_peer_ends_the_others_within_the_time_out(folder: Path) -> None:
    answer = json.loads((folder / "stopped.json").read_text())
    assert TIMEOUT_S * 0.9 < answer["seconds"] < TIMEOUT_S * 2


def test_a_killed_peer_ends_the_others_at_once(folder: Path) -> None:
    assert json.loads((folder / "killed.json").read_text())["seconds"] < TIMEOUT_S


def test_nothing_of_the_torn_step_was_saved_or_published(folder: Path) -> None:
    store = FileBlobStore(folder / "store")
    keys = [*store.list("weights"), *store.list("checkpoints")]
    assert not [key for key in keys if "/v2/" in key or "00000002-" in key]
    assert not [key for key in keys if f"e{KILLED}/" in key]


def test_the_end_is_bit_identical_to_an_undisturbed_run(folder: Path) -> None:
    found = json.loads((folder / "finished.json").read_text())
    assert found["setup"]["step"] == 1
    assert found["digest"] == found["replayed digest"] == found["published"]["digest"]
    assert read_manifest(FileBlobStore(folder / "store"), WeightVersion(0, FINISHED, 3)).digest() == found["digest"]
    for report, replayed in zip(found["reports"], found["replayed"], strict=True):
        assert {**report, "seconds": 0} == {**replayed, "seconds": 0}
    assert found["reports"][-1]["kl_coefficient"] > CONFIG.kl.coefficient, "the controller never moved"
    assert [report["updates"] for report in found["reports"]] == [4, 4]


def test_answers_are_plain_and_say_what_was_done(folder: Path) -> None:
    found = json.loads((folder / "finished.json").read_text())
    assert found["status"].pop("wall").keys() == set(metrics.PHASES)
    assert found["status"] == {"step": 3, "doing": "idle"}
    assert set(found["setup"]["parameters"]) == {"policy", "critic"}
    assert min(found["setup"]["parameters"].values()) > 1000
    assert found["published"]["number"] == found["saved"]["step"] == STEPS
    assert found["published"]["bytes"] > 0
    # Cuts 0, 1 and 3 were there; two stay. Every batch stays: the history of 500 steps needs them.
    assert found["pruned"] == {"cuts_deleted": 1, "batches_from": 1}
    assert [cut.step for cut in cuts(FileBlobStore(folder / "store"), 0)] == [3, 1]


def test_a_ranks_phases_add_up_to_its_wall_time(folder: Path) -> None:
    found = json.loads((folder / "finished.json").read_text())
    wall = found["wall"]
    assert sum(wall.values()) == pytest.approx(found["elapsed"], rel=0.05)
    assert all(wall[phase] > 0 for phase in ("start", "train", "publish", "checkpoint", "wait_batch"))
    assert wall["train"] >= sum(sum(report["seconds"].values()) for report in found["reports"])


def test_copies_and_writes_are_timed(folder: Path) -> None:
    """One version, one checkpoint; what is written behind the training is known to rank 0 alone."""
    exported = json.loads((folder / "finished.json").read_text())["exported"]
    assert [exported[f"{what}_count"] for what in ("publish_stall_seconds", "checkpoint_stall_seconds")] == [1, 1]
    assert exported["checkpoint_seconds_count"] == 1
    assert min(exported[name] for name in EXPORTED) > 0


def test_fine_tuning_writes_an_ordinary_folder(folder: Path) -> None:
    found = json.loads((folder / "finished.json").read_text())["sft"]
    assert (found["finished"], found["step"], found["total"]) == (True, 40, 40)
    assert found["held_out_before"]["loss"] > 3  # log 23 = 3.1
    assert found["held_out"]["loss"] < 0.1
    model = AutoModelForCausalLM.from_pretrained(folder / "tuned")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tuned")
    prompt = tokenizer("abc", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=3, do_sample=False, eos_token_id=tokenizer.eos_token_id)[0, 3:]
    assert tokenizer.decode(answer).replace(" ", "") == "cba"


def test_fine_tuning_that_other_processes_go_on_with_ends_bit_identical(folder: Path) -> None:
    found = json.loads((folder / "finished.json").read_text())
    assert found["broken"] == found["sft"]
    tuned, broken = ((folder / name / "model.safetensors").read_bytes() for name in ("tuned", "broken"))
    assert tuned == broken
    steps = [json.loads(line)["step"] for line in (folder / "broken-stage" / "sft.jsonl").read_text().splitlines()]
    assert steps == list(range(41))


def _save_tokenizer(folder: Path) -> None:
    inner = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("#abcdefghij")}, unk_token="#"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="#", pad_token="#").save_pretrained(folder)
