"""What the learner asks of whatever holds the parameters: DeepSpeed ZeRO-3 (zero.py) or plain torch (plain.py).

Names are those of the Hugging Face state dict, tied aliases once; their order is the same on every rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One parameter as it is published and checkpointed."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    """Of the forward pass; master weights and moments are float32."""


class TrainEngine(Protocol):
    """Parameters, gradients and optimizer of one rank. Every method marked (collective) is called by all ranks alike."""

    rank: int
    world_size: int
    module: torch.nn.Module
    """A train_cluster.model.PackedModel: PolicyModel or scalar.ScalarModel; `module.train()` and `.eval()` switch dropout."""

    def forward(self, **inputs: Any) -> Any:
        """(collective) The module's forward; equal numbers of calls on all ranks, or ZeRO-3 hangs."""

    def backward(self, loss: torch.Tensor) -> None:
        """(collective) Accumulate gradients. The sum over ranks and calls is the gradient (no averaging)."""

    def step(self, *, learning_rate: float) -> float:
        """(collective) Clip by the global norm, one AdamW update, clear gradients; returns the norm before clipping."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """(collective) Sum over ranks, float64 in and out."""

    def specs(self) -> Mapping[str, TensorSpec]:
        """Name -> full shape and dtype."""

    def gather(self, name: str, *, owner: int) -> torch.Tensor | None:
        """(collective) A detached copy of the full parameter in its forward dtype on the owner, None elsewhere."""

    def export_partition(self) -> dict[str, torch.Tensor]:
        """This rank's own slices, float32, copied: `{name}` master weights, `{name}.exp_avg`, `{name}.exp_avg_sq`.

        A parameter of n elements is flattened, padded to a multiple of world_size, and cut into equal slices by rank.
        Moments are zeros before the first update. `{name}.step` is the update count, a float32 scalar.
        """

    def import_partition(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse, bit for bit: the next forward, backward and step behave as if never interrupted."""

    def close(self) -> None: ...
