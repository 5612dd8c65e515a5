"""The process group of the trainer's ranks: joined once a process, left before it exits.

A group cannot be rebuilt in place (DeepSpeed keeps handles to the old one), so a rank that has lost a peer ends its
process and a new one joins under a new epoch.
"""

import os
import warnings
from datetime import timedelta

import torch
from torch import distributed

LOOPBACK = "127.0.0.1"


def join(
    *, rank: int, world_size: int, master_port: int, timeout_s: float, master_addr: str = LOOPBACK, interface: str = ""
) -> None:
    """Join the group: NCCL where there are GPUs, gloo elsewhere; every collective of any group fails after timeout_s.

    A killed peer is noticed at once (its sockets close), a stopped one only by the time-out. `interface` names the
    network device that gloo listens on; empty = loopback on loopback addresses, else gloo's own choice. A process that
    has joined stays in that group, whatever it does next (fine-tuning, then reinforcement).
    """
    if distributed.is_initialized():
        return
    on_gpu = torch.cuda.is_available()
    interface = interface or ("lo" if master_addr in (LOOPBACK, "localhost") else "")
    if interface:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    local_rank = rank % torch.cuda.device_count() if on_gpu else rank
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(local_rank),
        MASTER_ADDR=master_addr,
        MASTER_PORT=str(master_port),
    )
    if on_gpu:
        torch.cuda.set_device(local_rank)

    timeout = timedelta(seconds=timeout_s)
    _bound_later_groups(timeout)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"tcp://{master_addr}:{master_port}",
        rank=rank,
        world_size=world_size,
        timeout=timeout,
    )
    _prepare_deepspeed()


def leave() -> None:
    """Leave the group; without it the process aborts at exit."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _bound_later_groups(timeout: timedelta) -> None:
    # DeepSpeed clones the world group without naming a time-out; torch would give that clone its default of 30 minutes.
    distributed.distributed_c10d.default_pg_timeout = timeout
    distributed.distributed_c10d.default_pg_nccl_timeout = timeout


def _prepare_deepspeed() -> None:
    import deepspeed  # here, since its accelerator is chosen by the environment set above
    from deepspeed.utils.logging import logger

    # Its shared-memory collectives are compiled at first use (a minute), under a lock that a killed rank never frees.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger.setLevel("WARNING")
    # DeepSpeed calls collectives under their older names; torch warns at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.distributed\..*")
