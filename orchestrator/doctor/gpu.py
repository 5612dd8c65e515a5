"""GPUs as NVML, the driver's own library, describes them: alike, healthy, and able to reach one another."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.disk import size
from orchestrator.doctor.finding import Finding, error, note, ok, warning

DRIVER = Path("/proc/driver/nvidia/version")
DEVICE = Path("/dev/nvidia0")


def check_gpus(nvml: Any | None = None) -> Iterator[Finding]:
    """`nvml`: the module, None = where there is a driver the one that Ray carries."""
    nvml = nvml or _library()
    if nvml is None:
        yield ok("gpu", "none")
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as failure:
        yield error(
            "gpu",
            f"NVML does not answer: {failure}",
            "a device is there, and its driver cannot be asked: no process could use it either",
            "nvidia-smi says more; in a container, start it with the NVIDIA runtime (docker run --gpus all)",
        )
        return
    try:
        yield from _look(nvml)
    finally:
        nvml.nvmlShutdown()


def facts(nvml: Any | None = None) -> dict[str, Any]:
    """What nodes are compared by: driver, CUDA version, GPUs' names with how many there are of each."""
    nvml, none = nvml or _library(), {"driver": "", "cuda": "", "gpus": {}}
    if nvml is None:
        return none
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # which the findings of that node name
        return none
    try:
        names = Counter(_text(nvml.nvmlDeviceGetName(one)) for one in _handles(nvml))
        return {"driver": _text(nvml.nvmlSystemGetDriverVersion()), "cuda": _cuda(nvml), "gpus": dict(names)}
    finally:
        nvml.nvmlShutdown()


def present() -> bool:
    """The kernel has a driver for GPUs."""
    return DRIVER.exists() or DEVICE.exists()


def _library() -> Any:
    """NVML as Ray carries it; None where the kernel has no driver for GPUs, and Ray need not be imported."""
    if not present():
        return None
    from ray._private.thirdparty import pynvml

    return pynvml


def _look(nvml: Any) -> Iterator[Finding]:
    handles = _handles(nvml)
    names = Counter(_text(nvml.nvmlDeviceGetName(one)) for one in handles)
    shown = ", ".join(f"{count} {name}" for name, count in names.items())
    found = f"{shown}; driver {_text(nvml.nvmlSystemGetDriverVersion())}, CUDA up to {_cuda(nvml)}"
    if len(names) > 1:
        why = "ranks wait for the slowest, and an engine's tensor-parallel parts must be alike"
        yield warning("gpu", found, why, "ask for one kind of GPU by custom resources: ray.resources.*.custom")
    else:
        yield ok("gpu", found)
    for index, handle in enumerate(handles):
        yield from _device(nvml, index, handle)
    yield from _peers(nvml, handles)


def _device(nvml: Any, index: int, handle: Any) -> Iterator[Finding]:
    wrong = _ecc_errors(nvml, handle)
    if wrong:
        yield error(
            f"gpu {index} memory errors",
            f"{wrong} that could not be corrected since the driver was loaded",
            "a process that meets one dies, or computes on wrong numbers",
            f"drain the node, nvidia-smi --gpu-reset -i {index}; replace the card if they come back",
        )
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    if memory.used > 0.1 * memory.total:
        yield warning(
            f"gpu {index} memory",
            f"{size(memory.used)} of {size(memory.total)} in use",
            "an engine takes generation.engine.memory_share of all of it as it starts, and fails",
            f"nvidia-smi -i {index} names the processes; end them",
        )
    if _supported(nvml, lambda: nvml.nvmlDeviceGetPersistenceMode(handle)) == 0:
        why = "the driver is unloaded whenever nobody uses the GPU, and each start waits for it"
        yield note(f"gpu {index} persistence", "off", why, "sudo nvidia-smi -pm 1")


def _ecc_errors(nvml: Any, handle: Any) -> int:
    kind, volatile = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    return int(_supported(nvml, lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, volatile)) or 0)


def _peers(nvml: Any, handles: list[Any]) -> Iterator[Finding]:
    """Whether each pair may read the other's memory: by NVLink or PCIe, as far as the driver says."""
    if len(handles) < 2:
        return
    blind = []
    for one, first in enumerate(handles):
        for other in range(one + 1, len(handles)):
            second = handles[other]
            answer = _supported(
                nvml, lambda a=first, b=second: nvml.nvmlDeviceGetP2PStatus(a, b, nvml.NVML_P2P_CAPS_INDEX_READ)
            )
            if answer not in (None, nvml.NVML_P2P_STATUS_OK):
                blind.append(f"{one}-{other}")
    links = sum(_links(nvml, handle) for handle in handles)
    found = f"{links} NVLinks up"
    if blind:
        why = "collectives between them go by way of the host's memory, several times slower"
        yield warning(
            "gpu peers",
            f"{found}; no direct access between {', '.join(blind)}",
            why,
            "nvidia-smi topo -p2p r shows why; IOMMU and ACS off in the BIOS, one PCIe switch for all",
        )
    else:
        yield ok("gpu peers", f"{found}, all pairs reach one another")


def _links(nvml: Any, handle: Any) -> int:
    active = 0
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        state = _supported(nvml, lambda at=link: nvml.nvmlDeviceGetNvLinkState(handle, at))
        active += state == nvml.NVML_FEATURE_ENABLED
    return active


def _handles(nvml: Any) -> list[Any]:
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]


def _cuda(nvml: Any) -> str:
    number = nvml.nvmlSystemGetCudaDriverVersion()
    return f"{number // 1000}.{number % 1000 // 10}"


def _supported(nvml: Any, ask: Any) -> Any:
    """The answer, None where this card or driver has none to that question."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def shown(node: Mapping[str, Any]) -> str:
    """`facts`, for people."""
    gpus = ", ".join(f"{count} {name}" for name, count in sorted(node["gpus"].items())) or "no GPU"
    return f"{gpus}; driver {node['driver']}" if node["driver"] else gpus
