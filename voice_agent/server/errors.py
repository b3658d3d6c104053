"""What keeps a server from starting."""

from __future__ import annotations


class CannotListen(Exception):
    """The address cannot be listened on; the message says why and what to do.

    Attributes:
        host: address that was asked for.
        port: port that was asked for.
    """

    def __init__(self, host: str, port: int, problem: str) -> None:
        self.host, self.port = host, port
        super().__init__(f"cannot listen on {host}:{port}: {problem}")
