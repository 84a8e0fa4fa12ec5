"""Actors of Ray Data that work on numbered parts, for the stages encode and generate."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray.data

from ttsgan.config import RuntimeConfig


def each_part(actor: type, arguments: tuple[Any, ...], count: int, runtime: RuntimeConfig) -> Iterator[dict[str, Any]]:
    """Yield, in any order, what ``actor(*arguments)`` returns for each part; ``id`` of its batch holds the number.

    There are as many actors as training workers, with their resources, and at most one for each of ``count`` parts.
    """
    # The driver holds the numbers. `ray.data.range` would read them in tasks of their own, for which a cluster whose
    # CPUs are all taken by the actors never has room: the command would wait for ever.
    numbers = ray.data.from_arrow([pa.table({"id": [number]}) for number in range(count)])
    made = numbers.map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=max(1, min(runtime.num_workers, count))),
        num_cpus=runtime.cpus_per_worker,
        num_gpus=int(runtime.use_gpu),
    )
    yield from made.iter_batches(batch_size=None, batch_format="numpy")
