"""The train engine on DeepSpeed ZeRO-3: parameters, gradients and moments cut into one slice a rank.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", stage 3. The group must
have been joined (distributed.join) before an engine is built. DeepSpeed's public API neither sees nor sets all the state
that must survive bit for bit, so this file, and no other, reaches into its stage-3 optimizer.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import distributed

from train_cluster.config import OptimizerConfig, TrainingConfig
from train_cluster.engine import TensorSpec
from train_cluster.model import PackedModel, published_parameters

PERSIST_BELOW = 100_000
"""Elements; a smaller parameter stays whole on every rank, since gathering it costs latency, not bandwidth."""
SUB_GROUP_ELEMENTS = 20_000_000
"""Elements updated together: bounds the copy of the gradients that DeepSpeed makes for each update to 80 MB."""
BUCKET_ELEMENTS = 20_000_000
"""Elements of gradient reduced together."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroEngine:
    """A `train_cluster.engine.TrainEngine` over all ranks of the process group."""

    def __init__(
        self,
        module: PackedModel,
        *,
        config: TrainingConfig,
        rank: int,
        world_size: int,
        persist_below: int = PERSIST_BELOW,
        updated: Callable[[], None] = lambda: None,
        cut_first: bool | None = None,
    ) -> None:
        """`updated` is called after each update, inside the step of the learner. `cut_first`: a parameter goes to the device and
        is cut to its slice there before the next one does; None = on GPUs, which would have to hold the whole model otherwise.
        """
        import deepspeed  # heavy, and its accelerator is chosen by the environment that join() sets

        self.rank = rank
        self.world_size = world_size
        self._updated = updated
        self._coalesces = world_size == 1 and config.dtype == "float32"
        self._coalescing = ExitStack()
        self.module: torch.nn.Module = module
        self._parameters = published_parameters(module)
        masters = {name: self._cut(parameter.detach().float()) for name, parameter in self._parameters.items()}
        settings = _deepspeed_config(config, world_size=world_size, persist_below=persist_below)
        if torch.cuda.is_available() if cut_first is None else cut_first:
            _cut_one_by_one(module, config, settings)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=_adamw(module, config.optimizer), config=settings
        )
        self._adam: torch.optim.Optimizer = self._optimizer.optimizer
        for flat in self._optimizer.fp32_partitioned_groups_flat:
            self._adam.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32),
                **{moment: torch.zeros_like(flat) for moment in MOMENTS},
            }
        # DeepSpeed takes the masters from weights already rounded to bfloat16, and leaves the padding unset.
        self._write({(name, None): piece for name, piece in masters.items()})

    # -- one update --------------------------------------------------------------------------------------------------
    def forward(self, **inputs: Any) -> Any:
        return self._engine(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        if self._coalesces and not self._engine.inside_no_sync_ctxt:
            # Alone, gradients need not leave their parameters before the update: it saves about half a second of
            # copying a micro-batch at 135M parameters. Not in bfloat16, in which they must not be summed.
            self._coalescing.enter_context(self._engine.coalesce_grad_reduction())
        self._engine.backward(loss * self.world_size)  # DeepSpeed averages over the ranks; the contract is the sum

    def step(self, *, learning_rate: float) -> float:
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        if self._coalesces:
            self._coalescing.close()
        self._engine.step()
        self._updated()
        # DeepSpeed skips an update whose gradient is not finite, and says so by an infinite norm.
        return float(self._engine.get_global_grad_norm())

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        total = values.detach().to(self._engine.device, torch.float64, copy=True)
        if self.world_size > 1:
            distributed.all_reduce(total)
        return total.to(values.device)

    # -- parameters out ----------------------------------------------------------------------------------------------
    def specs(self) -> dict[str, TensorSpec]:
        return {
            name: TensorSpec(shape=tuple(parameter.ds_shape), dtype=parameter.ds_tensor.dtype)
            for name, parameter in self._parameters.items()
        }

    def gather(self, name: str, *, owner: int) -> torch.Tensor | None:
        parameter = self._parameters[name]
        piece = parameter.ds_tensor.detach()
        if self.world_size == 1:
            return piece[: parameter.ds_numel].reshape(parameter.ds_shape).clone()
        whole = piece.new_empty(self.world_size * piece.numel()) if self.rank == owner else None
        pieces = list(whole.chunk(self.world_size)) if whole is not None else None
        distributed.gather(piece, pieces, dst=owner)
        return None if whole is None else whole[: parameter.ds_numel].reshape(parameter.ds_shape)

    # -- state out and in --------------------------------------------------------------------------------------------
    def export_partition(self) -> dict[str, torch.Tensor]:
        tensors = {}
        for name in self._parameters:
            for key in (None, *MOMENTS):
                tensors[_label(name, key)] = self._local(name, key).detach().to("cpu", copy=True)
            tensors[_label(name, "step")] = self._state(name)["step"].detach().to("cpu", copy=True)
        return tensors

    def import_partition(self, tensors: Mapping[str, torch.Tensor]) -> None:
        expected = {_label(name, key) for name in self._parameters for key in (None, *MOMENTS, "step")}
        if expected != set(tensors):
            odd = sorted(expected ^ set(tensors))
            raise ValueError(f"partition: {len(odd)} names are missing or unknown, the first is {odd[0]}")
        for name in self._parameters:
            self._state(name)["step"].copy_(tensors[_label(name, "step")])
        self._write({(name, key): tensors[_label(name, key)] for name in self._parameters for key in (None, *MOMENTS)})

    def close(self) -> None:
        self._engine.destroy()

    # -- inside DeepSpeed --------------------------------------------------------------------------------------------
    def _write(self, pieces: Mapping[tuple[str, str | None], torch.Tensor]) -> None:
        """Set this rank's masters (key None) and moments, and whatever the forward pass reads."""
        # Before the masters change: partitioning afterwards would keep stale whole copies as available.
        self._optimizer._partition_all_parameters()
        with torch.no_grad():
            for (name, key), piece in pieces.items():
                local = self._local(name, key)
                if local.shape != piece.shape:
                    raise ValueError(
                        f"partition: {_label(name, key)} has {piece.numel()} elements, not {local.numel()}"
                    )
                local.copy_(piece)
            for index in range(len(self._optimizer.fp16_groups)):
                self._optimizer._reassign_or_swap_out_partitioned_parameters(index)
        self._optimizer._post_step(set())

    def _local(self, name: str, key: str | None) -> torch.Tensor:
        """View of this rank's float32 slice of a master (key None) or moment."""
        group, offset, count = self._position(name)
        flat = self._optimizer.fp32_partitioned_groups_flat[group]
        return (flat if key is None else self._adam.state[flat][key]).narrow(0, offset, count)

    def _state(self, name: str) -> dict[str, torch.Tensor]:
        return self._adam.state[self._optimizer.fp32_partitioned_groups_flat[self._position(name)[0]]]

    def _position(self, name: str) -> tuple[int, int, int]:
        """Sub-group, offset in its flat buffer, elements."""
        return self._optimizer.grad_position[self._optimizer.get_param_id(self._parameters[name])]

    def _cut(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's slice of a whole tensor: flattened, padded with zeros to equal slices."""
        count = -(-whole.numel() // self.world_size)
        piece = whole.reshape(-1)[self.rank * count : (self.rank + 1) * count]
        return torch.nn.functional.pad(piece, (0, count - piece.numel())).clone()


def _cut_one_by_one(module: torch.nn.Module, config: TrainingConfig, settings: dict[str, Any]) -> None:
    """Parameters in the forward dtype, cut to slices on the device; buffers whole there."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16 if config.dtype == "bfloat16" else torch.float32)
    deepspeed.zero.Init(module=module, config_dict_or_path=settings)
    for buffer in module.buffers():
        buffer.data = buffer.data.to(get_accelerator().current_device_name())


def _label(name: str, key: str | None) -> str:
    return name if key is None else f"{name}.{key}"


def _adamw(module: torch.nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused: one pass over memory in place of about ten, on CPU as well."""
    return torch.optim.AdamW(
        module.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _deepspeed_config(config: TrainingConfig, *, world_size: int, persist_below: int) -> dict[str, Any]:
    return {
        "train_batch_size": world_size,  # unused: the learner packs its own micro-batches
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # backward() accumulates until step(), however often it was called
        "gradient_clipping": config.optimizer.gradient_clip,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",  # gradients are summed in float32, whatever the forward pass uses
        "zero_optimization": {
            "stage": 3,
            # Alone, a rank has nothing to scatter, and DeepSpeed's other path copies each gradient once less.
            "reduce_scatter": world_size > 1,
            "contiguous_gradients": world_size == 1,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "sub_group_size": SUB_GROUP_ELEMENTS,
            "stage3_param_persistence_threshold": persist_below,
            "overlap_comm": torch.cuda.is_available(),  # a CPU has no second stream to overlap with
            "memory_efficient_linear": False,
            "override_module_apply": False,
        },
    }
