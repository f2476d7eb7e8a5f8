"""A connection to Redis that sends many commands at once and reads as many replies.

redis-py spends 6 µs of Python on a command, several times what Redis needs for it. What talks to
the online store prepares its commands as bytes (RESP, the protocol's arrays of bulk strings), and
hiredis reads the replies.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import hiredis

from features.errors import PenstockError, ServiceUnavailableError
from features.settings import shown

PATIENCE_S = 5.0
"""A Redis that says nothing for so long counts as absent."""

_RECEIVE_BYTES = 1 << 18


def bulk(text: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def command(*words: bytes) -> bytes:
    """A command: an array of bulk strings."""
    return b"*%d\r\n%b" % (len(words), b"".join(map(bulk, words)))


def no_answer(url: str, error: Exception) -> ServiceUnavailableError:
    """What is said of an online store that is not there."""
    return ServiceUnavailableError(
        f"the online store does not answer at {shown(url)}: {error}; "
        "start it with `penstock up redis`"
    )


class Connection:
    """One connection, made when it is first needed; threads take turns.

    Args:
        url: `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS.
        greetings: commands that each new connection begins with.

    Raises:
        PenstockError: the URL is of another kind.
    """

    def __init__(self, url: str, greetings: Sequence[bytes] = ()) -> None:
        self._url = url
        self._parts = urlsplit(url)
        try:
            self._address = (self._parts.hostname or "", self._parts.port or 6379)
        except ValueError:
            self._address = ("", 0)
        if self._parts.scheme not in ("redis", "rediss") or not self._address[0]:
            raise PenstockError(
                f"PENSTOCK_REDIS_URL is {shown(url)!r}; give redis://host:port/database"
            )
        self._greetings = [*_session(self._parts), *greetings]
        self._turn = threading.Lock()
        self._socket: socket.socket | None = None
        self._refusals: list[str] = []
        self._buffer = bytearray(_RECEIVE_BYTES)

    def exchange(self, commands: bytes, replies: int) -> list[Any]:
        """Send commands in one go and read their replies.

        A connection that has broken since its last use is made anew and everything is sent again,
        so commands must bear being repeated.

        Raises:
            ServiceUnavailableError: Redis does not answer, or refuses a command.
        """
        with self._turn:
            try:
                if self._socket is not None:
                    with contextlib.suppress(ConnectionError):
                        return self._exchange(commands, replies)
                return self._exchange(commands, replies)
            except (OSError, hiredis.ProtocolError) as error:
                raise no_answer(self._url, error) from error

    def close(self) -> None:
        """Let go of the connection; the next exchange makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, commands: bytes, replies: int) -> list[Any]:
        try:
            link = self._socket or self._open()
            link.sendall(commands)
            found = self._receive(link, replies)
        except BaseException:
            # Replies that nobody has read must never answer the next question.
            self.close()
            raise
        if self._refusals:
            said = self._refusals[0]
            self.close()
            raise ServiceUnavailableError(f"the online store at {shown(self._url)} says: {said}")
        return found

    def _receive(self, link: socket.socket, replies: int) -> list[Any]:
        found: list[Any] = []
        gets = self._reader.gets
        while len(found) < replies:
            size = link.recv_into(self._buffer)
            if size == 0:
                raise ConnectionResetError("it closed the connection")
            self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]
            while (reply := gets()) is not False:
                found.append(reply)
        return found

    def _open(self) -> socket.socket:
        self._socket = link = socket.create_connection(self._address, PATIENCE_S)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._parts.scheme == "rediss":
            context = ssl.create_default_context()
            self._socket = link = context.wrap_socket(link, server_hostname=self._address[0])
        self._refusals.clear()
        self._reader = hiredis.Reader(replyError=self._refused)
        self._exchange(b"".join(self._greetings), len(self._greetings))
        return link

    def _refused(self, said: str) -> Exception:
        self._refusals.append(said)
        return ServiceUnavailableError(said)


def _session(parts: SplitResult) -> list[bytes]:
    """The commands that open a session: who asks, and for which database."""
    said = []
    if parts.password:
        user = [unquote(parts.username).encode()] if parts.username else []
        said.append(command(b"AUTH", *user, unquote(parts.password).encode()))
    database = parts.path.strip("/")
    if database not in ("", "0"):
        said.append(command(b"SELECT", database.encode()))
    return said
