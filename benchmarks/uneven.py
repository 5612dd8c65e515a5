"""The task of the throughput benchmarks: answers of uneven length from a policy that nobody has trained.

An untrained policy draws each of its V tokens with a chance of about 1/V, the end token among them, so the lengths of its
answers are geometric and cut at MAX_TOKENS: mean 68 of 128, standard deviation 46. At learning rate 0 they stay so.
"""

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_TOKENS = 128
NO_LEARNING = 1e-30
"""The smallest learning rate in use; recipes take none of 0, and this one changes no float32 weight."""
PROMPT_CHARACTERS = 8
SPECIAL = ("<pad>", "<eos>", "<unk>")
CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " "
"""With SPECIAL 98 tokens, so an answer ends by itself with chance 1/98 a token."""


def write_model(folder: Path, *, seed: int = 0) -> None:
    """A Llama of 0.85 M parameters with drawn weights, and a tokenizer of single characters."""
    import torch  # seconds to import
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def character_tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad, eos, unk = SPECIAL
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=eos, unk_token=unk)


def rows(count: int, *, seed: int = 0) -> Iterator[dict[str, str]]:
    """Prompts of PROMPT_CHARACTERS letters, and an answer to be compared with character by character."""
    generator = random.Random(seed)
    for _ in range(count):
        letters = "".join(generator.choices(string.ascii_lowercase, k=PROMPT_CHARACTERS + MAX_TOKENS))
        yield {"prompt": letters[:PROMPT_CHARACTERS], "answer": letters[PROMPT_CHARACTERS:]}


def write_rows(path: Path, count: int, *, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count, seed=seed)))
