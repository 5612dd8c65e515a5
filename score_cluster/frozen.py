"""Loads a frozen model from a local Hugging Face folder, whole or not at all, in the precision asked for."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from score_cluster.reward_config import Precision

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def check_folder(path: str, *, field: str) -> None:
    """ValueError: no config, or no weights."""
    if not (Path(path) / "config.json").is_file():
        raise ValueError(f"{field} = {path}: is no model folder (it has no config.json); name a Hugging Face folder")
    if not any(Path(path).glob("*.safetensors")):
        raise ValueError(f"{field} = {path}: has no weights (*.safetensors); name a folder that has them")


def load_frozen(auto_class: Any, path: str, *, precision: Precision, threads: int, field: str) -> Any:
    """The model in evaluation mode on this process's device. ValueError: weights that are missing, no INT8 form.

    auto_class: of transformers. threads: intra-op threads, set for the whole process. field: of the recipe, for errors.
    """
    import torch

    from score_cluster.int8 import quantize, weight_bytes

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model, found = auto_class.from_pretrained(path, dtype=dtype, local_files_only=True, output_loading_info=True)
    _check_found(found, path, field)
    model = model.eval().requires_grad_(False)
    if precision in ("int8", "int8_weights"):
        quantize(model, activations=precision == "int8", field=field)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    _log(path, precision, weight_bytes(model))
    return model


def load_spread(
    auto_class: Any, path: str, *, precision: Precision, devices: "Sequence[torch.device]", threads: int, field: str
) -> Any:
    """The same on several devices. It passes through main memory part by part: only files that the system has mapped are
    there as a whole. `field`: of the recipe's section. ValueError as well: too few layers."""
    import torch

    from score_cluster.int8 import part_quantizer, weight_bytes
    from score_cluster.spread import spread

    torch.set_num_threads(threads)
    model, found = auto_class.from_pretrained(path, dtype="auto", local_files_only=True, output_loading_info=True)
    _check_found(found, path, f"{field}.path")
    model = model.eval().requires_grad_(False)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    in_int8 = precision in ("int8", "int8_weights")
    quantize_part = part_quantizer(model, activations=precision == "int8") if in_int8 else None

    def prepare(part: "torch.nn.Module") -> None:
        for parameter in part.parameters():  # not buffers: positions stay in float32
            parameter.data = parameter.data.to(dtype)
        if quantize_part is not None:
            quantize_part(part)

    spread(model, devices, prepare=prepare, field=field)
    _log(path, precision, weight_bytes(model))
    return model


def _check_found(found: Mapping[str, Any], path: str, field: str) -> None:
    if missing := sorted(found["missing_keys"]):  # transformers draws them at random, with a warning
        raise ValueError(f"{field} = {path}: lacks {len(missing)} of its weights ({missing[0]} …); copy it again")


def _log(path: str, precision: Precision, size: int) -> None:
    logger.info("frozen model loaded", extra={"path": path, "precision": precision, "weight_bytes": size})


def load_tokenizer(path: str, *, field: str) -> Any:
    """ValueError: there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a broken file leads to
        brief = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{field} = {path}: its tokenizer cannot be read ({brief}); copy the model's tokenizer files into it"
        ) from error


def tokenizer_difference(one: Any, other: Any) -> str | None:
    """What tells two tokenizers apart, as far as token ids go; None where both mean the same by every id."""
    vocabulary, others = one.get_vocab(), other.get_vocab()
    if vocabulary != others:
        odd = sorted(vocabulary.items() ^ others.items(), key=lambda item: (item[1], item[0]))
        return f"{len({name for name, _ in odd})} tokens are numbered otherwise or are in one of them only, as {odd[0][0]!r}"
    for name in ("bos_token_id", "eos_token_id", "unk_token_id"):
        if getattr(one, name) != getattr(other, name):
            return f"{name} is {getattr(one, name)} in the one and {getattr(other, name)} in the other"
    return None
