"""Model folders of the shapes that the large recipes name: a config.json, a tokenizer of 31 tokens, and a safetensors file
that is all header, its bytes a hole on the disk."""

import json
import struct
from pathlib import Path

from orchestrator_folders import write_tokenizer

VOCABULARY = 128256
SHAPES = {
    "8b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336},
    "70b": {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672},
    "405b": {"hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128, "intermediate_size": 53248},
}
PARAMETERS = {"8b": 8_030_261_248, "70b": 70_553_706_496, "405b": 405_853_388_800}
"""As their publisher counts them."""


def write_llama(folder: Path, size: str, *, reward: bool = False) -> Path:
    """`reward`: with a scalar head in place of the output layer."""
    shape, folder_config = SHAPES[size], {}
    if reward:
        folder_config = {"num_labels": 1, "id2label": {"0": "LABEL_0"}}
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForSequenceClassification" if reward else "LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config | shape | folder_config))
    write_tokenizer(folder, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    head = VOCABULARY * shape["hidden_size"] - shape["hidden_size"] if reward else 0
    _write_hole(folder / "model.safetensors", elements=PARAMETERS[size] - head)
    return folder


def _write_hole(file: Path, *, elements: int) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}}).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + 2 * elements)
