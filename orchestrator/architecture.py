"""Whether a model is one that can be reinforced: a causal language model, of sizes that fit one another."""

from collections.abc import Iterator
from typing import Any

_CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How architectures end that write from left to right, in transformers and in vLLM."""
_SCALAR = "ForSequenceClassification"
"""How that of a reward model ends."""
_DECODERS_ALL_THE_SAME = ("gpt_neox", "gpt_neox_japanese")
"""Kinds whose `is_decoder` is False though they are nothing else."""


def problems(config: Any, *, stored_parameters: int | None = None, scalar: bool = False) -> Iterator[str]:
    """`reason; remedy` for each, of a transformers config and of how many elements its weights have (None: it has none).

    `scalar`: a reward model will do as well.
    """
    named = [name for name in getattr(config, "architectures", None) or [] if isinstance(name, str)]
    fits = _is_causal_or_scalar if scalar else _is_causal
    encoder = getattr(config, "is_decoder", True) is False and config.model_type not in _DECODERS_ALL_THE_SAME
    if encoder or getattr(config, "is_encoder_decoder", False) or (named and not any(map(fits, named))):
        what = ", ".join(named) or config.model_type
        yield f"{what} is no causal language model; give a decoder, whose architecture ends in ForCausalLM"
        return
    text = config.get_text_config()
    wrong = list(_sizes(text))
    yield from wrong
    embedding = int(text.vocab_size) * int(getattr(text, "hidden_size", None) or 0)
    if not wrong and stored_parameters is not None and stored_parameters < embedding:
        yield (
            f"its weights have {stored_parameters:,} elements, and by its config.json the embedding alone has {embedding:,}; "
            "take both from the same place"
        )


def _is_causal(architecture: str) -> bool:
    return architecture.endswith(_CAUSAL)


def _is_causal_or_scalar(architecture: str) -> bool:
    return _is_causal(architecture) or architecture.endswith(_SCALAR)


def _sizes(text: Any) -> Iterator[str]:
    remedy = "correct its config.json"
    size = {name: getattr(text, name, None) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    heads, groups = size["num_attention_heads"], getattr(text, "num_key_value_heads", None)
    size |= {"num_key_value_heads": groups, "vocab_size": text.vocab_size}
    small = [f"{name} = {value}" for name, value in size.items() if value is not None and not _is_size(value)]
    if small:
        yield f"{', '.join(small)} is no size; {remedy}"
    elif heads and groups and heads % groups:
        yield f"its {heads} attention heads do not share {groups} key-value heads equally; {remedy}"


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and value >= 1
