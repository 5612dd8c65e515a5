"""Fine-tuning: what is masked, what a bad line says, that order and results depend on the seed alone, that it learns."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from train_records import VOCABULARY, save_tiny_model
from transformers import PreTrainedTokenizerFast

from train_cluster import rows, sft, supervised
from train_cluster.config import OptimizerConfig
from train_cluster.model import load_policy
from train_cluster.plain import PlainEngine
from train_cluster.sft_config import SftConfig

LETTERS = "abcdefghijklmnopqrst"
EOS = len(LETTERS)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter."""
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)} | {"<eos>": EOS, "<unk>": EOS + 1}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}t{% endif %}",
    )


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def a_row(prompt: str, completion: str) -> str:
    return json.dumps({"prompt": prompt, "completion": completion})


def read(path: Path, tokenizer: PreTrainedTokenizerFast, **settings: object) -> list[rows.Sequence]:
    return sft.read_examples(path, tokenizer, prompt_column="prompt", completion_column="completion", **settings)  # type: ignore[arg-type]


def test_only_the_completion_and_its_end_are_trained(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = read(write(tmp_path / "a", [a_row("abc", "cb"), ""]), tokenizer)
    assert example.prompt.tolist() == [0, 1, 2]
    assert example.response.tolist() == [2, 1, EOS]
    row = rows.build_row((0,), [example])
    assert row.tokens.tolist() == [[0, 1, 2, 2, 1]]  # eos is predicted, never fed
    assert row.predict_index.tolist() == [2, 3, 4]
    assert row.targets.tolist() == [2, 1, EOS]
    assert row.response_mask.all()


def test_the_chat_template_goes_around_the_prompt(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "a", [a_row("abc", "cb")])
    (example,) = read(path, tokenizer, chat_template=True, system_prompt="s")
    assert "".join(LETTERS[i] for i in example.prompt) == "sabct"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"prompt": "a"}', r"line 2: column 'completion' must be a text that is not empty; the row has \['prompt'\]"),
        (a_row("a", ""), "line 2: column 'completion'"),
        (a_row("abcabc", "abc"), "line 2: 10 tokens are more than the model's context of 8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, line: str, complaint: str) -> None:
    path = write(tmp_path / "rows.jsonl", [a_row("abc", "cb"), line])
    with pytest.raises(ValueError, match=rf"rows\.jsonl, {complaint}"):
        read(path, tokenizer, max_tokens=8)


def test_an_empty_file_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="no rows"):
        read(write(tmp_path / "a", [""]), tokenizer)


def a_run(
    folder: Path, examples: list[rows.Sequence], *, seed: int = 1, capacity: int = 64, epochs: int = 2
) -> tuple[list[float], dict[str, torch.Tensor], list[tuple[int, int]]]:
    config = SftConfig(base="b", path="p", epochs=epochs, batch_examples=8, learning_rate=0.01, warmup_steps=2)
    engine = PlainEngine(load_policy(folder, random_init=True, seed=2), optimizer=OptimizerConfig())
    seen: list[supervised.StageReport] = []
    supervised.train(
        engine,
        sft.CompletionLoss(),
        examples,
        config=config,
        batch_units=config.batch_examples,
        micro_batch_tokens=capacity,
        seed=seed,
        progress=seen.append,
    )
    losses = [report.loss for report in seen if report.loss is not None]
    return losses, engine.export_partition(), [(report.step, report.total) for report in seen]


def test_it_learns_and_repeats_itself(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save_tiny_model(tmp_path)
    assert len(tokenizer) <= VOCABULARY
    lines = [a_row(LETTERS[i : i + 3], LETTERS[i : i + 3]) for i in range(17)]
    examples = read(write(tmp_path / "rows.jsonl", lines), tokenizer)
    losses, weights, seen = a_run(tmp_path, examples, epochs=12)
    assert seen == [(step, 36) for step in range(37)]  # 17 rows in steps of 8, 8 and 1
    assert losses[0] == pytest.approx(3.1, abs=0.2)  # log 23
    assert losses[-1] < 1.5
    again, same, _ = a_run(tmp_path, examples, epochs=12)
    assert again == losses
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    other, _, _ = a_run(tmp_path, examples, epochs=12, seed=3)
    assert other != losses


def test_packing_does_not_change_the_result(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save_tiny_model(tmp_path)
    lines = [a_row(LETTERS[: 1 + i % 5], LETTERS[i : i + 1 + i % 7]) for i in range(12)]
    examples = read(write(tmp_path / "rows.jsonl", lines), tokenizer)
    (narrow, _, _), (wide, _, _) = (a_run(tmp_path, examples, capacity=capacity) for capacity in (8, 4096))
    assert narrow == pytest.approx(wide, rel=1e-4)
