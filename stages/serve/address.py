"""The address that the server listens on."""

from __future__ import annotations

import errno
import ipaddress
import socket

CONNECTIONS = 2048
"""Largest number of open connections."""


def is_local(host: str) -> bool:
    """Tell whether an address to listen on is reached from this machine only.

    Example:
        >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that the server listens on; before the model is loaded, which takes a while.

    Args:
        host: an address or a name of this machine.
        port: 0 takes a free one.

    Returns:
        The socket.

    Raises:
        ValueError: if the address is in use, or is none of this machine's.
    """
    listening = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(CONNECTIONS)
    except OSError as error:
        if listening is not None:
            listening.close()
        fix = "stop the program that uses it, or choose another --port (0 takes a free one)"
        if error.errno != errno.EADDRINUSE:
            fix = "use an address of this machine for --host and a --port that you may use"
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror or error}; {fix}") from None
    listening.setblocking(False)
    return listening
