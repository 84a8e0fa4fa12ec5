"""A lock on a folder in remote storage, which has none: a small file that its holder keeps writing anew.

Whoever finds such a file watches it for `PATIENCE` seconds. If it changes, another command works in the folder. If it
does not, its holder was killed, and the watcher takes over. Clocks are not compared.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ttsgan.data.storage import Location, one_line
from ttsgan.errors import DataError

BEAT = 20.0
"""Seconds between two writes of the holder."""
PATIENCE = 70.0
"""Seconds without a write after which a holder counts as killed; more than three beats."""
SETTLE = 2.0
"""Seconds after which the first write is read back: of two that come at once, the later one holds the lease."""

log = logging.getLogger(__name__)


@contextmanager
def leased(file: Location) -> Iterator[None]:
    """Hold the lease ``file`` while the block runs.

    Raises
    ------
    DataError
        If another command holds it, or it cannot be written.
    """
    name = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex}"
    _wait_for(file)
    count, stop = 0, threading.Event()

    def write() -> None:
        file.write_json({"holder": name, "count": count})

    write()
    time.sleep(SETTLE)
    if (_holder(file) or {}).get("holder") != name:
        raise _taken(file)

    def beat() -> None:
        nonlocal count
        while not stop.wait(BEAT):
            count += 1
            try:
                write()
            except (OSError, DataError) as error:
                log.warning("%s cannot be written (%s): another command may begin here", file, one_line(error))

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(OSError, DataError):
            file.remove()


def _wait_for(file: Location) -> None:
    """Return when there is no lease, or when it has not been written for `PATIENCE` seconds."""
    if (first := _holder(file)) is None:
        return
    log.warning("%s: watching for up to %g s whether the command that left it still works", file, PATIENCE)
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        time.sleep(min(BEAT, PATIENCE) / 4)
        if (now := _holder(file)) is None:
            return
        if now and now != first:
            raise _taken(file)


def _holder(file: Location) -> dict | None:
    """Return what the lease says, nothing while it is being written, and None if there is none."""
    with suppress(OSError, DataError, ValueError):
        return file.read_json() if file.exists() else None
    return {}


def _taken(file: Location) -> DataError:
    who = (_holder(file) or {}).get("holder", "").rpartition(",")[0]
    return DataError(
        f"{file.parent} is worked on by another command{f' ({who})' if who else ''}; wait for it, or stop it"
    )
