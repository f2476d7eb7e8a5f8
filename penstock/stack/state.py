"""What a stack remembers between commands: its ports, its secrets, what it lacks."""

import base64
import json
import random
import secrets
import socket
import uuid
from dataclasses import asdict
from pathlib import Path

from penstock.stack.parts import PARTS
from penstock.stack.site import Secrets

Ports = dict[str, dict[str, int]]

# Below the range from which systems take the ports of outgoing connections, so that a port
# stays free while its part restarts.
_PORT_RANGE = (20000, 32000)


class StackState:
    """`stack.json` and `env` of one home; both are readable by their owner only."""

    def __init__(self, home: Path) -> None:
        self._path = home / "stack.json"
        self.ports: Ports = {}
        self.absent: list[str] = []
        self.secrets = _new_secrets()
        if self._path.exists():
            remembered = json.loads(self._path.read_text())
            self.ports = remembered["ports"]
            self.absent = remembered["absent"]
            self.secrets = Secrets(**remembered["secrets"])

    def choose_ports(self, *, keep_all: bool) -> None:
        """Give every port of every part a number.

        Remembered ones are kept; unless `keep_all` (the stack runs), those that somebody else
        has taken meanwhile are chosen again.
        """
        taken = {number for ports in self.ports.values() for number in ports.values()}
        for part in PARTS.values():
            ports = self.ports.setdefault(part.name, {})
            for name in part.ports:
                if name in ports and (keep_all or _is_free(ports[name])):
                    continue
                ports[name] = _free_port(taken)
                taken.add(ports[name])

    def save(self) -> None:
        """Write `stack.json`."""
        content = {"ports": self.ports, "absent": self.absent, "secrets": asdict(self.secrets)}
        write_private(self._path, json.dumps(content, indent=1))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)


def read_environment(home: Path) -> dict[str, str]:
    """The variables that the last `penstock up` wrote to `<home>/env`; empty without one."""
    path = home / "env"
    if not path.exists():
        return {}
    lines = (line.partition("=") for line in path.read_text().splitlines() if line)
    return {name: value for name, _, value in lines}


def _new_secrets() -> Secrets:
    return Secrets(
        token_key=secrets.token_hex(32),
        jwt=secrets.token_hex(32),
        fernet=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        kafka_cluster_id=base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="),
    )


def _free_port(taken: set[int]) -> int:
    # Random, not counted up: two stacks that start together should not meet.
    while True:
        number = random.SystemRandom().randrange(*_PORT_RANGE)
        if number not in taken and _is_free(number):
            return number


def _is_free(number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True
