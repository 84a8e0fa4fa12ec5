"""Errors of workers, unwrapped."""

import errno

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:120] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        OutOfMemoryError("Task was killed due to the node running low on memory."),
        WorkerHealthCheckFailedError("a worker died", OutOfMemoryError("killed: the node was running low on memory")),
    ],
)
def test_want_of_memory_says_what_to_lower(error):
    said = str(told(WorkerGroupError("rank 1 failed", {1: error})))
    assert said.startswith("a worker ran out of memory; run fewer workers on each machine")
    assert "\n" not in said


def test_a_lost_worker_is_told_unless_another_says_why():
    lost = WorkerHealthCheckFailedError("a worker died", ActorDiedError())
    said = str(told(WorkerGroupError("rank 1 failed", {1: lost})))
    assert said.startswith("a worker was lost more often than runtime.max_failures allows: its machine went away, or")
    assert "a smaller training.batch_size" in said
    assert "\n" not in said
    why = DataError("no such file")
    assert told(WorkerGroupError("both failed", {0: lost, 1: why})) is why


def test_anything_else_is_a_bug_and_stays_one():
    assert told(KeyError("x")) is None
