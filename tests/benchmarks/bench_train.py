"""Cost of a training step: time, memory, growth with length, share of the machine's rate, workers, waiting for data.

    python tests/benchmarks/bench_train.py --quick
    python tests/benchmarks/bench_train.py --keep tests/benchmarks/results

Runs without Ray, on simulated households, with the ``base`` recipe and one thread for each worker. A step is one
discriminator step and one generator step, unless it is called a step of the days (the temporal prior). Time is
CPU-seconds of the process, which other programs on the machine change little; ratios of series per second are also
given in wall-clock time. Prints a line of JSON per figure {name, value, limit, ok}; figures without a limit are for
information only. Exit status 1 when a limit is missed.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from train_steps import (
    BATCH,
    LENGTHS,
    STAGE,
    YEAR_SECONDS,
    cpu_seconds,
    figure,
    flops,
    make_trainer,
    population,
    take_steps,
    trainer_on,
)
from waiting import in_files, share_of_waiting

from ttsgan import api, recipes
from ttsgan.models.layers import Block
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime, ProcessGroupRuntime
from ttsgan.training.step import autocast

ANCESTOR_CPU_SECONDS = 4.7
"""CPU-seconds per series of one step at 2190 points with the architecture that this one replaces."""
LARGE_BATCH, PARTS = 64, 8
FILED = 128
"""Households whose series are in mapped files."""
GIGABYTE = 1e9
SIDE, PRODUCTS = 1024, 5
"""Rows and columns of the large matrices, and how many products of them are timed at once."""
GROWTH = 1.25
"""Maximum ratio of the growth of cost to the growth of the token count; wider tokens make it a little more than one."""
ROUNDS = {"step": 2, "days": 8}
"""Rounds of each kind for each round of adversarial steps: a step of the days costs less."""
STEPS = {"step": 4, "days": 2}
"""Steps of each kind in a round; one process takes adversarial steps until the next penalty instead."""


# ---- one process -----------------------------------------------------------------------------------------------------


def steps_of_a_year(rounds: int) -> list[dict[str, Any]]:
    """Return cost per series, the rate as a share of that of the bare blocks, and waiting for data, at 2190 points."""
    whole = make_trainer(2190, BATCH, LocalRuntime())
    plain = make_trainer(2190, BATCH, LocalRuntime(), "base", "loss.penalty_weight=0")

    def waiting() -> None:
        for phase in ("discriminator", "generator"):
            whole._adversarial_batch(phase)

    out = []
    for trainer, kind, name in (
        (whole, "step", "step"), (plain, "step", "step without a penalty"), (whole, "days", "days step")
    ):  # fmt: skip
        count = steps_of_a_round(trainer, kind)
        steps = partial(take_steps, trainer, kind, count)
        bare, product = bare_blocks(trainer, kind, count), product_of(trainer.dtype)
        acts = {"step": steps, "bare": bare, "product": product} | ({"waiting": waiting} if name == "step" else {})
        seconds = cpu_seconds(rounds * ROUNDS[kind], acts)
        trainer.state.series_seen = 0
        rate = flops(steps) / seconds["step"]
        limit, least = ANCESTOR_CPU_SECONDS / 60 if kind == "step" else None, 0.8 if trainer is whole else None
        of_bare, of_product = flops(bare) / seconds["bare"], PRODUCTS * 2 * SIDE**3 / seconds["product"]
        out += [
            figure(f"{name}, 2190 points, batch 16: CPU-s per series", seconds["step"] / count / BATCH, limit),
            figure(f"{name}: FLOP rate over that of a bare stack of its blocks", rate / of_bare, at_least=least),
            figure(f"{name}: GFLOP per CPU-s", rate / 1e9),
            figure(f"{name}: FLOP rate over that of large matrix products", rate / of_product),
        ]
        if name == "step":
            share = seconds["waiting"] * count / seconds["step"]
            out.append(figure("share of a step spent on fetching its data and noise", share, 0.02))
    return out


def steps_of_a_round(trainer: Trainer, kind: str) -> int:
    """Return how many steps of a kind one process takes in a round: adversarial ones until the next penalty."""
    return trainer.config.loss.penalty_interval if kind == "step" else STEPS[kind]


def bare_blocks(trainer: Trainer, kind: str, count: int) -> Callable[[], None]:
    """Return a function that runs only the blocks of the next ``count`` steps, forward and backward.

    Widths, batch, tokens, dropout and precision are those of the steps: the gradient penalty is in single precision.
    Embeddings, losses, optimizer and averages are left out.
    """
    seen: list[tuple[Block, bool, torch.Tensor, torch.Tensor | None]] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda block, given: seen.append((block, torch.is_autocast_enabled("cpu"), given[0].detach(), *given[1:2]))
        )
        for module in trainer.state.networks.modules()
        if isinstance(module, Block)
    ]
    take_steps(trainer, kind, count)
    for hook in hooks:
        hook.remove()
    calls = [
        (Block(block.norm_mlp.normalized_shape[0], block.heads, block.dropout), cast, torch.randn_like(given), *mask)
        for block, cast, given, *mask in seen
    ]

    def act() -> None:
        for block, cast, given, *mask in calls:
            with autocast(trainer.dtype if cast else torch.float32, torch.device("cpu")):
                made = block(given.requires_grad_(), *mask)
            made.float().square().mean().backward()

    return act


def product_of(dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that multiplies large matrices, `PRODUCTS` times."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))

    def act() -> None:
        for _ in range(PRODUCTS):
            a @ b

    return act


def peak_bytes() -> int:
    """Return the peak memory of this process in bytes."""
    # Not ru_maxrss, which starts from the memory of the parent process.
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def memory_of_steps(length: int, batch: int, parts: int, count: int) -> dict[str, int]:
    """Return the tokens of a series, the memory of the process before its steps, and its peak memory, in bytes."""
    torch.set_num_threads(1)
    trainer = make_trainer(length, batch, LocalRuntime(), "base", f"training.accumulation={parts}")
    before = peak_bytes()
    take_steps(trainer, "step", count)
    return {"tokens": trainer.data.shape.num_tokens, "before": before, "peak": peak_bytes()}


def memory() -> list[dict[str, Any]]:
    """Return memory by length, and what `training.accumulation` saves; each case in its own process, two at once."""
    # Up to the second step with a penalty: the optimizers have their states only from the first step on.
    asked = [(length, BATCH, 1, recipes.base().loss.penalty_interval + 1) for length in LENGTHS]
    asked += [(LENGTHS[0], LARGE_BATCH, parts, 1) for parts in (1, PARTS)]
    with ProcessPoolExecutor(2, mp.get_context("forkserver"), max_tasks_per_child=1) as processes:
        *lengths, whole, parts = processes.map(memory_of_steps, *zip(*asked, strict=True))
    out, first = [], lengths[0]
    for length, told in zip(LENGTHS, lengths, strict=True):
        limit = 2.0 if length == 8760 else None
        out += [
            figure(f"{length} points: peak memory of the process of a step, GB", told["peak"] / GIGABYTE, limit),
            figure(f"{length} points: memory that the step adds, GB", (told["peak"] - told["before"]) / GIGABYTE),
        ]
        if told is not first:
            ratio, tokens = told["peak"] / first["peak"], told["tokens"] / first["tokens"]
            out.append(figure(f"{length} points: tokens over those of {LENGTHS[0]} points", tokens))
            out.append(figure(f"{length} points: peak memory over that of {LENGTHS[0]} points", ratio, GROWTH * tokens))
    added = [told["peak"] - told["before"] for told in (whole, parts)]
    name = f"batch {LARGE_BATCH} in {PARTS} parts over the whole: memory that a step adds"
    return [*out, figure(name, added[1] / added[0], 0.5)]


def growth(rounds: int) -> list[dict[str, Any]]:
    """Return time by length; the lengths take turns."""
    trainers = {length: make_trainer(length, BATCH, LocalRuntime()) for length in LENGTHS}
    tokens = {length: trainer.data.shape.num_tokens for length, trainer in trainers.items()}
    out = []
    for kind, name in (("step", "a step"), ("days", "a days step")):
        count = steps_of_a_round(trainers[LENGTHS[0]], kind)
        acts = {length: partial(take_steps, trainer, kind, count) for length, trainer in trainers.items()}
        seconds = cpu_seconds(rounds * ROUNDS[kind], acts)
        for length in LENGTHS:
            out.append(figure(f"{length} points: CPU-s of {name}", seconds[length] / count))
        for length in LENGTHS[1:]:
            ratio, limit = seconds[length] / seconds[LENGTHS[0]], GROWTH * tokens[length] / tokens[LENGTHS[0]]
            out.append(figure(f"{length} points: CPU-s of {name} over that of {LENGTHS[0]} points", ratio, limit))
    return out


def files_out_of_memory(steps: int) -> list[dict[str, Any]]:
    """Return how long a step waits for series in files of which nothing is cached in memory, at 8760 points."""
    config = recipes.override(recipes.base(), [f"training.batch_size={BATCH}"])
    values, starts, names = population(8760, FILED)
    scaler = api.fit_scaler(values, starts, YEAR_SECONDS // 8760, config)
    data, files = in_files(values, starts, names, scaler, config)
    trainer = trainer_on(data, scaler, config, files)
    out = []
    for kind, name in (("step", "step"), ("days", "days step")):
        shares = {ahead: share_of_waiting(trainer, files, steps, kind, ahead) for ahead in (True, False)}
        told = f"series in files, none in memory: share of a {name}, by the clock, until its data and noise are there"
        out += [figure(told, shares[True], 0.02), figure(f"{told}, not asked ahead", shares[False])]
    return out


# ---- two processes ---------------------------------------------------------------------------------------------------


def work(rank: int, folder: str, rounds: int) -> None:
    """Take steps in turn as the only worker, as one of two, and beside another; write the seconds of every round.

    Beside another means: with half of the series and without exchange, while the other worker does the same.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trainers = {
        "alone": make_trainer(2190, 2 * BATCH, LocalRuntime()),
        "paired": make_trainer(2190, 2 * BATCH, ProcessGroupRuntime()),
        "beside": make_trainer(2190, BATCH, LocalRuntime()),
    }
    taken: dict[str, list[dict[str, list[float]]]] = {kind: [] for kind in STAGE}
    for kind in STAGE:
        for _ in range(rounds * ROUNDS[kind]):
            seconds = {}
            for name, trainer in trainers.items():
                dist.barrier()
                if name == "alone" and rank:
                    continue  # this worker waits at the next barrier without computing
                began, clock = time.process_time(), time.monotonic()
                take_steps(trainer, kind, STEPS[kind])
                seconds[name] = [time.monotonic() - clock, time.process_time() - began]
            taken[kind].append(seconds)
    Path(f"{folder}/{rank}.json").write_text(json.dumps(taken))
    dist.destroy_process_group()


