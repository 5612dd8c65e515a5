"""A two-layer Llama with a character tokenizer, its published versions, and what transformers says of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experience.schema import Sampling
from weightstore import publish
from weightstore.blobs import BlobStore, FileBlobStore
from weightstore.fetch import StoreWeightSource
from weightstore.manifest import WeightVersion

EOS = 1
CONTEXT = 512
TEMPERATURE = 0.7
FIRST = WeightVersion(0, 1, 0)
SECOND = WeightVersion(0, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Both versions in a store, and the same weights in transformers."""

    folder: Path
    store: FileBlobStore
    source: StoreWeightSource
    policies: dict[int, LlamaForCausalLM]
    """By version number."""


def build(folder: Path) -> None:
    """Tied embeddings, as in SmolLM2; heads of 32, the least that vLLM's CPU attention knows."""
    vocabulary = {"<pad>": 0, "<eos>": EOS, "<unk>": 2} | {chr(code): code - 29 for code in range(32, 127)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=characters, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def policy(folder: Path, seed: int) -> LlamaForCausalLM:
    """Float32 weights of one version: far from those of any other seed, and far from uniform."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def publish_tensors(store: BlobStore, version: WeightVersion, tensors: dict[str, torch.Tensor]) -> None:
    publish.write_shard(store, version, 0, tensors)
    publish.commit(
        store,
        version,
        shards=1,
        step=version.number,
        aliases={},
        model_hash="model",
        tokenizer_hash="tokenizer",
        deadline_s=10,
        cancelled=lambda: False,
    )
    publish.record_newest(store, version, run_epoch=0)


def tensors_of(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """As the trainer publishes them: tied ones once."""
    return dict(model.named_parameters())


@torch.no_grad()
def logprobs_of(model: LlamaForCausalLM, prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
    """[L] log softmax(logits / T) of each response token given all before, float32."""
    tokens = torch.from_numpy(np.concatenate([prompt, response])).long()
    logprobs = torch.log_softmax(model(tokens[None]).logits[0] / TEMPERATURE, dim=-1)
    predicted = logprobs[len(prompt) - 1 : -1]
    return predicted.gather(1, tokens[len(prompt) :, None])[:, 0].numpy()


def sampling(max_tokens: int, *, stop: tuple[int, ...] = (), seed: int = 7) -> Sampling:
    return Sampling(temperature=TEMPERATURE, max_tokens=max_tokens, stop_token_ids=stop, seed=seed)


def prompt_tokens(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 98, length, dtype=np.int32)
