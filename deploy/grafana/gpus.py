"""The row of the GPUs that a cluster uses; empty on machines without any."""

from typing import Any

from deploy.grafana import look
from deploy.grafana.panels import shares
from deploy.grafana.promql import largest


def gpus(role: str) -> list[Any]:
    """role: `gen`, `score` or `rank`, as in the label of the targets."""
    used = largest("headrace_gpu_memory_used_bytes", by="worker, gpu", role=role)
    memory = f"{used} / {largest('headrace_gpu_memory_bytes', by='worker, gpu', role=role)}"
    busy = largest("headrace_gpu_busy_ratio", by="worker, gpu", role=role)
    return [
        shares("GPU memory in use", {"{{worker}}, GPU {{gpu}}": memory}, limits=look.GPU_MEMORY, width=12),
        shares("GPU busy", {"{{worker}}, GPU {{gpu}}": busy}, width=12),
    ]
