"""What went wrong on a worker, as the person who ran the command should read it."""

import errno

from ttsgan.errors import DataError, TtsganError

_INNER = ("_base_exc", "cause", "controller_failure", "__cause__", "__context__")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def told(error: BaseException) -> TtsganError | None:
    """Return this project's own error inside ``error``, or one for a full disk; None for anything else.

    Ray wraps what its workers raise, several layers deep; the layers are searched in the order that they were put on.
    """
    seen, layers = set(), [error]
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
        layers += list(getattr(layer, "worker_failures", {}).values())
        layers += [getattr(layer, name, None) for name in _INNER]
    return None
