"""Numbered parts on actors: each once, also on a cluster whose CPUs the actors fill."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import ray

from ray_jobs.actors import each_part
from ttsgan.config import RuntimeConfig

pytestmark = pytest.mark.ray


def test_actors_that_fill_the_cluster_get_every_part(ray4):
    """Tasks that read the numbers would have no CPU left, and the command would wait for ever."""

    class Square:  # within the test: workers cannot import its module
        def __init__(self, plus):
            self.plus = plus

        def __call__(self, batch):
            return {"id": batch["id"], "square": batch["id"] ** 2 + self.plus}

    runtime = RuntimeConfig(num_workers=int(ray.cluster_resources()["CPU"]))
    with ThreadPoolExecutor(1) as pool:
        parts = pool.submit(lambda: list(each_part(Square, (5,), 9, runtime))).result(timeout=120)
    found = {int(i): int(s) for part in parts for i, s in zip(part["id"], part["square"], strict=True)}
    assert found == {i: i * i + 5 for i in range(9)}
    assert all(isinstance(part["id"], np.ndarray) for part in parts)
