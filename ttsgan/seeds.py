"""Seeds as functions of names, so that no two uses of randomness share one and none depends on what ran before."""

import hashlib


def seed_of(*parts: object) -> int:
    """Return a seed (below 2**56) that is a function of ``parts``, such as ``seed_of(0, "pool", 3)``."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7])
