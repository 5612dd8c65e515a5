"""Our weight-transfer back-end for vLLM: a published version, read from local files by every tensor-parallel worker.

vLLM loads it in each of its processes, through the entry point `vllm.general_plugins`. An update has four calls:

    init_transfer_engine   map the files, hash every tensor: the last moment at which a fault costs nothing
    start_weight_update    vLLM puts its parameters aside: from here on there is no way back
    receive_weights        hand over exactly the manifest's tensors, each once
    finish_weight_update   vLLM packs and places what it was given
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from weightstore.fetch import CorruptVersion, FetchedVersion
from weightstore.manifest import Manifest

BACKEND = "headrace"


@dataclass
class StageInfo(WeightTransferInitInfo):
    """Strings only: they may cross into other processes."""

    manifest: str
    """The sealed manifest."""
    blobs: dict[str, str]
    """{blob: local file}"""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    version: str
    """Must be the one that was staged."""


class HeadraceWeightEngine(WeightTransferEngine[StageInfo, UpdateInfo]):
    """One worker's side of an update."""

    init_info_cls = StageInfo
    update_info_cls = UpdateInfo

    _staged: FetchedVersion | None = None
    _expected: frozenset[str] = frozenset()

    def init_transfer_engine(self, init_info: StageInfo) -> None:
        """Stage a version; before every update, not once in a life. CorruptVersion, OSError: nothing has changed."""
        self._staged = None
        manifest = Manifest.decode(init_info.manifest.encode())
        blobs = {name: np.memmap(path, dtype=np.uint8, mode="c") for name, path in init_info.blobs.items()}
        for entry in manifest.tensors:
            data = blobs[entry.blob][entry.offset : entry.offset + entry.nbytes]
            found = hashlib.sha256(data.data).hexdigest()
            if found != entry.sha256:
                raise CorruptVersion(f"tensor {entry.name}: expected sha256 {entry.sha256}, found {found}")
        self._staged = FetchedVersion(manifest=manifest, blobs=blobs)

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload  # needs a loaded vLLM

        # Now, while tied parameters are still one object: the reload gives each module its own.
        self._expected = frozenset(name for name, _ in self.model.named_parameters())
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        if self._staged is None or str(self._staged.manifest.version) != update_info.version:
            raise RuntimeError(f"version {update_info.version} was not staged")
        loaded = self.model.load_weights(self._staged.tensors())
        # vLLM's own loader has this check, its reload has not: what is missing would keep the old weights.
        missing = self._expected - loaded
        if missing:
            raise RuntimeError(
                f"version {update_info.version} left parameters of the model unloaded: {sorted(missing)}"
            )

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload  # needs a loaded vLLM

        finalize_layerwise_reload(self.model, self.model_config)
        for head in _tied_heads(self.model):
            head.quant_method.process_weights_after_loading(head)
        self._staged = None

    def shutdown(self) -> None:
        self._staged = None


def register() -> None:
    """The plugin's entry point. vLLM may call it several times in a process."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, HeadraceWeightEngine)


def _tied_heads(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Output heads whose weight is the embedding's.

    The reload gives them no tensor of their own, so it does not process them, and on CPU they would go on with the
    packed copy of the old weights: log-probs off by up to 1 nat, and no error anywhere.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead  # needs a loaded vLLM

    owners: set[int] = set()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, ParallelLMHead) and id(weight) in owners:
            yield module
        owners.add(id(weight))
