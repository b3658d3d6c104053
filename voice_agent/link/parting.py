"""The end of a front-end's connection, as the engine sees it: when its slots are free again.

A front-end writes into rings in memory that it shares, so whatever the engine does to its
connection, it may write on: one that was cut off does until it notices. How long that takes nobody
can say, as one that is stopped, or finds no processor, notices nothing; so no clock decides. Its
slots are nobody's until its own end of the socket is closed, which it is in two ways:

    it lets go    it reads that the connection is over, takes the ring from each of its streams, and
                  only then closes its end (`EngineClient.lost`, which the event loop calls before
                  it closes a socket)
    it dies       by itself, or killed by the supervisor for its silence; the kernel takes a
                  process's memory from it before its open files

Until then its streams stay open, and what it still writes reaches them alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

_PIECE = 1 << 16


def kept(transport: asyncio.BaseTransport) -> socket.socket:
    """A transport's socket, which stays open when the transport closes its own."""
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    sock.setblocking(False)
    return sock


async def parted(sock: socket.socket) -> None:
    """Tell the other side that the connection is over; return once it has closed its end.

    Args:
        sock: of the connection, which nobody else reads any more.
    """
    loop = asyncio.get_running_loop()
    with suppress(OSError):  # it may have closed its end already
        sock.shutdown(socket.SHUT_WR)
    with suppress(ConnectionResetError):  # closed, with something of ours unread
        # What it still sends is read: it closes its end only when it could send all.
        while await loop.sock_recv(sock, _PIECE):
            pass
