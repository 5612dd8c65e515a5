"""The policy: a causal language model from a Hugging Face folder, asked only for log-probs of chosen tokens.

What it shares with the other model that is trained here, the one with a scalar head (scalar.py), stands here too.
"""

import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from train_cluster import attention
from train_cluster.head import Entropy, LogprobHead

PACKED_ATTENTION_MODELS = frozenset({"llama", "qwen2", "qwen3"})
"""Architectures whose attention is plain and causal in every layer. The others take transformers' own attention, which
finds the sequences of a row by their positions as well, at the price of a [T, T] mask on CPU."""

FOLDER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
"""What a folder holds beside weights, by pattern; copied as it is."""


class PackedModel(nn.Module):
    """A transformers model that reads packed rows; usable under ZeRO-3 (every parameter by a submodule's call)."""

    def __init__(self, pretrained: Any) -> None:
        """`pretrained`: the whole model, head included; its parameter names are those of checkpoints and folders."""
        super().__init__()
        self.pretrained = pretrained
        self.packed_attention = pretrained.config._attn_implementation == attention.NAME

    def hidden(self, tokens: torch.Tensor, positions: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """[N, E] last hidden states at the chosen places [N] of a row; tokens, positions: [1, T].

        Positions count from 0 in each packed sequence, and no sequence sees another.
        """
        extra = {"segments": attention.find_segments(positions[0])} if self.packed_attention else {}
        # use_cache would make transformers overlook where a packed sequence begins.
        output = self.pretrained.base_model(input_ids=tokens, position_ids=positions, use_cache=False, **extra)
        return output.last_hidden_state[0].index_select(0, chosen)

    @property
    def has_dropout(self) -> bool:
        """Whether train() and eval() differ."""
        layers = (module for module in self.modules() if isinstance(module, nn.Dropout))
        return getattr(self.pretrained.config, "attention_dropout", 0.0) > 0 or any(layer.p > 0 for layer in layers)


class PolicyModel(PackedModel):
    """Log-probs of the response tokens of one packed row."""

    def __init__(self, causal: Any) -> None:
        causal.set_output_embeddings(LogprobHead(causal.get_output_embeddings()))
        super().__init__(causal)

    @property
    def causal(self) -> Any:
        """The transformers model."""
        return self.pretrained

    def forward(
        self,
        *,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        predict_index: torch.Tensor,
        targets: torch.Tensor,
        temperature: float | torch.Tensor,
        entropy: Entropy = "none",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log pi(targets[n] | the tokens of its sequence up to predict_index[n]), nats, at the temperature; entropies.

        tokens, positions: [1, T], positions count from 0 in each packed sequence; predict_index, targets: [N], the
        place of the hidden state that predicts a target, and the target; temperature: one, or [N]. Hidden states are
        selected before the head, so logits exist for N tokens only, in chunks. Both results are [N] float32.
        """
        hidden_NE = self.hidden(tokens, positions, predict_index)
        temperature_N = torch.as_tensor(temperature, dtype=torch.float32, device=targets.device).expand_as(targets)
        return self.pretrained.get_output_embeddings()(hidden_NE, targets, temperature_N, entropy)


def load_policy(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    attention_dropout: float = 0.0,
    random_init: bool = False,
    seed: int = 0,
    gradient_checkpointing: bool = False,
) -> PolicyModel:
    """The model of a local folder; `random_init` builds it from config.json alone, the same for the same seed.

    ValueError: no such folder, weights that are missing, or a model that cannot be published by its parameters.
    """
    config, implementation = read_config(path, attention_dropout=attention_dropout)
    if random_init:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Drawn in float32 whatever the dtype, so that the same seed means the same weights.
            causal = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=implementation)
        causal = causal.to(dtype)
    else:
        causal, found = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=implementation,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(found["missing_keys"]):  # transformers draws them at random, with a warning
            raise ValueError(f"model: {path} lacks {len(missing)} of its weights ({missing[0]} …); copy it again")
    if gradient_checkpointing:
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    check_publishable(causal, path)
    return PolicyModel(causal)


def read_config(path: str | Path, *, attention_dropout: float) -> tuple[Any, str]:
    """The configuration of a model folder, and the attention that reads packed rows. ValueError: no such folder."""
    if not (Path(path) / "config.json").is_file():
        raise ValueError(f"model: {path} holds no config.json; give the folder of a Hugging Face model")
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    config.attention_dropout = attention_dropout
    return config, attention.NAME if _takes_packed_attention(config) else "sdpa"


def loading_dtype(path: str | Path, *, dtype: Literal["float32", "bfloat16"], random_init: bool) -> torch.dtype:
    """In which a rank reads a folder without losing anything that its float32 masters should have.

    bfloat16 where the forward pass uses it and the files hold nothing else: then the tensors are the files themselves, mapped
    once for all ranks of a node, and no rank has a copy of the model in main memory.
    """
    if random_init or dtype == "float32":
        return torch.float32
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            if any(opened.get_slice(name).get_dtype() != "BF16" for name in opened.keys()):  # noqa: SIM118, no mapping
                return torch.float32
    return torch.bfloat16


def published_parameters(model: PackedModel) -> dict[str, nn.Parameter]:
    """Parameters by their Hugging Face state-dict name, each once (a tied one under its first name), in a fixed order."""
    return dict(model.pretrained.named_parameters())


def tied_aliases(model: PackedModel) -> dict[str, str]:
    """Further names of tied parameters: alias -> published name."""
    names = {id(parameter): name for name, parameter in model.pretrained.named_parameters()}
    every = model.pretrained.named_parameters(remove_duplicate=False)
    return {alias: names[id(parameter)] for alias, parameter in every if names[id(parameter)] != alias}


def save_folder(
    path_out: str | Path,
    model_path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write an ordinary Hugging Face folder: config and tokenizer of `model_path`, these tensors, whole or not at all.

    `config`: takes the place of its config.json. ValueError: `path_out` exists.
    """
    out = Path(path_out)
    if out.exists():
        raise ValueError(f"{out} exists; name a folder that does not")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in sorted(Path(model_path).iterdir()):
        if any(fnmatch(file.name, pattern) for pattern in FOLDER_FILES):
            shutil.copyfile(file, partial / file.name)
    if config is not None:
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, partial / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(partial / "config.json", partial / "model.safetensors")  # safetensors writes for the owner alone
    partial.rename(out)


def _takes_packed_attention(config: Any) -> bool:
    layer_types = getattr(config, "layer_types", None) or []
    return config.model_type in PACKED_ATTENTION_MODELS and set(layer_types) <= {"full_attention"}


def check_publishable(causal: nn.Module, path: str | Path) -> None:
    """Publication and checkpoints go through parameters; a state dict that holds more would be published in part."""
    parameters = {name for name, _ in causal.named_parameters(remove_duplicate=False)}
    buffers = sorted(set(causal.state_dict()) - parameters)
    if buffers:
        raise ValueError(
            f"model: {path} keeps state outside its parameters ({buffers[0]} …); it cannot be trained here"
        )
