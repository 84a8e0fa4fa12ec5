"""What a training step costs: time, memory, growth with the length, share of the machine, workers, waiting.

    python tests/benchmarks/bench_train.py --quick
    python tests/benchmarks/bench_train.py --keep tests/benchmarks/results

No Ray. Simulated households; the ``base`` recipe; one thread for each worker. A step is one of the discriminator and
one of the generator, unless it is called one of the days (the temporal prior). Time is CPU-seconds of the process,
which other programs on the machine change little; ratios of series per second are given by the clock as well. Prints a
line of JSON per figure {name, value, limit, ok}; figures without a limit inform. Exit status 1 when a limit is missed.

Axis letters: M series, N tokens, P values of a token, Z condition, H household numbers.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from waiting import in_files, share_of_waiting

from ttsgan import api, recipes
from ttsgan.config import RunConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.data.simulate import simulate
from ttsgan.models.layers import Block
from ttsgan.training.between import GROUPINGS
from ttsgan.training.dataset import TrainSet
from ttsgan.training.loop import Trainer
from ttsgan.training.phases import SHARED
from ttsgan.training.runtime import LocalRuntime, ProcessGroupRuntime, Runtime
from ttsgan.training.step import autocast
from ttsgan.training.telemetry import Telemetry

ANCESTOR_CPU_SECONDS = 4.7
"""Per series of one step at 2190 points, of the architecture that this one replaces."""
BATCH = 16
YEAR_SECONDS = 365 * 86_400
LENGTHS = (2190, 4380, 8760, 17_520)
HOUSEHOLDS = 32
LARGE_BATCH, PARTS = 64, 8
FILED = 128
"""Households whose series lie in files."""
POOL = 64
GIGABYTE = 1e9
SIDE, PRODUCTS = 1024, 5
"""Side of large matrices, and how many products of them are timed at once."""
GROWTH = 1.25
"""Most that cost may grow by for each time that tokens do; wider tokens make it a little more than one."""

STAGE = {"step": 2, "days": 1}
STEPS_OF_A_ROUND = {"step": 4, "days": 1}


def population(length: int, households: int = HOUSEHOLDS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values (M, 1, L), starts and names of simulated households at any of `LENGTHS`."""
    made = simulate(households, 2190 if length == 2190 else 8760)
    values = np.nan_to_num(made.values, nan=0.1)
    if length == 4380:
        values = values.reshape(*values.shape[:2], length, 2).mean(-1)
    elif length == 17_520:
        spread = np.random.default_rng(0).uniform(0.5, 1.5, (*values.shape[:2], length)).astype(np.float32)
        values = np.repeat(values, 2, axis=2) * spread
    return values.astype(np.float32), made.starts, made.ids


