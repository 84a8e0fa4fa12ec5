"""Tools to measure training steps: trainers on simulated households, single steps, CPU time, lines of figures.

Axis letters: M series, L time steps.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ttsgan import api, recipes
from ttsgan.config import SHARED, RunConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.data.simulate import simulate
from ttsgan.training.dataset import TrainSet, build_train_set
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import Runtime
from ttsgan.training.telemetry import Telemetry
from ttsgan.training.transitions import GROUPINGS

BATCH = 16
YEAR_SECONDS = 365 * 86_400
LENGTHS = (2190, 4380, 8760, 17_520)
HOUSEHOLDS = 32
POOL = 64
STAGE = {"step": 2, "days": 1}


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
    return trainer_on(build_train_set(values, starts, names, scaler, config), scaler, config, runtime)


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


def take_steps(trainer: Trainer, kind: str, count: int) -> None:
    """Take the next steps of a kind: an adversarial one of both networks ("step"), or one of the prior ("days")."""
    trainer.state.stage = STAGE[kind]
    for _ in range(count):
        trainer._adversarial_step() if kind == "step" else trainer._days_step()
        trainer.state.series_seen += trainer.config.training.batch_size


def cpu_seconds(rounds: int, acts: Mapping[Any, Callable[[], object]]) -> dict[Any, float]:
    """Return the CPU-seconds of every act: the minimum over ``rounds`` in which the acts take turns.

    Other load on the machine only ever makes an act slower, so the minima of acts that take turns are comparable.
    """
    least = dict.fromkeys(acts, float("inf"))
    for _ in range(rounds):
        for name, act in acts.items():
            began = time.process_time()
            act()
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
    # Fused attention on a CPU would not be counted; the plain one computes the same products.
    with sdpa_kernel(SDPBackend.MATH), Products() as counter:
        act()
    return counter.total


def figure(name: str, value: float, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """Return a line of the result, and print it."""
    limit = at_most if at_least is None else at_least
    ok = True if limit is None else bool(value <= limit if at_least is None else value >= limit)
    line = {"name": name, "value": float(f"{value:.4g}"), "limit": None if limit is None else round(limit, 4), "ok": ok}
    print(json.dumps(line), flush=True)
    return line
