"""Under which names a server lets itself be asked. A page of a stranger can let its own name lead to 127.0.0.1 (DNS
rebinding), and a browser would then send it what a local server answers; but it sends the stranger's name as `Host`."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit


class HostNames:
    """The names of a server. Addresses in numbers are always allowed: no name leads there.

    Args:
        bound: what it listens on.
        public_url: under which clients reach it, perhaps through a proxy.
        others: further names.
    """

    def __init__(self, bound: str, public_url: str | None, others: Sequence[str] = ()) -> None:
        named = urlsplit(public_url).hostname if public_url else None
        here = [] if is_loopback(bound) else [socket.gethostname(), socket.getfqdn()]
        self.names = {name.lower() for name in ("localhost", bound, named, *here, *others) if name}

    def allow(self, host: str) -> bool:
        """Whether a request may have this `Host`, with or without a port."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or is_address(name)


def is_address(name: str) -> bool:
    """Whether it is an IP address in numbers."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on it."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
