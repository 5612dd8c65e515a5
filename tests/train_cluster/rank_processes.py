"""Starts real rank processes for the tests of this folder; what they find travels through files.

They are forked from a process that has imported the libraries and done nothing else: a rank spends most of its start on
imports, and a session of tests starts some twenty.
"""

import multiprocessing
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

IMPORTED = ["torch", "transformers", "transformers.models.llama.modeling_llama", "safetensors.torch"]
"""Once, before the forks. Not deepspeed, which looks at the environment of its own process when it is imported."""


def start_ranks(target: Callable[..., None], world_size: int, *arguments: Any) -> list[ForkServerProcess]:
    """Processes that run target(rank, world_size, master_port, *arguments)."""
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    processes = [
        context.Process(target=target, args=(rank, world_size, port, *arguments), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def join_ranks(processes: list[ForkServerProcess], *, timeout_s: float = 150.0) -> list[int | None]:
    """Their exit codes, by rank; None = was still running and has been killed."""
    deadline = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def run_ranks(target: Callable[..., None], world_size: int, *arguments: Any) -> None:
    assert join_ranks(start_ranks(target, world_size, *arguments)) == [0] * world_size


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
