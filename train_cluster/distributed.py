"""The process group of the trainer's ranks: joined once a process, left before it exits.

A group cannot be rebuilt in place (DeepSpeed keeps handles to the old one), so a rank that has lost a peer ends its
process and a new one joins under a new epoch.
"""

import os
import socket
import warnings
from datetime import timedelta

import torch
from torch import distributed

LOOPBACK = "127.0.0.1"

MEETING_S = 1800.0
"""For the slowest rank to import, to load its model, or to hash its share of a checkpoint. It bounds nothing else: a rank
that died or hangs is noticed long before by whoever started it."""

_meetings: "_Meetings | None" = None
"""Of the group that this process has joined."""


def join(
    *, rank: int, world_size: int, master_port: int, timeout_s: float, master_addr: str = LOOPBACK, interface: str = ""
) -> None:
    """Join the group: NCCL where there are GPUs, gloo elsewhere; every collective of any group fails after timeout_s.

    The time-out counts from the moment that all ranks are here: ranks that start may be far apart.
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
    global _meetings
    _meetings = _Meetings(rank=rank, world_size=world_size, master_addr=master_addr, master_port=master_port)
    _meetings.meet()
    _meetings.store.set_timeout(timeout)  # the ranks exchange their addresses through it
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=_meetings.store, rank=rank, world_size=world_size, timeout=timeout
    )
    _prepare_deepspeed()


def meet(word: str = "here") -> str:
    """(collective) Wait until all ranks are here, far longer than a collective may take; what rank 0 has said.

    For the end of work on files and in the store, which takes each rank its own time, and for what they must see alike though
    two looks at a shared folder may differ. Without a group there is nobody to wait for.
    """
    return word if _meetings is None else _meetings.meet(word)


def leave() -> None:
    """Leave the group; without it the process aborts at exit."""
    global _meetings
    _meetings = None
    if distributed.is_initialized():
        distributed.destroy_process_group()


class _Meetings:
    """The group's key-value store, served by rank 0, and how often its ranks have met there."""

    def __init__(self, *, rank: int, world_size: int, master_addr: str, master_port: int) -> None:
        self._rank, self._world_size, self._held = rank, world_size, 0
        # torch would serve it on every interface: rank 0 hands it a socket that listens on the group's address alone.
        listening = socket.create_server((master_addr, master_port)).detach() if rank == 0 else None
        self.store = distributed.TCPStore(
            master_addr,
            master_port,
            world_size,
            is_master=rank == 0,
            timeout=timedelta(seconds=MEETING_S),
            wait_for_workers=False,
            master_listen_fd=listening,
        )

    def meet(self, word: str = "here") -> str:
        self._held += 1
        keys = [f"meeting-{self._held}/{rank}" for rank in range(self._world_size)]
        # All have left the meeting before the last, or they would not have come to the last: runs are long, memory is not.
        if self._held > 2:
            self.store.delete_key(f"meeting-{self._held - 2}/{self._rank}")
        self.store.set(keys[self._rank], word)
        self.store.wait(keys, timedelta(seconds=MEETING_S))
        return str(self.store.get(keys[0]), "utf-8")


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
