"""In which type a rank reads a model folder: never one that rounds what its masters should have. Seconds: 1."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from train_cluster.model import loading_dtype


@pytest.mark.parametrize(
    ("stored", "dtype", "random_init", "expected"),
    [
        (("bfloat16",), "bfloat16", False, "bfloat16"),
        (("bfloat16", "float32"), "bfloat16", False, "float32"),  # one file of float32: masters keep its digits
        (("float16",), "bfloat16", False, "float32"),
        (("bfloat16",), "float32", False, "float32"),
        ((), "bfloat16", True, "float32"),  # drawn in float32, whatever the dtype
    ],
)
def test_a_folder_is_read_as_it_is_stored_only_where_nothing_is_lost(
    stored: tuple[str, ...], dtype: str, random_init: bool, expected: str, tmp_path: Path
) -> None:
    for index, kind in enumerate(stored):
        save_file({"w": torch.zeros(2, dtype=getattr(torch, kind))}, tmp_path / f"model-{index}.safetensors")
    assert loading_dtype(tmp_path, dtype=dtype, random_init=random_init) == getattr(torch, expected)  # type: ignore[arg-type]
