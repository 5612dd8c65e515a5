"""The model folder that the small recipes begin with: an architecture and a tokenizer, no weights."""

from pathlib import Path
from typing import Any


def write_folder(folder: Path, tokenizer: Any, *, context_tokens: int) -> None:
    """A Llama architecture of some 0.45 M parameters, embeddings included; the weights are drawn by SFT."""
    from transformers import LlamaConfig  # seconds to import

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,  # of 32 dimensions: vLLM's CPU attention has no kernel for 16
        num_key_value_heads=4,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=True,
        initializer_range=0.05,  # so narrow a model learns about twice as fast as from 0.02
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    ).save_pretrained(folder)
