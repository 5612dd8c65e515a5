"""The engine without DeepSpeed: one process, torch AdamW in float32. For tests, and the reference for the other one."""

from collections.abc import Mapping
from typing import Any

import torch

from train_cluster.config import OptimizerConfig
from train_cluster.engine import TensorSpec
from train_cluster.model import PackedModel, published_parameters


class PlainEngine:
    """A TrainEngine of world size 1."""

    rank = 0
    world_size = 1

    def __init__(self, module: PackedModel, *, optimizer: OptimizerConfig) -> None:
        """ValueError: the model is not in float32."""
        self.module: torch.nn.Module = module
        self._parameters = published_parameters(module)
        wrong = {str(p.dtype) for p in self._parameters.values()} - {str(torch.float32)}
        if wrong:
            raise ValueError(f"PlainEngine trains float32 models, not {', '.join(sorted(wrong))}")
        self._gradient_clip = optimizer.gradient_clip
        self._adam = torch.optim.AdamW(
            self._parameters.values(),
            lr=0.0,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
        )

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, *, learning_rate: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._gradient_clip)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return float(norm)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values.double()

    def specs(self) -> Mapping[str, TensorSpec]:
        return {name: TensorSpec(shape=tuple(p.shape), dtype=p.dtype) for name, p in self._parameters.items()}

    def gather(self, name: str, *, owner: int) -> torch.Tensor | None:
        return self._parameters[name].detach().clone() if owner == self.rank else None

    def export_partition(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters.items():
            state = self._adam.state.get(parameter, {})
            zeros = torch.zeros_like(parameter)
            tensors[name] = parameter.detach().flatten().clone()
            tensors[f"{name}.exp_avg"] = state.get("exp_avg", zeros).flatten().clone()
            tensors[f"{name}.exp_avg_sq"] = state.get("exp_avg_sq", zeros).flatten().clone()
            tensors[f"{name}.step"] = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32).clone()
        return tensors

    def import_partition(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._adam.zero_grad(set_to_none=True)
        for name, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[name].view_as(parameter))
            self._adam.state[parameter] = {
                "step": tensors[f"{name}.step"].clone(),
                "exp_avg": tensors[f"{name}.exp_avg"].view_as(parameter).clone(),
                "exp_avg_sq": tensors[f"{name}.exp_avg_sq"].view_as(parameter).clone(),
            }

    def close(self) -> None:
        """Nothing to release."""
