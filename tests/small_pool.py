"""A small pool of prior draws: most of the time of a small training goes into drawing it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ttsgan.training import transitions


@contextmanager
def small_pool(chunks: int = 1) -> Iterator[None]:
    """Train the generator on ``chunks`` times 16 draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transitions, "POOL_CHUNK", 16)
        patch.setattr(transitions, "POOL_CHUNKS", chunks)
        yield
