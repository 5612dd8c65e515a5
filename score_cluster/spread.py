"""A frozen model on several GPUs: the layers one after the other, each GPU with its share, hidden states passed on.

One GPU works at a time, so it buys room, not speed: scorers beside one another buy that.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn


def homes(layers: int, devices: int) -> list[int]:
    """[layers] the device of each layer: shares that differ by one at most, the larger ones first."""
    share, larger = divmod(layers, devices)
    return [device for device in range(devices) for _ in range(share + (device < larger))]


def spread(model: Any, devices: Sequence[torch.device], *, prepare: Callable[[nn.Module], None], field: str) -> None:
    """Put a transformers decoder on these devices, part by part; `prepare` has each part before it is moved.

    ValueError: its layers are in no list, or are fewer than the devices. `field`: of the recipe, for errors.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) < len(devices):
        count = len(layers) if isinstance(layers, nn.ModuleList) else "no"
        raise ValueError(
            f"{field}.gpus = {len(devices)}: {type(model).__name__} has {count} layers in a row to spread; lower it"
        )
    for layer, home in zip(layers, homes(len(layers), len(devices)), strict=True):
        _place(layer, devices[home], prepare)
    for part, comes_last in _ends(model):
        _place(part, devices[-1 if comes_last else 0], prepare)


def _ends(model: Any) -> Iterator[tuple[nn.Module, bool]]:
    """The parts beside the layers, and whether they come after them: norm and head do, but a head that is the embedding
    stays with it."""
    behind = False
    for name, part in model.base_model.named_children():
        if name == "layers":
            behind = True
        else:
            yield part, behind and any(True for _ in part.parameters())
    embedding = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    for part in model.children():
        if part is not model.base_model:
            yield part, embedding.isdisjoint(id(parameter) for parameter in part.parameters())


def _place(part: nn.Module, device: torch.device, prepare: Callable[[nn.Module], None]) -> None:
    prepare(part)
    part.to(device)
    part.register_forward_pre_hook(
        lambda _, args, kwargs: (_moved(args, device), _moved(kwargs, device)), with_kwargs=True
    )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _moved(one, device) for name, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(one, device) for one in value)
    return value
