"""Examples of fine-tuning on their way from the driver, which reads and checks rows, to the ranks: one safetensors file.

    {trained | held_out}.ids [T] int32, .trained [T] uint8: the tokens, example by example; .lengths [n] int32

Imports no torch, which the driver does not need.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from train_cluster.supervised.sft_rows import Tokens

if TYPE_CHECKING:
    from train_cluster import rows

FILE = "examples.safetensors"
"""In the stage's folder."""
SIDES = ("trained", "held_out")


def split(examples: Sequence[Tokens], *, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the examples to train on and of those to hold out, ascending: `share` of the prompts, rounded.

    All examples of a prompt are on one side. Which prompts are held out follows from (seed, their tokens) alone, not from
    their order, so that rows which are added move few others.
    """
    salt = f"{seed} ".encode()
    prompts = [hashlib.sha256(salt + one.ids[: one.prompt_tokens].tobytes()).digest() for one in examples]
    held = set(sorted(set(prompts))[: round(share * len(set(prompts)))])
    return (
        [i for i, prompt in enumerate(prompts) if prompt not in held],
        [i for i, prompt in enumerate(prompts) if prompt in held],
    )


def digest(trained: Sequence[Tokens], held_out: Sequence[Tokens]) -> str:
    """SHA-256 of the examples, in order."""
    whole = hashlib.sha256()
    for side in (trained, held_out):
        whole.update(f"{len(side)}\n".encode())
        for one in side:
            whole.update(f"{len(one.ids)}\n".encode() + one.ids.tobytes() + one.trained.tobytes())
    return whole.hexdigest()


def save(path: Path, trained: Sequence[Tokens], held_out: Sequence[Tokens]) -> None:
    """Write the file, whole or not at all."""
    from safetensors.numpy import save_file

    tensors: dict[str, npt.NDArray[Any]] = {}
    for side, examples in zip(SIDES, (trained, held_out), strict=True):
        ids, marks = [one.ids for one in examples], [one.trained for one in examples]
        tensors[f"{side}.ids"] = np.concatenate([np.zeros(0), *ids]).astype(np.int32)
        tensors[f"{side}.trained"] = np.concatenate([np.zeros(0), *marks]).astype(np.uint8)
        tensors[f"{side}.lengths"] = np.array([len(one.ids) for one in examples], dtype=np.int32)
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial)
    partial.replace(path)


def load(path: Path) -> "tuple[list[rows.Sequence], list[rows.Sequence]]":
    """The examples to train on, and those held out. ValueError: no such file here."""
    from safetensors.numpy import load_file

    if not path.is_file():
        raise ValueError(f"{path}: is not there on this node; run.root must be a folder that all ranks share")
    tensors = load_file(path)
    trained, held_out = (_examples(tensors, side) for side in SIDES)
    return trained, held_out


def _examples(tensors: dict[str, npt.NDArray[Any]], side: str) -> "list[rows.Sequence]":
    from train_cluster.rows import Sequence as Example

    ends = np.cumsum(tensors[f"{side}.lengths"])[:-1]
    marks = tensors[f"{side}.trained"].astype(np.bool_)
    found = []
    for ids, trained in zip(np.split(tensors[f"{side}.ids"], ends), np.split(marks, ends), strict=True):
        if len(ids):  # np.split makes one empty part of nothing
            first = int(trained.argmax())
            found.append(
                Example(prompt=ids[:first], response=ids[first:], response_mask=trained[first:], temperature=1.0)
            )
    return found