def make_trainer(length: int, batch: int, runtime: Runtime, recipe: str = "base", *settings: str) -> Trainer:
    """Return a trainer with random conditions and a random pool instead of drawn ones."""
    config = recipes.override(recipes.by_name(recipe), [f"training.batch_size={batch}", *settings])
    values, starts, names = population(length)
    scaler = api.fit_scaler(values, starts, YEAR_SECONDS // length, config)
    return trainer_on(api.scale_training(values, starts, names, scaler, config), scaler, config, runtime)


def trainer_on(data: TrainSet, scaler: SeriesScaler, config: RunConfig, runtime: Runtime) -> Trainer:
    """Return the same on scaled series."""
    trainer = Trainer(config, data, scaler, runtime, Telemetry(None, 1))
    random, latent = torch.Generator().manual_seed(0), config.encoder.latent_dim
    rows = torch.randint(len(data), (POOL,), generator=random)
    drawn = {
        "cond": torch.randn(GROUPINGS, len(data), latent, generator=random),
        "pool_cond": torch.randn(POOL // SHARED, latent, generator=random).repeat_interleave(SHARED, dim=0),
        "pool_numbers": data.numbers[rows],
        "pool_start_index": data.start_index[rows],
        "pool_base": data.scores[rows],
    }
    trainer.state.drawn = {name: tensor.to(runtime.device) for name, tensor in drawn.items()}
    return trainer


def one_step(trainer: Trainer, kind: str) -> None:
    """Take the next step of a kind."""
    trainer.state.stage = STAGE[kind]
    trainer._adversarial_step() if kind == "step" else trainer._days_step()
    trainer.state.series_seen += trainer.config.training.batch_size


def cpu_seconds(rounds: int, **acts: Callable[[], object]) -> dict[str, float]:
    """Return the CPU-seconds of every act: the least of ``rounds`` in which they take turns, after one to warm up.

    A machine that others use is only ever slower than it is: of acts that take turns the least can be compared.
    """
    least = dict.fromkeys(acts, float("inf"))
    for number in range(rounds + 1):
        for name, act in acts.items():
            began = time.process_time()
            act()
            if number:
                least[name] = min(least[name], time.process_time() - began)
    return least


class Products(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def flops(act: Callable[[], object]) -> int:
    """Return the floating-point operations of ``act``'s matrix products, attention included."""
    # The fused attention of a CPU is not counted; the plain one does the same products.
    with sdpa_kernel(SDPBackend.MATH), Products() as counter:
        act()
    return counter.total


# ---- one process -----------------------------------------------------------------------------------------------------


def steps_of_a_year(rounds: int) -> list[dict[str, Any]]:
    """Return cost per series, share of a bare stack's rate, and waiting for data, at 2190 points."""
    trainer = make_trainer(2190, BATCH, LocalRuntime())
    every = trainer.config.loss.penalty_interval

    def waiting() -> None:
        for phase in ("discriminator", "generator"):
            trainer._adversarial_batch(phase)

    out = []
    for kind, name in (("step", "step"), ("days", "days step")):

        def steps(kind: str = kind) -> None:
            for _ in range(every):
                one_step(trainer, kind)

        bare, product = bare_blocks(trainer, kind), product_of(trainer.dtype)
        seconds = cpu_seconds(rounds, step=steps, bare=bare, product=product, waiting=waiting)
        trainer.state.series_seen = 0
        rate = flops(steps) / seconds["step"]
        limit = ANCESTOR_CPU_SECONDS / 60 if kind == "step" else None
        of_bare, of_product = flops(bare) / seconds["bare"], PRODUCTS * 2 * SIDE**3 / seconds["product"]
        out += [
            figure(f"{name}, 2190 points, batch 16: CPU-s per series", seconds["step"] / every / BATCH, limit),
            figure(f"{name}: FLOP rate over that of a bare stack of its blocks", rate / of_bare, at_least=0.8),
            figure(f"{name}: GFLOP per CPU-s", rate / 1e9),
            figure(f"{name}: FLOP rate over that of large matrix products", rate / of_product),
        ]
        if kind == "step":
            share = seconds["waiting"] * every / seconds["step"]
            out.append(figure("share of a step spent on fetching its data and noise", share, 0.02))
    return out


def bare_blocks(trainer: Trainer, kind: str) -> Callable[[], None]:
    """Return what runs the blocks of one step alone, each on as many tokens as there, forward and backward.

    Same widths, batch and precision. What a step adds (embeddings, losses, penalty, optimizer, averages) is left out.
    """
    seen: list[tuple[Block, torch.Size, torch.Tensor | None]] = []
    hooks = [
        module.register_forward_pre_hook(lambda block, given: seen.append((block, given[0].shape, *given[1:2])))
        for module in trainer.state.networks.modules()
        if isinstance(module, Block)
    ]
    one_step(trainer, kind)
    for hook in hooks:
        hook.remove()
    calls = [
        (Block(block.norm_mlp.normalized_shape[0], block.heads), torch.randn(shape, requires_grad=True), *mask)
        for block, shape, *mask in seen
    ]

    def act() -> None:
        for block, given, *mask in calls:
            with autocast(trainer.dtype, torch.device("cpu")):
                made = block(given, *mask)
            made.float().square().mean().backward()

    return act


def product_of(dtype: torch.dtype) -> Callable[[], None]:
    """Return what multiplies large matrices, `PRODUCTS` times."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))

    def act() -> None:
        for _ in range(PRODUCTS):
            a @ b

    return act


def measure_length(length: int, rounds: int) -> None:
    """Print what steps at this length take, as a process of its own."""
    torch.set_num_threads(1)
    trainer = make_trainer(length, BATCH, LocalRuntime())
    before = peak_bytes()
    every = trainer.config.loss.penalty_interval

    def act() -> None:
        for _ in range(every):
            one_step(trainer, "step")

    seconds = cpu_seconds(rounds, step=act)["step"] / every
    peak = peak_bytes()
    days = cpu_seconds(rounds, days=lambda: one_step(trainer, "days"))["days"]
    tokens = trainer.data.shape.num_tokens
    print(json.dumps({"tokens": tokens, "seconds": seconds, "before": before, "peak": peak, "days": days}))


def peak_bytes() -> int:
    """Return the largest memory that this process has held."""
    # Not ru_maxrss, which begins at what the parent process held.
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def growth(passes: int) -> list[dict[str, Any]]:
    """Return time and memory by length, each length in a process of its own; of several passes the least."""
    told: dict[int, dict[str, float]] = {}
    for _ in range(passes):
        for length in LENGTHS:
            words = [sys.executable, __file__, "--length", str(length)]
            new = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            told[length] = {key: min(value, told.get(length, new)[key]) for key, value in new.items()}
    out, first = [], told[LENGTHS[0]]
    for length, at in told.items():
        limit = 2.0 if length == 8760 else None
        name = f"{length} points"
        out += [
            figure(f"{name}: peak memory of the process of a step, GB", at["peak"] / GIGABYTE, limit),
            figure(f"{name}: memory that the step adds, GB", (at["peak"] - at["before"]) / GIGABYTE),
            figure(f"{name}: CPU-s of a step", at["seconds"]),
            figure(f"{name}: CPU-s of a days step", at["days"]),
        ]
        if length != LENGTHS[0]:
            tokens = at["tokens"] / first["tokens"]
            out.append(figure(f"{name}: tokens over those of {LENGTHS[0]} points", tokens))
            for what, key in (
                ("CPU-s of a step", "seconds"),
                ("CPU-s of a days step", "days"),
                ("peak memory", "peak"),
            ):
                ratio = at[key] / first[key]
                out.append(figure(f"{name}: {what} over that of {LENGTHS[0]} points", ratio, GROWTH * tokens))
    return out


def files_out_of_memory(steps: int) -> list[dict[str, Any]]:
    """Return how long a step waits for series of files of which nothing is in memory, at 8760 points."""
    config = recipes.override(recipes.base(), [f"training.batch_size={BATCH}"])
    values, starts, names = population(8760, FILED)
    scaler = api.fit_scaler(values, starts, YEAR_SECONDS // 8760, config)
    data, files = in_files(values, starts, names, scaler, config)
    trainer = trainer_on(data, scaler, config, files)
    shares = {ahead: share_of_waiting(trainer, files, steps, ahead) for ahead in (True, False)}
    name = "series in files, none in memory: share of a step, by the clock, until its data and noise are there"
    return [figure(name, shares[True], 0.02), figure(f"{name}, not asked ahead", shares[False])]


def measure_parts(parts: int) -> None:
    """Print the memory that a step of a large batch adds when it is worked on in parts, as a process of its own."""
    torch.set_num_threads(1)
    trainer = make_trainer(2190, LARGE_BATCH, LocalRuntime(), "base", f"training.accumulation={parts}")
    before, began = peak_bytes(), time.process_time()
    one_step(trainer, "step")
    print(json.dumps({"bytes": peak_bytes() - before, "seconds": time.process_time() - began}))


def batches_in_parts() -> list[dict[str, Any]]:
    """Return what `training.accumulation` saves and costs."""
    told = []
    for parts in (1, PARTS):
        words = [sys.executable, __file__, "--parts", str(parts)]
        told.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    name = f"batch {LARGE_BATCH} in {PARTS} parts over the whole"
    return [
        figure(f"{name}: memory that a step adds", told[1]["bytes"] / told[0]["bytes"], 0.5),
        figure(f"{name}: CPU-s", told[1]["seconds"] / told[0]["seconds"]),
    ]


# ---- two processes ---------------------------------------------------------------------------------------------------


def work(rank: int, folder: str, rounds: int) -> None:
    """Take the same steps in turn as the only worker and as one of two; write the seconds of every round."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trainers = [make_trainer(2190, 2 * BATCH, runtime) for runtime in (LocalRuntime(), ProcessGroupRuntime())]
    taken: dict[str, list[dict[str, list[float]]]] = {kind: [] for kind in STAGE}
    for kind in STAGE:
        for number in range(rounds + 1):
            seconds = {}
            for name, trainer in zip(("alone", "paired"), trainers, strict=True):
                dist.barrier()
                if name == "alone" and rank:
                    continue  # waits at the next barrier, without computing
                began, clock = time.process_time(), time.monotonic()
                for _ in range(STEPS_OF_A_ROUND[kind]):
                    one_step(trainer, kind)
                seconds[name] = [time.monotonic() - clock, time.process_time() - began]
            if number:  # the first warms up
                taken[kind].append(seconds)
    Path(f"{folder}/{rank}.json").write_text(json.dumps(taken))
    dist.destroy_process_group()


def workers(rounds: int) -> list[dict[str, Any]]:
    """Return how many more series per second two workers of one thread see than one does; 32 series a step.

    One and two take turns, so that a change of the machine's speed meets both; the least of the rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (folder, rounds), nprocs=2, start_method="spawn")
        told = [json.loads(Path(f"{folder}/{rank}.json").read_text()) for rank in range(2)]
    out = []
    for kind, name in (("step", "step"), ("days", "days step")):
        rounds_of_both = list(zip(told[0][kind], told[1][kind], strict=True))
        alone, paired = (
            [min(max(rank[who][i] for rank in both if who in rank) for both in rounds_of_both) for i in (0, 1)]
            for who in ("alone", "paired")
        )
        out += [
            figure(f"{name}: series per second by the clock, two workers over one", alone[0] / paired[0], at_least=1.8),
            figure(f"{name}: CPU-s of one worker over those of the busier of two", alone[1] / paired[1], at_least=1.8),
            figure(f"{name}: two workers, share of the clock that they compute", paired[1] / paired[0]),
        ]
    return out


# ---- the whole -------------------------------------------------------------------------------------------------------


def figure(name: str, value: float, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """Return a line of the result, and print it."""
    limit = at_most if at_least is None else at_least
    ok = True if limit is None else bool(value <= limit if at_least is None else value >= limit)
    line = {"name": name, "value": float(f"{value:.4g}"), "limit": None if limit is None else round(limit, 4), "ok": ok}
    print(json.dumps(line), flush=True)
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: two to three minutes on one thread")
    parser.add_argument("--keep", default="", help="folder for the figures, as train-<date>.json")
    parser.add_argument("--length", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--parts", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.length:
        measure_length(options.length, 1)
        return 0
    if options.parts:
        measure_parts(options.parts)
        return 0
    torch.set_num_threads(1)
    lines = steps_of_a_year(2 if options.quick else 6)
    lines += growth(1 if options.quick else 4)
    lines += batches_in_parts()
    lines += files_out_of_memory(4 if options.quick else 16)
    lines += workers(2 if options.quick else 9)
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
