"""The loop of supervised stages, on plain torch: it learns, repeats itself, resumes bit for bit, and packing is unseen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_records import VOCABULARY, save_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from train_cluster import rows
from train_cluster.checkpoint import cuts
from train_cluster.config import OptimizerConfig
from train_cluster.model import load_policy
from train_cluster.plain import PlainEngine
from train_cluster.supervised import loop, sft
from train_cluster.supervised.cuts import StageCuts
from train_cluster.supervised.journal import Journal
from train_cluster.supervised.sft_config import SftConfig
from weightstore.blobs import FileBlobStore

CONFIG = SftConfig(
    base="b",
    path="p",
    epochs=2,
    batch_examples=8,
    learning_rate=0.01,
    warmup_steps=2,
    eval_steps=3,
    checkpoint_steps=2,
    checkpoint_s=None,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def an_example(prompt: list[int], response: list[int], trained: list[bool] | None = None) -> rows.Sequence:
    mask = np.ones(len(response), np.bool_) if trained is None else np.array(trained)
    prompt_tokens, response_tokens = np.array(prompt, np.int32), np.array(response, np.int32)
    return rows.Sequence(prompt=prompt_tokens, response=response_tokens, response_mask=mask, temperature=1.0)


def examples(count: int = 17) -> list[rows.Sequence]:
    """Copy a few tokens."""
    words = [[(i + k) % 20 for k in range(1 + i % 5)] for i in range(count)]
    return [an_example([21, *word], [*word, 22]) for word in words]


def an_engine(model: Path, *, dropout: float = 0.0) -> PlainEngine:
    return PlainEngine(
        load_policy(model, random_init=True, seed=2, attention_dropout=dropout), optimizer=OptimizerConfig()
    )


def train(engine: PlainEngine, units: list[rows.Sequence] | None = None, **changes: Any) -> loop.Outcome:
    settings: dict[str, Any] = {"config": CONFIG, "batch_units": 8, "micro_batch_tokens": 64, "seed": 1} | changes
    return loop.train(engine, sft.CompletionLoss(), examples() if units is None else units, **settings)


def test_only_what_is_trained_is_in_the_loss(model: Path) -> None:
    """Against log-softmax by hand, of a sequence fed alone: -(log p(5|1,2,3) + log p(7|1,2,3,5,6))."""
    engine = an_engine(model)
    unit = an_example([1, 2, 3], [5, 6, 7], [True, False, True])
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), attn_implementation="eager")
    plain.load_state_dict(engine.module.causal.state_dict())
    logprobs = torch.log_softmax(plain(torch.tensor([[1, 2, 3, 5, 6]])).logits[0], -1)
    expected = -float((logprobs[2, 5] + logprobs[4, 7]).detach())
    sums = sft.CompletionLoss().sums(engine, [unit])
    assert float(sums.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert sft.CompletionLoss().weight(unit) == 2
    assert train(engine, [unit], config=CONFIG.model_copy(update={"epochs": 1})).loss == pytest.approx(
        expected / 2, rel=1e-5
    )


def test_an_example_is_not_changed_by_what_shares_its_row(model: Path) -> None:
    engine, objective = an_engine(model), sft.CompletionLoss()
    units = examples(9)
    alone = [float(objective.sums(engine, [unit]).loss.detach()) for unit in units]
    for order in (range(9), reversed(range(9))):
        together = [units[i] for i in order]
        assert float(objective.sums(engine, together).loss) == pytest.approx(sum(alone), rel=1e-5)
    for i, unit in enumerate(units):  # the difference that each makes is its own loss
        others = [other for other in units if other is not unit]
        made = float(objective.sums(engine, units).loss) - float(objective.sums(engine, others).loss)
        assert made == pytest.approx(alone[i], abs=1e-4)


def test_packing_does_not_change_the_result(model: Path) -> None:
    narrow, wide = (train(an_engine(model), micro_batch_tokens=capacity) for capacity in (8, 4096))
    assert narrow.loss == pytest.approx(wide.loss, rel=1e-4)


def test_it_learns_and_repeats_itself(model: Path) -> None:
    seen: list[loop.StageReport] = []
    config = CONFIG.model_copy(update={"epochs": 12, "eval_steps": None})
    units = examples()
    engine, again = an_engine(model), an_engine(model)
    outcome = train(engine, units, config=config, progress=seen.append, held_out=units[:4])
    assert [(report.step, report.total) for report in seen] == [(step, 36) for step in range(37)]  # steps of 8, 8 and 1
    assert [report.learning_rate for report in seen[:4]] == [0.0, 0.005, 0.01, 0.01]
    assert [report.step for report in seen if report.held_out] == [0, 36]
    assert outcome.held_out_before["loss"] == pytest.approx(np.log(VOCABULARY), abs=0.2)
    assert outcome.held_out["loss"] < 2.0
    assert train(again, units, config=config, held_out=units[:4]) == outcome
    weights, same = engine.export_partition(), again.export_partition()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert train(an_engine(model), units, config=config, seed=3).loss != outcome.loss


def test_each_step_draws_a_dropout_of_its_own(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(loop, "seed_generators", lambda seed, *, rank: seeds.append(seed))
    train(an_engine(model))
    assert len(set(seeds)) == len(seeds) == 6  # two epochs of 8, 8 and 1


def test_held_out_examples_teach_nothing(model: Path) -> None:
    with_them, without = an_engine(model, dropout=0.2), an_engine(model, dropout=0.2)
    train(with_them, held_out=examples(40)[20:])
    train(without)
    assert torch.equal(*(next(iter(one.export_partition().values())) for one in (with_them, without)))


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own() -> None:
    epochs = [
        [i for step in range(first, first + 3) for i in loop.members_of(step, units=17, batch_units=8, seed=1)]
        for first in (1, 4)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(17))] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("stopped_at", [1, 2, 3, 5])
def test_a_stage_that_was_stopped_ends_where_an_unbroken_one_does(model: Path, tmp_path: Path, stopped_at: int) -> None:
    unbroken, whole = an_engine(model, dropout=0.2), Journal(tmp_path / "whole")
    expected = train(unbroken, held_out=examples(5), progress=whole.add)

    count, first = iter(range(1, 99)), an_engine(model, dropout=0.2)
    with_cuts = {"held_out": examples(5)}
    stage = StageCuts(first, tmp_path, identity="i")
    broken = train(
        first,
        cuts=stage,
        progress=Journal(tmp_path / "broken").add,
        stopping=lambda: next(count) >= stopped_at,
        **with_cuts,
    )
    assert (broken.step, broken.finished) == (stopped_at, False)
    assert cuts(FileBlobStore(tmp_path), 0)[0].step == stopped_at

    second = an_engine(model, dropout=0.2)
    stage = StageCuts(second, tmp_path, identity="i")
    assert train(second, cuts=stage, progress=Journal(tmp_path / "broken").add, **with_cuts) == expected
    weights, same = unbroken.export_partition(), second.export_partition()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert (tmp_path / "broken").read_text() == (tmp_path / "whole").read_text()


def test_a_stage_that_died_goes_on_from_its_newest_cut(model: Path, tmp_path: Path) -> None:
    """Of steps 1 to 5 the cuts at 2 and 4 were due; the journal's line of 5 is replaced."""

    def dies(report: loop.StageReport) -> None:
        if report.step == 5:
            stage.wait()  # else the last cut may not be there yet
            raise RuntimeError("gone")

    engine = an_engine(model)
    stage = StageCuts(engine, tmp_path, identity="i")
    with pytest.raises(RuntimeError, match="gone"):
        train(engine, cuts=stage, progress=Journal(tmp_path / "j", also=dies).add)
    with (tmp_path / "j").open("a") as file:
        file.write('{"step": 6, "lo')  # as a kill may leave it
    seen: list[int] = []
    engine = an_engine(model)
    journal = Journal(tmp_path / "j", also=lambda report: seen.append(report.step))
    train(engine, cuts=StageCuts(engine, tmp_path, identity="i"), progress=journal.add)
    assert seen == [5, 6]
    assert [json.loads(line)["step"] for line in (tmp_path / "j").read_text().splitlines()] == list(range(7))
    engine = an_engine(model)
    with pytest.raises(ValueError, match="a checkpoint of other settings; remove its folder"):
        train(engine, cuts=StageCuts(engine, tmp_path, identity="another"))


def test_a_loss_that_is_not_finite_ends_it(model: Path) -> None:
    engine = an_engine(model)
    with torch.no_grad():
        next(iter(engine.module.parameters())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 1: loss nan"):
        train(engine)
