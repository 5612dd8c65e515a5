"""Pairs on the stage loop, in one process: it learns, packing and empty rows change nothing,
lengths can be explained away. 4 s.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_pairs import clean_pairs, save_letters, word, write_rows
from transformers import AutoTokenizer

from train_cluster.config import OptimizerConfig
from train_cluster.plain import PlainEngine
from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.reward.figures import HeldOut, length_bias, quality
from train_cluster.reward.losses import preference_loss
from train_cluster.reward.objective import PreferenceLoss, balance_lengths, row_inputs, score_sequences
from train_cluster.reward.pair_text import Template
from train_cluster.reward.pairs import Pair, read_pairs
from train_cluster.reward.training import judge
from train_cluster.scalar import load_scalar
from train_cluster.supervised import loop


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_letters(tmp_path_factory.mktemp("letters"))


def pairs_of(letters: Path, rows: list[dict[str, Any]], folder: Path) -> tuple[Pair, ...]:
    path = write_rows(folder / "pairs.jsonl", rows)
    template = Template(tokenizer=AutoTokenizer.from_pretrained(letters), chat_template=False, system_prompt=None)
    return read_pairs(path, template, config=RewardTrainingConfig(path=str(path), out="o"), max_tokens=None).pairs


def an_engine(letters: Path, *, dropout: float = 0.0) -> PlainEngine:
    model = load_scalar(letters, head="fresh", random_init=True, seed=2, attention_dropout=dropout)
    return PlainEngine(model, optimizer=OptimizerConfig(weight_decay=0.01))


def train(engine: PlainEngine, pairs: tuple[Pair, ...], *, capacity: int = 512, epochs: int = 1) -> list[float]:
    config = RewardTrainingConfig(path="p", out="o", learning_rate=0.01, warmup_steps=2, epochs=epochs)
    losses: list[float] = []
    loop.train(
        engine,
        PreferenceLoss(centring=0.01, flip_rate=0),
        pairs,
        config=config,
        batch_units=16,
        micro_batch_tokens=capacity,
        seed=1,
        progress=lambda report: losses.append(report.loss) if report.loss is not None else None,
    )
    return losses


def test_it_learns_what_makes_an_answer_better(letters: Path, tmp_path: Path) -> None:
    pairs = pairs_of(letters, clean_pairs(700), tmp_path)
    engine = an_engine(letters, dropout=0.1)
    losses = train(engine, pairs[:600])
    assert np.mean(losses[-5:]) < 0.2 < losses[0]
    found = quality(judge(engine, pairs[600:], micro_batch_tokens=512))
    assert found["accuracy"] > 0.9
    assert set(found["categories"]) == {"early", "late"}
    assert abs(found["scores"]["mean"]) < 1.5  # centred


def test_packing_changes_nothing(letters: Path, tmp_path: Path) -> None:
    pairs = pairs_of(letters, clean_pairs(32), tmp_path)
    narrow, wide = (train(an_engine(letters), pairs, capacity=capacity, epochs=2) for capacity in (24, 4096))
    assert narrow == pytest.approx(wide, rel=1e-4)


def test_every_setting_of_the_loss_is_in_force_and_right_is_right(letters: Path, tmp_path: Path) -> None:
    engine, rows = an_engine(letters), [row | {"margin": 0.5 * i} for i, row in enumerate(clean_pairs(3))]
    pairs = pairs_of(letters, rows, tmp_path)
    scores = score_sequences(engine, [s for pair in pairs for s in (pair.chosen, pair.rejected)], micro_batch_tokens=64)
    chosen, rejected = torch.from_numpy(scores).view(-1, 2).unbind(1)
    for settings in ({"centring": 0.3, "flip_rate": 0.0}, {"centring": 0.0, "flip_rate": 0.2}):
        sums = PreferenceLoss(**settings).sums(engine, pairs)
        expected = preference_loss(chosen, rejected, torch.tensor([0.0, 0.5, 1.0]), **settings)
        assert float(sums.loss.detach()) == pytest.approx(float(expected.sum()), rel=1e-5)
        assert float(sums.measures["accuracy"]) == int((chosen > rejected).sum())


def test_an_empty_row_weighs_nothing_and_has_a_gradient(letters: Path) -> None:
    engine = an_engine(letters)
    sums = PreferenceLoss(centring=0.01, flip_rate=0).sums(engine, [])
    assert (sums.loss.item(), float(sums.measures["accuracy"])) == (0, 0)
    engine.backward(sums.loss)
    assert all(not parameter.grad.any() for parameter in engine.module.parameters() if parameter.grad is not None)


def test_scores_are_those_of_each_sequence_alone(letters: Path, tmp_path: Path) -> None:
    engine = an_engine(letters, dropout=0.5)
    sequences = [pair.chosen for pair in pairs_of(letters, clean_pairs(20), tmp_path)]
    together = score_sequences(engine, sequences, micro_batch_tokens=64)
    with torch.no_grad():
        alone = [float(engine.forward(**row_inputs([sequence]))[0]) for sequence in sequences]
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.std(together) > 0.01


def rated_by_length_and_a_letter(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Of two answers, one of them with an `a`, the better one is often that with it, and often the longer one."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        texts = [word(source, source.randint(1, 8)) for _ in range(2)]
        texts[0] += "a"
        liking = [0.8 * len(text) + 2.0 * text.endswith("a") for text in texts]
        first = source.random() < 1 / (1 + np.exp(liking[1] - liking[0]))
        chosen, rejected = texts if first else texts[::-1]
        rows.append({"prompt": word(source, 3), "chosen": chosen, "rejected": rejected})
    return rows


def test_what_lengths_explain_is_left_out_on_request(letters: Path, tmp_path: Path) -> None:
    pairs = pairs_of(letters, rated_by_length_and_a_letter(1100, seed=1), tmp_path)

    def judged(penalty: float) -> HeldOut:
        engine = an_engine(letters)
        train(engine, balance_lengths(pairs[:900], penalty=penalty)[0])
        return judge(engine, pairs[900:], micro_batch_tokens=1024)

    leaning, straight = judged(0), judged(1)
    assert length_bias(leaning)["pearson"] > 0.5
    assert abs(length_bias(straight)["pearson"]) < 0.5 * length_bias(leaning)["pearson"]


def test_a_loss_that_is_not_finite_ends_it(letters: Path, tmp_path: Path) -> None:
    pairs = pairs_of(letters, clean_pairs(16), tmp_path)
    engine = an_engine(letters)
    with torch.no_grad():
        next(engine.module.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 1: loss nan.*lower the learning rate"):
        train(engine, pairs)
    with pytest.raises(FloatingPointError, match=r"held-out line 1 is not finite; lower reward\.learning_rate"):
        judge(engine, pairs, micro_batch_tokens=512)
