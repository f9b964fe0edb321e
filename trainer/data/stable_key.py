"""A hash of whole numbers, for seeds and orders that are the same on every machine."""

from __future__ import annotations

import hashlib


def stable_key(*numbers: int) -> int:
    """A hash of whole numbers in [0, 2**63), the same on every machine and in every process."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
