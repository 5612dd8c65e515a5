"""The reference: a frozen language model that says how likely it would have made each response token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from experience.schema import Float32Array, Int32Array
from score_cluster.batching import micro_batches
from score_cluster.config import ReferenceConfig
from score_cluster.frozen import check_folder, load_frozen, load_spread

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """One completion to be judged."""

    prompt: Int32Array
    """[P], P >= 1"""
    tokens: Int32Array
    """[L]"""
    temperature: float
    """The one it was sampled at."""


class Reference(Protocol):
    def logprobs(self, responses: Sequence[Response]) -> list[Float32Array]:
        """[L] log pi_ref(token | prefix) of each response, in nats, logits divided by the temperature; order kept."""


class HfReference:
    """A causal language model from a local Hugging Face folder."""

    def __init__(self, config: ReferenceConfig, *, model_path: str, threads: int) -> None:
        """Load and freeze the model. ValueError: no such folder, another vocabulary than the policy's, no INT8 form.

        model_path: the policy's initial model, also the reference when the config names none.
        threads: intra-op threads, set for the whole process.
        """
        from transformers import AutoModelForCausalLM

        path = config.path or model_path
        _check_folders(path, model_path)
        settings: Any = {"precision": config.precision, "threads": threads}
        if config.gpus > 1:
            devices = _gpus(config.gpus)
            self._model = load_spread(
                AutoModelForCausalLM, path, devices=devices, field="scoring.reference", **settings
            )
        else:
            self._model = load_frozen(AutoModelForCausalLM, path, field="scoring.reference.path", **settings)
        self._limit = config.micro_batch_tokens

    def logprobs(self, responses: Sequence[Response]) -> list[Float32Array]:
        """See `Reference`. Sequences are padded and share forward passes of at most `micro_batch_tokens` tokens."""
        for response in responses:
            _check(response, vocabulary=self._model.config.vocab_size)
        empty = np.zeros(0, dtype=np.float32)
        empty.setflags(write=False)
        out: list[Float32Array] = [empty] * len(responses)
        judged = [index for index, response in enumerate(responses) if len(response.tokens)]
        lengths = [len(responses[index].prompt) + len(responses[index].tokens) for index in judged]
        for batch in micro_batches(lengths, limit=self._limit):
            indices = [judged[position] for position in batch]
            for index, values in zip(indices, self._forward([responses[i] for i in indices]), strict=True):
                out[index] = values
        return out

    def _forward(self, batch: Sequence[Response]) -> list[Float32Array]:
        """One pass over right-padded sequences; logits only where some row has a response token to predict.

        No attention mask: under causal attention no real token sees the padding behind it.
        """
        import torch

        longest = max(len(r.prompt) + len(r.tokens) for r in batch)
        tokens_BT = torch.zeros(len(batch), longest, dtype=torch.int64)
        for row, response in enumerate(batch):
            joined = np.concatenate([response.prompt, response.tokens])
            tokens_BT[row, : len(joined)] = torch.from_numpy(joined)
        first = min(len(r.prompt) for r in batch) - 1  # position t predicts token t + 1
        with torch.inference_mode():
            tokens_BT = tokens_BT.to(self._model.device)
            kept = torch.arange(first, longest - 1)  # on the CPU: the layers may be on several devices
            logits_BTV = self._model(input_ids=tokens_BT, use_cache=False, logits_to_keep=kept).logits
            return [_gather(logits_BTV[row], response, first=first) for row, response in enumerate(batch)]


def _gpus(count: int) -> "list[torch.device]":
    """ValueError: this process sees fewer. On a machine without any, the CPU takes the place of each."""
    import torch

    if not torch.cuda.is_available():
        return [torch.device("cpu")] * count
    if torch.cuda.device_count() < count:
        raise ValueError(
            f"scoring.reference.gpus = {count}: this scorer sees {torch.cuda.device_count()}; "
            f"set ray.resources.scoring.gpus={count}"
        )
    return [torch.device("cuda", index) for index in range(count)]


def _gather(logits_TV: "torch.Tensor", response: Response, *, first: int) -> Float32Array:
    """Log-softmax of one row at its response tokens; row by row, so that only one float32 copy lives at a time."""
    import torch

    start = len(response.prompt) - 1 - first
    logits_LV = logits_TV[start : start + len(response.tokens)].float() / response.temperature
    tokens_L = torch.from_numpy(response.tokens.astype(np.int64)).to(logits_LV.device)
    chosen_L = logits_LV.gather(-1, tokens_L[:, None])[:, 0]
    values: Float32Array = (chosen_L - logits_LV.logsumexp(-1)).cpu().numpy()
    values.setflags(write=False)
    return values


def _check(response: Response, *, vocabulary: int) -> None:
    if not len(response.prompt):
        raise ValueError("an empty prompt: nothing predicts the first response token")
    if response.temperature <= 0:
        raise ValueError(f"temperature {response.temperature} must be above 0")
    highest = max(int(array.max()) for array in (response.prompt, response.tokens) if len(array))
    if highest >= vocabulary:
        raise ValueError(f"token {highest} is outside the reference's vocabulary of {vocabulary}")


def _check_folders(path: str, model_path: str) -> None:
    from transformers import AutoConfig

    check_folder(path, field="scoring.reference.path")
    sizes = [AutoConfig.from_pretrained(folder, local_files_only=True).vocab_size for folder in (path, model_path)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"scoring.reference.path = {path}: has a vocabulary of {sizes[0]}, the policy {model_path} one of {sizes[1]}; "
            "name a reference of the policy's own family, or null for its initial model"
        )
