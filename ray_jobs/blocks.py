"""Spreads the judges' work over a Ray cluster: one task for each part."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError
from threadpoolctl import threadpool_limits

from ttsgan.errors import TtsganError

MAX_RETRIES = 8
"""Retries of a task whose worker or machine is lost."""
IN_FLIGHT_PER_CPU = 2


class RayMap:
    """A `ttsgan.evaluation.blocks.ParallelMap` over the CPUs of the Ray cluster that this process started or joined.

    Each task uses one CPU and one thread. At most two tasks per CPU are unfinished or hold a result that has not been
    consumed, so that few results pile up behind a slow consumer.
    """

    def __call__(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Yield ``function(shared, item)`` of every item, in the order of the items.

        Parameters
        ----------
        function : callable
            Picklable; runs in the workers, where arrays of ``shared`` are read-only.
        shared : object
            Sent once to each machine, however many items there are.
        items : sequence
            Picklable and small: each is sent with its task.

        Raises
        ------
        TtsganError
            As raised by the function. Any other error of the function is raised as Ray's ``RayTaskError``. Neither is
            retried; a task whose worker dies is retried up to `MAX_RETRIES` times.
        """
        sent, waiting, begun = ray.put(shared), deque(), 0
        try:
            while begun < len(items) or waiting:
                # Read again each time: an autoscaler adds machines because tasks wait for them.
                room = IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
                while begun < len(items) and len(waiting) < room:
                    waiting.append(_work.remote(function, sent, items[begun]))
                    begun += 1
                yield result_of(waiting.popleft())
        finally:
            for task in waiting:
                ray.cancel(task)


@ray.remote(num_cpus=1, max_retries=MAX_RETRIES)
def _work(function: Callable[[Any, Any], Any], shared: Any, item: Any) -> Any:
    with threadpool_limits(1):
        return function(shared, item)


def result_of(tasks: ray.ObjectRef | list[ray.ObjectRef]) -> Any:
    """Return `ray.get`; raise this library's errors as they are, not as Ray's ``RayTaskError``."""
    try:
        return ray.get(tasks)
    except RayTaskError as error:
        if isinstance(error.cause, TtsganError):
            raise error.cause from None
        raise
