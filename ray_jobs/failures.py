"""Turns errors of Ray workers into errors that the person who ran the command can act on."""

import errno

from ray.exceptions import RayActorError, WorkerCrashedError

from ttsgan.errors import DataError, TtsganError

_INNER = ("_base_exc", "cause", "controller_failure", "health_check_failure", "__cause__", "__context__")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = ("allocate memory", "not enough memory", "CUDA out of memory", "running low on memory")
"""Parts of the messages of torch (CPU and GPU) and of Ray's memory monitor."""


_LOWER = (
    "run fewer workers on each machine (raise runtime.cpus_per_worker), or go through a batch in parts (raise "
    "training.accumulation), with the same command, which goes on from the last checkpoint; or start over with a "
    "smaller training.batch_size or narrower networks (encoder.width, days.width, generator.width, discriminator.width)"
)


class ClusterError(TtsganError, ConnectionError):
    """A Ray cluster does not answer, refuses the token or a job, or was lost."""


class OutOfMemory(TtsganError, MemoryError):
    """A worker needed more memory than its machine or its GPU has."""


class WorkerLost(TtsganError, RuntimeError):
    """Workers ended without an error of their own, more often than `RuntimeConfig.max_failures` allows."""


def told(error: BaseException) -> TtsganError | None:
    """Return the project's own error for ``error``, or None for an error of another kind.

    Ray wraps what its workers raise in several layers. They are searched from the outermost inwards for an error of
    this project, a full disk or a lack of memory; if there is none, a lost worker becomes a `WorkerLost`.
    """
    seen, layers, lost = set(), [error], False
    while layers:
        layer = layers.pop(0)
        if not isinstance(layer, BaseException) or id(layer) in seen:
            continue
        seen.add(id(layer))
        if isinstance(layer, TtsganError):
            return layer
        if getattr(layer, "errno", None) in _FULL or "No space left on device" in str(layer):
            return DataError(
                "no space left on device while the run was being written; free some space and run it again"
            )
        if isinstance(layer, MemoryError) or any(words in str(layer) for words in _NO_MEMORY):
            return OutOfMemory(f"a worker ran out of memory; {_LOWER}")
        lost |= isinstance(layer, RayActorError | WorkerCrashedError)
        layers += list(getattr(layer, "worker_failures", {}).values())
        layers += [getattr(layer, name, None) for name in _INNER]
    if lost:
        return WorkerLost(
            "a worker was lost more often than runtime.max_failures allows: its machine went away, or the system ended "
            f"it, most often for want of memory; {_LOWER}"
        )
    return None
