"""Numbered parts on actors: each once, also on a cluster whose CPUs the actors fill; what machines of a cluster see."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import ray

from ray_jobs import machines
from ray_jobs.actors import each_part
from ttsgan.config import RuntimeConfig
from ttsgan.data.storage import Location
from ttsgan.errors import DataError

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


def test_a_folder_that_machines_do_not_see_is_told_of(ray4, tmp_path, monkeypatch):
    where = Location.parse(str(tmp_path))
    machines.check_visible(where)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(machines, "_sees", ray.remote(num_cpus=0)(lambda path: False))
    with pytest.raises(
        DataError, match=r"is not seen by 1 of the 1 machines of the cluster, such as .*; give an --out"
    ):
        machines.check_visible(where)
    assert not list(tmp_path.iterdir())
