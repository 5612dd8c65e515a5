"""Real model folders, as small as they can be, and the recipes and prompt files that go with them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import recipe as recipes
from orchestrator import yamlfile
from orchestrator.folder import RunFolder

LETTERS = "abcdefghijklmnopqrstuvwxyz ."
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def write_tokenizer(folder: Path, *, letters: str = LETTERS, chat_template: str | None = None) -> None:
    """One token a character: <pad> 0, <eos> 1, <bos> 2, then the letters; a prompt starts with <bos>."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", *letters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", chat_template=chat_template
    )
    tokenizer.save_pretrained(folder)


def write_model(
    folder: Path, *, vocabulary: int = 31, context: int = 64, weights: bool = True, tied: bool = True, **tokenizer: Any
) -> Path:
    """A Llama of one layer, width 8."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        eos_token_id=1,
        bos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    (LlamaForCausalLM(config) if weights else config).save_pretrained(folder)
    write_tokenizer(folder, **tokenizer)
    return folder


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """JSONL; text is written as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def sections(**changes: Any) -> dict[str, Any]:
    """The least that a recipe must say, with changes: `section__key=value`, or `section=value`."""
    recipe: dict[str, Any] = {
        "run": {"name": "trial", "steps": 4},
        "model": {"path": "m"},
        "data": {"path": "d.jsonl"},
        "scoring": {"rewards": [{"name": "length", "function": "score_cluster.functions:length_penalty"}]},
        "generation": {"max_tokens": 8},
    }
    for way, value in changes.items():
        *parents, leaf = way.split("__")
        node = recipe
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return recipe


def a_run(
    folder: Path,
    name: str,
    *,
    state: str = "stopped",
    store: Path | str | None = None,
    experience: Mapping[str, Any] | None = None,
    **status: Any,
) -> RunFolder:
    """`runs/<name>` below `folder` as a driver leaves it, with `state` "" before it wrote a status; it lived here."""
    changes: dict[str, Any] = {"store__url": str(store)} if store else {}
    changes |= {"experience": dict(experience)} if experience else {}
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipes" / f"{name}.yaml"
    recipe.write_text(yamlfile.render(sections(run__name=name, run__root=str(folder / "runs"), **changes)))
    run = RunFolder(folder / "runs" / name)
    with run.locked():
        run.create()
        run.write(run.recipe, recipes.dump(recipes.load(recipe)))
        if state:
            run.write_json(run.status, {"run": name, "state": state} | status)
    return run
