"""torchrun whose processes are forked from one server that has loaded torch already.

Loading torch and what DDP pulls in costs each process more processor time than a small training.
The server is single-threaded and loads while torchrun itself does; forking from it takes
milliseconds. Everything else is torchrun's own main.
"""

import multiprocessing
from multiprocessing import forkserver

PRELOADED = ["torch._dynamo", "torch.export", "training.export", "training.loop"]


def main() -> None:
    """Start the server, then run torchrun with the command line's arguments."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    from torch.distributed.run import main as torchrun

    torchrun()


if __name__ == "__main__":
    main()
