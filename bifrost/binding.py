"""The listening socket: a TCP address or a Unix socket, bound before any process is forked."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from bifrost.config.settings import Server
from bifrost.errors import ConfigError


def bind(server: Server) -> socket.socket:
    """The listening socket; raises ConfigError with the remedy when the address is taken."""
    try:
        if server.uds:
            _clear(Path(server.uds))
            return _listening(socket.AF_UNIX, server.uds)
        found = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _listening(found[0], found[4])
    except OSError as error:
        where = server.uds or f"{server.host}:{server.port}"
        option = "--uds" if server.uds else "--host" if _is_host(error) else "--port"
        why = error.strerror or error
        raise ConfigError(
            f"Cannot listen on {where}: {why}; choose another with {option}."
        ) from error


def _listening(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError:
        sock.close()
        raise
    sock.set_inheritable(True)
    return sock


def _is_host(error: OSError) -> bool:
    """Whether the name of the host is at fault, not the port."""
    return isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL


def _clear(path: Path) -> None:
    """Removes a socket nobody listens on any more; raises OSError if somebody does."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
