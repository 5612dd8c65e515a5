"""Memory and use of the GPUs that this process works on, asked of NVML at each scrape; nothing where there is none."""

import importlib
import logging
import os
from collections.abc import Iterable
from typing import Any, Protocol

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Indices or unique ids of the devices that a process may use; unset = all of the machine."""


class Nvml(Protocol):
    """What is asked of the module pynvml (package nvidia-ml-py)."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        """.used and .total, bytes."""

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:  # noqa: N802
        """.gpu, percent of the last sampling period in which a kernel ran."""


class GpuCollector(Collector):
    """`headrace_gpu_…{gpu}`, gpu = the place among the devices that the process may use, from 0."""

    def __init__(self, nvml: Nvml, *, visible: str | None) -> None:
        self._nvml = nvml
        names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
        self._names = names if names is not None else [str(index) for index in range(nvml.nvmlDeviceGetCount())]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        used, total, busy = families = self._families()
        for place, name in enumerate(self._names):
            try:
                handle = self._handle(name)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                used.add_metric([str(place)], memory.used)
                total.add_metric([str(place)], memory.total)
                busy.add_metric([str(place)], self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            except (
                self._nvml.NVMLError
            ) as error:  # fell off the bus, or tells no use, as parts of a device (MIG) do not
                log.debug("GPU tells not all", extra={"gpu": place, "error": str(error)})
        return families

    def _handle(self, name: str) -> Any:
        if name.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("headrace_gpu_memory_used_bytes", "Memory of the GPU that is in use", labels=["gpu"]),
            GaugeMetricFamily("headrace_gpu_memory_bytes", "Memory of the GPU", labels=["gpu"]),
            GaugeMetricFamily("headrace_gpu_busy_ratio", "Share of time in which a kernel ran", labels=["gpu"]),
        )


def export_gpus(*, module: str = "pynvml", registry: CollectorRegistry = REGISTRY) -> bool:
    """False: no NVML here, or no GPU behind it."""
    try:
        nvml = importlib.import_module(module)
    except ImportError:
        return False
    try:
        nvml.nvmlInit()
        registry.register(GpuCollector(nvml, visible=os.environ.get(VISIBLE)))
    except nvml.NVMLError as error:
        log.info("no GPU metrics", extra={"why": str(error)})
        return False
    return True
