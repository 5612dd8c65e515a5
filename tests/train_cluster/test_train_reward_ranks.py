"""An ensemble on two real ranks: killed, gone on with, stopped in its second member, gone on with again, and the same to the bit as one left alone.

Two starts of ranks, of which the first is killed; the second goes on and then trains all of it anew in another folder. 20 s,
most of them the start of the ranks.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import join_ranks, run_ranks, start_ranks
from train_pairs import clean_pairs, save_letters, write_rows
from transformers import AutoModelForSequenceClassification

from train_cluster import distributed
from train_cluster.config import TrainingConfig
from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.reward.training import Job, run

STEPS = 30
"""Of each member: 480 pairs in batches of 16."""
KILLED_AT = 5
"""The step of the first member in which rank 1 ends; its newest checkpoint is that of step 4."""
ASKED_AT = STEPS + 7
"""Counted over both members: here the second life is asked to stop, which it does after the step that it begins next."""


def a_job(folder: Path, stage: str) -> Job:
    config = RewardTrainingConfig(
        base=str(folder / "base"),
        random_init=True,
        path=str(folder / "pairs.jsonl"),
        out=str(folder / "reward"),
        held_out_share=0.2,
        members=2,
        member_data="bootstrap",
        batch_pairs=16,
        learning_rate=0.01,
        warmup_steps=2,
        eval_steps=15,
        checkpoint_steps=4,
    )
    return Job(
        config=config,
        training=TrainingConfig(dtype="float32", micro_batch_tokens=256),
        seed=7,
        chat_template=False,
        system_prompt=None,
        identity="i" * 64,
        folder=folder / stage,
        draft=folder / f"{stage}-draft",
    )


def join(rank: int, world_size: int, port: int) -> None:
    torch.set_num_threads(1)
    distributed.join(rank=rank, world_size=world_size, master_port=port, timeout_s=60)


def killed(rank: int, world_size: int, port: int, folder: Path) -> None:
    join(rank, world_size, port)

    def progress(entry: Any) -> None:
        if rank == 1 and entry["step"] == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    run(a_job(folder, "stage"), rank=rank, world_size=world_size, progress=progress, stopping=lambda: False)


def finishes(rank: int, world_size: int, port: int, folder: Path) -> None:
    join(rank, world_size, port)
    found: dict[str, Any] = {"steps": {"stage": [], "alone": []}, "stopped": []}
    asked = [False]

    def progress_of(stage: str) -> Any:
        def progress(entry: Any) -> None:
            found["steps"][stage].append(entry["step"])
            asked[0] = stage == "stage" and entry["step"] == ASKED_AT

        return progress

    for stage in ("stage", "stage", "alone"):
        answer = run(
            a_job(folder, stage),
            rank=rank,
            world_size=world_size,
            progress=progress_of(stage),
            stopping=lambda: asked[0],
        )
        found["stopped"].append(not answer["finished"])
        found["answer"] = answer
    distributed.leave()
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    save_letters(folder / "base")
    write_rows(folder / "pairs.jsonl", clean_pairs(600))
    codes = join_ranks(start_ranks(killed, 2, folder))
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)  # its peer is gone
    run_ranks(finishes, 2, folder)
    return folder


def card(folder: Path, member: str = "") -> dict[str, Any]:
    return json.loads((folder / "stage-draft" / member / "reward_card.json").read_text())


def test_it_goes_on_where_it_was_and_stops_when_asked(folder: Path) -> None:
    found = json.loads((folder / "found.json").read_text())
    assert found["stopped"] == [True, False, False]
    assert found["steps"]["stage"] == [*range(KILLED_AT, STEPS + 1), *range(STEPS, 2 * STEPS + 1)]
    assert found["steps"]["alone"] == [*range(STEPS + 1), *range(STEPS, 2 * STEPS + 1)]


def test_the_weights_are_those_of_a_life_left_alone(folder: Path) -> None:
    for name in ("", "0", "1"):
        one, other = (
            json.loads((folder / f"{stage}-draft" / name / "reward_card.json").read_text())
            for stage in ("stage", "alone")
        )
        assert one == other, name
    weights = {card(folder, name)["hashes"]["weights_sha256"] for name in ("", "0", "1")}
    assert len(weights) == 3


def test_both_members_and_their_mean_are_right(folder: Path) -> None:
    for name in ("", "0", "1"):
        found = card(folder, name)
        assert found["held_out"]["accuracy"] > 0.9
        assert found["held_out"]["verdict"]["word"] == "suspicious"  # for people's labels it would be
        assert found["data"]["held_out_pairs"] == 120
    assert 0.5 < card(folder, "0")["data"]["member_prompts"] / 480 < 0.75  # drawn with replacement
    assert card(folder)["agreement"]["mean"] > 0.8
    assert [point["step"] for point in card(folder, "0")["curve"]] == list(range(STEPS + 1))
    looks = [point["step"] for point in card(folder, "0")["curve"] if "held_out_accuracy" in point]
    assert looks == [0, 15, 30]


def test_a_member_is_an_ordinary_folder(folder: Path) -> None:
    """transformers scores the held-out answers as the card has them."""
    member = folder / "stage-draft" / "1"
    model = AutoModelForSequenceClassification.from_pretrained(member).eval()
    assert model.config.num_labels == 1
    first = json.loads((member / "held_out.jsonl").read_text().splitlines()[0])
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    row = rows[first["line"] - 1]
    tokenizer_ids = [ord(c) - ord("a") for c in row["prompt"] + row["chosen"]]
    with torch.no_grad():
        score = float(model(torch.tensor([[*tokenizer_ids, 20]])).logits)
    assert score == pytest.approx(first["chosen"], abs=1e-5)
