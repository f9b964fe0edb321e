"""Images at addresses of other servers: only of hosts that the operator allowed, and never inside a private network."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, urlsplit

from export.serve.content.references import ImageReference
from export.serve.errors import RequestError, invalid
from models.json_files import shortened

SECONDS = 10.0
"""That an image may take, all in all."""

CHUNK = 1 << 16

Resolve = Callable[[str, int], Sequence[str]]


def addresses_of(host: str, port: int) -> list[str]:
    """The IP addresses of a name."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, as far as its number tells."""
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_global and not (mapped or ip).is_multicast


class Fetcher:
    """Fetches images from some hosts.

    * The name is resolved once, every address that it has must be public, and the connection goes to the address that
      was looked at: a name that changes its address in between (DNS rebinding) gains nothing.
    * Redirects are not followed.

    Args:
        hosts: that are allowed, as they stand in addresses: `example.org`, `example.org:8080`. None: no fetching.
        resolve: names to IP addresses.
        allows: which IP addresses may be asked.
        seconds: that an image may take.
    """

    def __init__(
        self,
        hosts: Sequence[str] = (),
        *,
        resolve: Resolve = addresses_of,
        allows: Callable[[str], bool] = is_public,
        seconds: float = SECONDS,
    ) -> None:
        self.hosts = frozenset(host.lower() for host in hosts)
        self._resolve = resolve
        self._allows = allows
        self._seconds = seconds

    def fetch(self, image: ImageReference, max_bytes: int) -> bytes:
        """The file at an address.

        Raises:
            RequestError: 400 for a host that is not allowed; 422 for anything that goes wrong; 413 for more bytes.
        """
        try:
            address = urlsplit(image.url)
            port = address.port or (443 if address.scheme == "https" else 80)
        except ValueError as error:
            raise invalid(f"{image.place} is {shortened(image.url)}, no address: {error}.", image.place) from error
        if not address.hostname or address.netloc.lower() not in self.hosts:
            raise invalid(
                f"{image.place} is an address at {shortened(address.netloc)}, and this server fetches nothing from "
                "there. Send the image as a data URL, or start the server with --allow-image-host.",
                image.place,
            )
        deadline = time.monotonic() + self._seconds
        try:
            ip = self._checked_address(address.hostname, port, image)
            return self._get(address, ip, port, max_bytes, deadline, image)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._failed(image, str(error) or type(error).__name__) from error

    def _checked_address(self, host: str, port: int, image: ImageReference) -> str:
        found = list(self._resolve(host, port))
        if not found or not all(self._allows(ip) for ip in found):
            raise self._failed(image, "the name leads to an address that is not public")
        return found[0]

    def _get(
        self, address: SplitResult, ip: str, port: int, max_bytes: int, deadline: float, image: ImageReference
    ) -> bytes:
        connection = _Connection(address, ip, port, self._left(deadline, image))
        try:
            path = (address.path or "/") + (f"?{address.query}" if address.query else "")
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "mmfs"})
            with connection.getresponse() as answer:
                if answer.status != 200:
                    raise self._failed(image, f"the answer has status {answer.status}; redirects are not followed")
                data = bytearray()
                while True:
                    connection.connected.settimeout(self._left(deadline, image))
                    chunk = answer.read1(CHUNK)
                    if not chunk:
                        return bytes(data)
                    data += chunk
                    if len(data) > max_bytes:
                        raise invalid(f"{image.place} has more than {max_bytes:,} bytes.", image.place, 413)
        finally:
            connection.close()

    def _left(self, deadline: float, image: ImageReference) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._failed(image, f"it took longer than {self._seconds:g} seconds")
        return left

    @staticmethod
    def _failed(image: ImageReference, reason: str) -> RequestError:
        message = f"{image.place} could not be fetched: {shortened(reason, 200)}. Send the image as a data URL."
        return invalid(message, image.place, 422)


class _Connection(http.client.HTTPConnection):
    """To an IP address that was looked at, in the name of the host that the address has."""

    connected: socket.socket
    """Also where the answer has taken it over, as one does that ends with the connection."""

    def __init__(self, address: SplitResult, ip: str, port: int, timeout: float) -> None:
        super().__init__(address.netloc.rpartition("@")[2], timeout=timeout)
        self._ip = ip
        self._ip_port = port
        self._host_name = address.hostname or ""
        self._is_encrypted = address.scheme == "https"

    def connect(self) -> None:
        """To the address, not to the name."""
        connected = socket.create_connection((self._ip, self._ip_port), self.timeout)
        if self._is_encrypted:
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=self._host_name)
        self.sock = self.connected = connected
