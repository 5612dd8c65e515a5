"""What a Hugging Face folder says of its model, read without loading a weight."""

import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import architecture, logs
from orchestrator.recipe import RecipeError

_HEADER_LENGTH = struct.Struct("<Q")
"""A safetensors file: length of the header, the header as JSON, the tensors' bytes without a gap."""
_MAX_HEADER_BYTES = 100 * 1024**2
"""The format's own limit."""
_MAY_BE_RANDOM = ("model.path", "sft.base")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    path: Path
    kind: str
    """`model_type` of config.json"""
    vocabulary: int
    """Rows of the embedding."""
    context_tokens: int
    stored_parameters: int | None
    """Elements in its safetensors files, tied ones once; None where it needs no weights."""
    stop_token_ids: tuple[int, ...]
    """Tokens that end a response, by the model's generation settings and its tokenizer; sorted."""
    tokenizer: Any
    """A transformers tokenizer."""


def read_model(path: str, *, field: str, random_init: bool = False, scalar: bool = False) -> ModelFolder:
    """Read a folder. `scalar`: of a reward model as well. RecipeError: names `field`, the path and what is missing."""
    folder, where = Path(path), f"{field} = {path}"
    if not os.path.isdir(folder):  # Path.is_dir raises where a name is too long
        raise RecipeError([f"{where}: there is no such folder; give the folder of a Hugging Face model"])
    if not (folder / "config.json").is_file():
        raise RecipeError([f"{where}: holds no config.json; give the folder of a Hugging Face model"])
    config = _config(folder, where)
    text = config.get_text_config()
    for name in ("vocab_size", "max_position_embeddings"):
        if not isinstance(getattr(text, name, None), int):
            raise RecipeError([f"{where}: its config.json names no {name}; give the folder of a causal language model"])
    _refuse(where, architecture.problems(config, scalar=scalar))
    tokenizer = load_tokenizer(path, field=field)
    vocabulary = int(text.vocab_size)
    if len(tokenizer) > vocabulary:
        raise RecipeError(
            [
                f"{where}: its tokenizer has {len(tokenizer)} tokens and its model only {vocabulary}; "
                "take model and tokenizer from the same place"
            ]
        )
    stored = None if random_init else count_stored(folder, field)
    _refuse(where, architecture.problems(config, stored_parameters=stored, scalar=scalar))
    return ModelFolder(
        path=folder,
        kind=str(config.model_type),
        vocabulary=vocabulary,
        context_tokens=int(text.max_position_embeddings),
        stored_parameters=stored,
        stop_token_ids=_stop_token_ids(folder, where, config, tokenizer),
        tokenizer=tokenizer,
    )


def _refuse(where: str, problems: Iterable[str]) -> None:
    lines = [f"{where}: {problem}" for problem in problems]
    if lines:
        raise RecipeError(lines)


def count_parameters(model: ModelFolder) -> int:
    """Tied ones once; a model without weights is built for it, but without memory."""
    if model.stored_parameters is not None:
        return model.stored_parameters
    logs.hush_libraries()
    import torch  # seconds to import, as is transformers
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(_config(model.path, str(model.path)))
    return sum(parameter.numel() for parameter in causal.parameters())


