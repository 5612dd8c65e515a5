"""INT8 inference of a frozen model: weights per output channel, activations per token or in float."""

from collections.abc import Callable

import torch
from torch import nn

from score_cluster.reward_config import SCALAR_HEAD


def quantize(model: nn.Module, *, activations: bool, field: str) -> None:
    """Replace the weights of all linear layers by INT8 ones, in place. ValueError: a layer it has no INT8 form for.

    Scales are symmetric, one an output channel and one a token (Dettmers et al. 2022, section 3.1: vector-wise).
    Embeddings and the head stay in float: the one is a look-up, the other decides every log-prob or score, and often they
    are one tensor. Norms and biases stay too. `field` names the recipe's key in errors.

    activations: False leaves them in float; a few large ones in a trained model spoil the scale of their token, which is
    where most of the error comes from (section 3.2 of the same paper).

    Rounding makes a log-prob depend, far below the error of INT8 itself, on what shares its forward pass: a float sum in
    another order can tip an activation to the next step. CPUs without VNNI add int8 products in 16 bits; torchao's
    reduced range keeps these sums from overflowing.
    """
    kept = float_modules(model)
    part_quantizer(model, activations=activations)(model)
    if left := _still_float(model, kept):
        raise ValueError(
            f"{field}: its precision is INT8, and {type(model).__name__} has matrices outside linear layers "
            f"({', '.join(left[:3])}{', …' if len(left) > 3 else ''}); use float32 or bfloat16"
        )


def part_quantizer(model: nn.Module, *, activations: bool) -> Callable[[nn.Module], None]:
    """What does the same to one part of the model at a time."""
    from torchao.quantization import (  # loads compiled kernels
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        quantize_,
    )
    from torchao.utils import should_reduce_range

    kept = float_modules(model)
    config = (
        Int8DynamicActivationInt8WeightConfig(
            reduce_range=should_reduce_range(next(model.parameters()).device), set_inductor_config=False
        )
        if activations
        else Int8WeightOnlyConfig(set_inductor_config=False)
    )
    return lambda part: quantize_(
        part, config, filter_fn=lambda module, _: isinstance(module, nn.Linear) and module not in kept
    )


def float_modules(model: nn.Module) -> set[nn.Module]:
    """The embeddings and the head: a language model's or a reward model's."""
    head = model.get_output_embeddings() or getattr(model, SCALAR_HEAD, None)
    return {module for module in model.modules() if isinstance(module, nn.Embedding) or module is head}


def _still_float(model: nn.Module, kept: set[nn.Module]) -> list[str]:
    from torchao.quantization import Int8Tensor

    allowed = {id(parameter) for module in kept for parameter in module.parameters()}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in allowed and not isinstance(parameter.data, Int8Tensor)
    ]


def weight_bytes(model: nn.Module) -> int:
    """Bytes that the parameters take, shared ones once, scales included."""
    from torchao.quantization import Int8Tensor

    def size(tensor: torch.Tensor) -> int:
        if isinstance(tensor, Int8Tensor):
            return tensor.qdata.nbytes + tensor.scale.nbytes
        return tensor.nbytes

    return sum(size(parameter.data) for parameter in model.parameters())
