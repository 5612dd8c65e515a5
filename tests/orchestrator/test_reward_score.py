"""`headrace reward score`, through the command's own `main`: rows of each kind, ensembles, mistakes. 5 s."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from orchestrator_folders import CHAT_TEMPLATE, write_model, write_rows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from orchestrator import cli
from train_cluster.model import published_parameters
from train_cluster.scalar import load_scalar, save_scalar_folder

PAIRS = [
    {"prompt": "say a", "chosen": "a.", "rejected": "no b"},
    {"prompt": "say", "chosen": "b", "rejected": "c"},
    {"prompt": "c", "chosen": "d e f", "rejected": "d"},
]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two reward models 0 and 1 in one folder."""
    folder = tmp_path_factory.mktemp("reward")
    base = write_model(folder / "base", chat_template=CHAT_TEMPLATE)
    for member in range(2):
        model = load_scalar(base, head="fresh", seed=member)
        save_scalar_folder(folder / "out" / str(member), base, dict(published_parameters(model)))
    return folder / "out"


@pytest.fixture
def headrace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: Any, code: int = 0) -> tuple[str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["headrace", "reward", "score", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        shown = capsys.readouterr()
        assert (end.value.code or 0) == code, shown.err
        return shown.out, shown.err

    return run


def scores(folder: Path, texts: list[list[str]]) -> list[float]:
    """What transformers says of <bos>, these letters, and <eos> where the last one is "$"."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    letters = "abcdefghijklmnopqrstuvwxyz ."
    found = []
    for prompt, answer in texts:
        ids = [2, *(3 + letters.index(letter) for letter in prompt + answer.rstrip("$")), *[1] * answer.endswith("$")]
        with torch.no_grad():
            found.append(float(model(torch.tensor([ids])).logits))
    return found


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_answers_are_scored_at_their_end(headrace: Any, ensemble: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "say a", "completion": "a."}, "", {"prompt": "b", "completion": "no"}]
    out, err = headrace(ensemble / "1", write_rows(tmp_path / "rows", rows))
    expected = scores(ensemble / "1", [["say a", "a.$"], ["b", "no$"]])
    assert [row["line"] for row in rows_of(out)] == [1, 3]
    assert [row["score"] for row in rows_of(out)] == pytest.approx(expected, abs=1e-5)
    assert "2 rows (answer): mean" in err


def test_texts_are_scored_as_they_stand(headrace: Any, ensemble: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows", [{"text": "say a"}])
    (row,) = rows_of(headrace(ensemble / "0", file, "--no-chat-template")[0])
    assert row["score"] == pytest.approx(scores(ensemble / "0", [["say a", ""]])[0], abs=1e-5)


def test_pairs_and_ensembles(headrace: Any, ensemble: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows", PAIRS)
    out, _ = headrace(ensemble, file, "--out", "scores.jsonl", "--json")
    found = rows_of((tmp_path / "scores.jsonl").read_text())
    chosen, rejected = (
        np.array([scores(ensemble / member, [[r["prompt"], r[c] + "$"] for r in PAIRS]) for member in "01"])
        for c in ("chosen", "rejected")
    )
    assert [row["chosen"] for row in found] == pytest.approx(chosen.mean(axis=0).tolist(), abs=1e-5)
    assert [row["std"] for row in found] == pytest.approx((chosen - rejected).std(axis=0).tolist(), abs=1e-5)
    right = chosen.mean(axis=0) > rejected.mean(axis=0)
    assert [row["right"] for row in found] == right.tolist()
    summary = json.loads(out)
    assert (summary["kind"], summary["rows"], summary["models"]) == ("pair", 3, 2)
    assert summary["accuracy"] == pytest.approx(right.mean())


def test_the_card_says_how_prompts_are_rendered(headrace: Any, ensemble: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows", [{"prompt": "a", "completion": "b"}])
    card = ensemble / "0" / "reward_card.json"

    def score(*options: str) -> float:
        return rows_of(headrace(ensemble / "0", file, *options)[0])[0]["score"]

    plain = score()
    chat = score("--chat-template")
    assert chat != pytest.approx(plain, abs=1e-4)
    card.write_text(json.dumps({"prompt": {"chat_template": True, "system_prompt": None}}))
    assert score() == chat
    assert score("--no-chat-template") == plain
    card.write_text("{")
    out, err = headrace(ensemble / "0", file, code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert "its reward_card.json cannot be read" in err
    card.unlink()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no rows; give at least one JSON object a line"),
        (
            [{"prompt": "a"}],
            "line 1: has prompt, and a row needs prompt, chosen, rejected or prompt, completion or text",
        ),
        ([{"text": "a"}, {"prompt": "a", "completion": "b"}], "line 2: no column 'text', which the rows before have"),
        ([{"prompt": "a", "completion": 3}], "line 1: completion is 3, neither a text nor a chat"),
        ([{"text": "a" * 70}], "line 1: 71 tokens are more than the model's context of 64; shorten it"),
    ],
)
def test_bad_rows_are_a_line_each(headrace: Any, ensemble: Path, tmp_path: Path, rows: list[Any], reason: str) -> None:
    out, err = headrace(ensemble / "0", write_rows(tmp_path / "rows", rows), code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("headrace: FILE = ")
    assert reason in err


def test_what_is_no_reward_model(headrace: Any, ensemble: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows", PAIRS)
    for folder, reason in {
        tmp_path / "nope": "there is no such folder",
        tmp_path: "holds no reward model; remedy: name the folder that `headrace reward train` wrote",
        ensemble.parent / "base": "is no reward model (LlamaForCausalLM with 2 labels)",
    }.items():
        out, err = headrace(folder, file, code=2)
        assert (out, err.count("\n")) == ("", 1)
        assert reason in err
    assert "FILE = nope: cannot be read" in headrace(ensemble, "nope", code=2)[1]


def test_out_is_refused_before_it_costs_anything(headrace: Any, ensemble: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows", PAIRS)
    before = file.read_bytes()
    for out, reason in {file: "is the file that is scored", tmp_path: "cannot be written"}.items():
        assert reason in headrace(ensemble, file, "--out", str(out), code=2)[1]
    assert file.read_bytes() == before


def test_a_score_that_is_not_finite_fails(headrace: Any, ensemble: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (ensemble / "0").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    save_file(tensors | {"score.weight": tensors["score.weight"] * float("nan")}, broken / "model.safetensors")
    out, err = headrace(broken, write_rows(tmp_path / "rows", PAIRS), code=1)
    assert out == ""
    assert "the score of line 1 is not finite; the model is damaged" in err.splitlines()[-1]
