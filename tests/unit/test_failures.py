"""Errors of workers, unwrapped."""

import errno

from ray.train.v2.api.exceptions import WorkerGroupError

from ray_jobs.failures import told
from ttsgan.errors import DataError, DivergedError


def test_own_error_inside_a_failed_worker():
    inner = DivergedError("the loss is nan")
    assert told(WorkerGroupError("rank 1 failed", {1: inner})) is inner


def test_own_error_as_cause():
    outer = RuntimeError("task failed")
    outer.__cause__ = DataError("no such file")
    assert str(told(outer)) == "no such file"


def test_full_disk_is_told_in_words():
    assert "no space left" in str(told(OSError(errno.ENOSPC, "No space left on device")))


def test_anything_else_is_a_bug_and_stays_one():
    assert told(KeyError("x")) is None