def stop_tokens(model: ModelFolder, given: Sequence[str | int], *, field: str) -> tuple[int, ...]:
    """The model's own and those given, sorted. RecipeError: one that is given is no single token.

    A text of several tokens is refused: the engine sees tokens alone, and other tokens may spell the same text.
    """
    found, lines = set(model.stop_token_ids), []
    for index, one in enumerate(given):
        if isinstance(one, str):
            ids = model.tokenizer(one, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and ids[0] != model.tokenizer.unk_token_id:
                found.add(ids[0])
                continue
            parts = ", ".join(json.dumps(token) for token in model.tokenizer.convert_ids_to_tokens(ids)) or "none"
            reason = f"it is not one token of {model.path} ({parts[:200]})"
            lines.append(f"{field}.{index} = {json.dumps(one)}: {reason}; name a text that is, or a token's number")
        elif 0 <= one < model.vocabulary:
            found.add(one)
        else:
            reason = f"the vocabulary of {model.path} has {model.vocabulary} tokens"
            lines.append(f"{field}.{index} = {one}: {reason}; set it to 0 to {model.vocabulary - 1}")
    if lines:
        raise RecipeError(lines)
    return tuple(sorted(found))


def load_tokenizer(path: str, *, field: str) -> Any:
    """The tokenizer of a folder. RecipeError when there is none that can be read."""
    from transformers import AutoTokenizer  # seconds to import

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a broken file leads to
        raise RecipeError(
            [
                f"{field} = {path}: its tokenizer cannot be read ({_brief(error)}); copy the model's tokenizer files into it"
            ]
        ) from error


def safetensors_header(file: Path) -> dict[str, Any]:
    """Tensor name -> {dtype, shape, data_offsets}. ValueError: not a safetensors file, or one cut short."""
    with file.open("rb") as stream:
        start = stream.read(_HEADER_LENGTH.size)
        length = _HEADER_LENGTH.unpack(start)[0] if len(start) == _HEADER_LENGTH.size else 0
        if not 0 < length <= _MAX_HEADER_BYTES:
            raise ValueError("it is no safetensors file")
        header: dict[str, Any] = json.loads(stream.read(length))
    try:
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        for entry in header.values():
            _elements(entry)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError("its header is not one of safetensors") from error
    expected, size = _HEADER_LENGTH.size + length + end, file.stat().st_size
    if size != expected:
        raise ValueError(f"it has {size} bytes where its header says {expected}")
    return header


def safetensors_start(file: Path) -> bytes:
    """All that stands before the tensors. ValueError: not a safetensors file."""
    with file.open("rb") as stream:
        start = stream.read(_HEADER_LENGTH.size)
        length = _HEADER_LENGTH.unpack(start)[0] if len(start) == _HEADER_LENGTH.size else 0
        if not 0 < length <= _MAX_HEADER_BYTES:
            raise ValueError("it is no safetensors file")
        return start + stream.read(length)


def read_config(folder: Path, *, field: str) -> Any:
    """Its config.json, as transformers reads it. RecipeError: names `field` and why it cannot be read."""
    return _config(folder, f"{field} = {folder}")


def _config(folder: Path, where: str) -> Any:
    from transformers import AutoConfig  # seconds to import

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a broken file leads to
        raise RecipeError([f"{where}: its config.json cannot be read ({_brief(error)}); repair it"]) from error


def count_stored(folder: Path, field: str) -> int:
    """Elements in the folder's safetensors files, from their headers."""
    where = f"{field} = {folder}"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise RecipeError([f"{where}: {index.name} cannot be read ({_brief(error)}); copy it again"]) from error
    else:
        names = ["model.safetensors"] if (folder / "model.safetensors").is_file() else []
    if not names:
        pickled = " (its *.bin files are pickles, which are never read)" if list(folder.glob("*.bin")) else ""
        afresh = f", or set {field.split('.')[0]}.random_init=true" if field in _MAY_BE_RANDOM else ""
        raise RecipeError([f"{where}: holds no model.safetensors{pickled}; put the weights there{afresh}"])
    count = 0
    for name in names:
        try:
            header = safetensors_header(folder / name)
        except (OSError, ValueError) as error:
            raise RecipeError([f"{where}: {name} cannot be read ({_brief(error)}); copy it again"]) from error
        count += sum(_elements(entry) for entry in header.values())
    return count


def _elements(entry: Mapping[str, Any]) -> int:
    count = 1
    for size in entry["shape"]:
        count *= int(size)
    return count


def _stop_token_ids(folder: Path, where: str, config: Any, tokenizer: Any) -> tuple[int, ...]:
    stored = folder / "generation_config.json"
    try:
        generation = json.loads(stored.read_text()) if stored.is_file() else {}
        given = (generation.get("eos_token_id"), getattr(config, "eos_token_id", None), tokenizer.eos_token_id)
    except (OSError, ValueError, AttributeError) as error:
        raise RecipeError([f"{where}: {stored.name} cannot be read ({_brief(error)}); copy it again"]) from error
    found = [token for ids in given if ids is not None for token in (ids if isinstance(ids, list) else [ids])]
    if not all(isinstance(token, int) for token in found):
        raise RecipeError(
            [f"{where}: its eos_token_id is no token's number; correct it in {stored.name} or config.json"]
        )
    return tuple(sorted(set(found)))


def _brief(error: Exception) -> str:
    """What an error begins with, at most 200 characters: transformers writes essays."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    announced = 2 if lines[0].endswith(":") else 1
    return " ".join(line.strip() for line in lines[:announced])[:200]
