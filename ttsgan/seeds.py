"""Seeds as functions of names: no two uses of randomness share a seed, and none depends on what ran before."""

import hashlib
from typing import Any


def seed_of(*parts: object) -> int:
    """Return a seed (below 2**56) that is a function of ``parts``, such as ``seed_of(0, "pool", 3)``."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7])


def digest_of(data: Any) -> str:
    """Return the SHA-256 (hex) of bytes, or of a contiguous array.

    As a part of `seed_of` it makes randomness that hides members reproducible only for those who have the data: the
    seed of a run is published with its release, and is mostly 0.
    """
    return hashlib.sha256(data).hexdigest()