def workers(rounds: int) -> list[dict[str, Any]]:
    """Return the speed-up of two workers of one thread over one, in series per second; 32 series a step.

    One and two take turns, so that a change of the machine's speed affects both; the minimum over rounds is used.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (folder, rounds), nprocs=2, start_method="forkserver")
        told = [json.loads(Path(f"{folder}/{rank}.json").read_text()) for rank in range(2)]
    out = []
    for kind, name in (("step", "step"), ("days", "days step")):
        rounds_of_both = list(zip(told[0][kind], told[1][kind], strict=True))
        alone, paired, beside = (
            [min(max(rank[who][i] for rank in both if who in rank) for both in rounds_of_both) for i in (0, 1)]
            for who in ("alone", "paired", "beside")
        )
        out += [
            figure(f"{name}: series per second by the clock, two workers over one", alone[0] / paired[0], at_least=1.8),
            figure(f"{name}: CPU-s of one worker over those of the busier of two", alone[1] / paired[1], at_least=1.8),
            figure(f"{name}: two workers, share of the clock that they compute", paired[1] / paired[0]),
            figure(f"{name}: series per second by the clock, two that exchange nothing over one", alone[0] / beside[0]),
        ]
    return out


# ---- the whole -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures and, with ``--keep``, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: two minutes")
    parser.add_argument("--keep", default="", help="folder for the figures, as train-<date>.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    mp.get_context("forkserver").set_forkserver_preload(["ttsgan.api", "ttsgan.training.loop"])
    lines = memory()
    lines += steps_of_a_year(1 if options.quick else 3)
    lines += growth(1 if options.quick else 3)
    lines += files_out_of_memory(4 if options.quick else 16)
    lines += workers(1 if options.quick else 5)
    if options.keep:
        about = {
            "date": datetime.date.today().isoformat(),
            "quick": options.quick,
            "torch": torch.__version__,
            "load": [round(x, 1) for x in os.getloadavg()],
            "figures": lines,
        }
        (Path(options.keep) / f"train-{about['date']}.json").write_text(json.dumps(about, indent=2) + "\n")
    return 0 if all(line["ok"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
