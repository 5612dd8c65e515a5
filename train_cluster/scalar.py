"""A language model with a scalar head: a reward model under training, or a critic.

Its folder is an ordinary one of transformers' `...ForSequenceClassification` with one label: the body under its own
prefix, `score.weight` [1, E] without a bias. The reward of an answer is the score at its last token; as a critic, the
score at a place is the value of having come there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from train_cluster.model import PackedModel, check_publishable, read_config, save_folder

HEAD = "score.weight"

Head = Literal["from_folder", "fresh", "zeros"]
"""from_folder: a reward-model folder with its own head; fresh: drawn from the seed, normal with variance 1 / (E + 1)
(Stiennon et al. 2020, arXiv 2009.01325, section 3.4); zeros: every score is 0 until the first update."""


class ScalarHead(nn.Module):
    """Takes the place of `score`, with its parameter under its name; adds up in float32 whatever the dtype."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden_NE: torch.Tensor) -> torch.Tensor:
        """[N] float32."""
        return F.linear(hidden_NE.float(), self.weight.float()).squeeze(-1)


class ScalarModel(PackedModel):
    """Scores at chosen places of one packed row."""

    def __init__(self, classifier: Any) -> None:
        classifier.score = ScalarHead(classifier.score.weight)
        super().__init__(classifier)

    def forward(self, *, tokens: torch.Tensor, positions: torch.Tensor, predict_index: torch.Tensor) -> torch.Tensor:
        """[N] float32 scores of the sequences' tokens up to predict_index[n], that one included.

        tokens, positions: [1, T], positions count from 0 in each packed sequence; predict_index: [N] places in the row.
        """
        return self.pretrained.score(self.hidden(tokens, positions, predict_index))


def load_scalar(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    attention_dropout: float = 0.0,
    seed: int = 0,
    gradient_checkpointing: bool = False,
    head: Head = "from_folder",
    random_init: bool = False,
) -> ScalarModel:
    """The model of a local folder: of a reward model, or of a causal one (`head` says fresh or zeros).

    `random_init` builds the body from config.json alone; what is drawn is the same for the same seed. ValueError: no such folder,
    weights that are missing, or an architecture without a scalar head.
    """
    config, implementation = read_config(path, attention_dropout=attention_dropout)
    if head == "from_folder" and config.num_labels != 1:
        raise ValueError(
            f"model: {path} is no reward model (it has {config.num_labels} labels or a language model's head, not one "
            "score); give the folder that `headrace reward train` wrote"
        )
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = _build(path, config, implementation, dtype=dtype, seed=seed, head=head, random_init=random_init)
    if gradient_checkpointing:
        classifier.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    check_publishable(classifier, path)
    return ScalarModel(classifier)


def save_scalar_folder(path_out: str | Path, model_path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a reward-model folder: tokenizer and adapted config of `model_path` (of either kind), these tensors.

    ValueError: `path_out` exists.
    """
    save_folder(path_out, model_path, tensors, config=scalar_config(model_path))


def has_scalar_head(path: str | Path) -> bool:
    """Whether a folder is one of a reward model, by its config.json. ValueError: there is none."""
    config, _ = read_config(path, attention_dropout=0.0)
    return config.num_labels == 1


def scalar_config(model_path: str | Path) -> dict[str, Any]:
    """The config.json of a reward model on the architecture of `model_path`.

    One label, and `regression`, by which vLLM's pooling runner leaves the score as it is. A padding token that also
    ends sequences is taken out: transformers would pass over the end token and score the one before it.
    """
    config = json.loads((Path(model_path) / "config.json").read_text())
    architecture = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(config["model_type"])
    if architecture is None:
        raise ValueError(f"model: {model_path}: transformers knows no {config['model_type']} with a scalar head")
    ends = config.get("eos_token_id")
    pad = config.get("pad_token_id")
    return config | {
        "architectures": [architecture],
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "problem_type": "regression",
        "pad_token_id": None if pad in (ends if isinstance(ends, list) else [ends]) else pad,
    }


def _build(
    path: str | Path,
    config: Any,
    implementation: str,
    *,
    dtype: torch.dtype,
    seed: int,
    head: Head,
    random_init: bool,
) -> Any:
    if random_init:
        # Drawn in float32 whatever the dtype, so that the same seed means the same weights.
        classifier = AutoModelForSequenceClassification.from_config(
            config, dtype=torch.float32, attn_implementation=implementation
        )
    else:
        classifier, found = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=implementation,
            local_files_only=True,
            output_loading_info=True,
        )
        missing = sorted(set(found["missing_keys"]) - ({HEAD} if head != "from_folder" else set()))
        if missing:  # transformers draws them at random, with a warning
            raise ValueError(f"model: {path} lacks {len(missing)} of its weights ({missing[0]} …); copy it again")
    score = getattr(classifier, "score", None)
    if not isinstance(score, nn.Linear) or score.weight.shape[0] != 1:
        raise ValueError(f"model: {path}: {type(classifier).__name__} has no scalar head named {HEAD}")
    if head != "from_folder":
        width = score.weight.shape[1]
        drawn = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) * (width + 1) ** -0.5
        score.weight.data.copy_(drawn if head == "fresh" else torch.zeros(1, width))
    return classifier.to(dtype)
