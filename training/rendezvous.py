"""How the processes of one training find each other without listening on a public address.

torch's own store listens on every interface. On one machine the launcher therefore lets torchrun
agree through a file, and rank 0 serves the processes' store from a socket bound to 127.0.0.1.
Across machines torchrun shares its agent's store and the ordinary `env://` way is taken.
"""

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, not declared

TIMEOUT = timedelta(minutes=5)
"""A rank that waits longer than this for the others gives up and ends the training."""


def join() -> tuple[int, int, torch.device]:
    """Initialise the process group torchrun described; returns rank, world size, device."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local, local_world = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.device_count() >= local_world:
        device, backend = torch.device("cuda", local), "nccl"
        torch.cuda.set_device(device)
    else:
        device, backend = torch.device("cpu"), "gloo"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        dist.init_process_group(backend, timeout=TIMEOUT)
    else:
        store = _loopback_store(rank, world)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    return rank, world, device


def _loopback_store(rank: int, world: int) -> TCPStore:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank != 0:
        return TCPStore(host, port, world, is_master=False, timeout=TIMEOUT)
    listener = socket.create_server((host, port))
    # The store takes the descriptor over and closes it.
    return TCPStore(
        host,
        port,
        world,
        is_master=True,
        timeout=TIMEOUT,
        master_listen_fd=listener.detach(),
    )
