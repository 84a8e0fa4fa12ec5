"""What several test files share: one small population, one small configuration, a trained state."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_pool import small_pool

from ttsgan import api, recipes
from ttsgan.config import RunConfig
from ttsgan.data.simulate import simulate
from ttsgan.training.dataset import TrainSet, build_train_set
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime

STEP = 14_400
DAYS = 42
SMALL = {
    "recipe": "quick",
    "encoder": {"width": 16, "depth": 1, "heads": 2, "latent_dim": 4},
    "household": {"quantile_components": 3, "habit_components": 4},
    "days": {"width": 16, "depth": 1, "heads": 2, "memory": 10, "crop": 28, "values": 4, "mixtures": 2},
    "generator": {"width": 16, "heads": 2, "noise_dim": 4},
    "discriminator": {"width": 16, "depth": 2, "heads": 2},
    "cluster": {"min_group_size": 10, "groups": 2, "outlier_quantile": 1.0, "max_dominance": 1.0},
    "training": {
        "max_series": 120,
        "batch_size": 8,
        "encoder_share": 0.3,
        "days_share": 0.4,
        "precision": "fp32",
        "checkpoint_interval": 1_000_000,
    },
    "generate": {"chunk": 8},
    "runtime": {"num_workers": 0},
}


def pytest_configure(config):
    torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config):
    """Share the quick tests among processes; Ray, slow tests and benchmarks have the machine to themselves."""
    quick = all(f"not {kind}" in config.option.markexpr for kind in ("ray", "slow", "benchmark"))
    return min(4, os.cpu_count() or 1) if quick else 0


@pytest.fixture(scope="session", autouse=True)
def small_training():
    """Draw a small pool in every training of the tests."""
    with small_pool():
        yield


@dataclasses.dataclass(frozen=True)
class Sample:
    """Series (n, 1, L) of 42 days of 4-hour means, with a few gaps."""

    values: np.ndarray
    starts: np.ndarray
    entities: np.ndarray
    step_seconds: int = STEP


@pytest.fixture(scope="session")
def sample() -> Sample:
    people = simulate(256)
    rows = np.flatnonzero(~np.isnan(people.values[..., : 6 * DAYS]).any(axis=(1, 2)))[:48]
    values = people.values[rows, :, : 6 * DAYS].copy()
    values[3, 0, 100:112] = np.nan
    values[7, 0, :6] = np.nan
    values[11, 0, -3:] = np.nan
    return Sample(values, people.starts[rows], people.ids[rows])


@pytest.fixture(scope="session")
def small_config() -> RunConfig:
    return recipes.from_dict(SMALL)


@pytest.fixture(scope="session")
def small(sample, small_config) -> SimpleNamespace:
    """The sample, scaled, with its configuration; `TrainSet` is never changed by training."""
    scaler = api.fit_scaler(sample.values, sample.starts, sample.step_seconds, small_config)
    data: TrainSet = build_train_set(sample.values, sample.starts, sample.entities, scaler, small_config)
    return SimpleNamespace(config=small_config, scaler=scaler, data=data, sample=sample)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real series, or a skip that says why."""
    folder = Path(os.environ.get("TTSGAN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there; set TTSGAN_DATA")
    return folder


class Recorder:
    """Keeps what training says of itself."""

    def __init__(self):
        self.lines, self.pictures = [], []

    def report(self, stage, series_seen, figures, doing=""):
        if not doing:
            self.lines.append((stage, series_seen, dict(figures)))

    def picture(self, *args):
        self.pictures.append(args)

    def of(self, name):
        return [figures[name] for *_, figures in self.lines if name in figures]


@pytest.fixture(scope="session")
def trainer(small):
    """Make a trainer of the small configuration with overrides; its telemetry is a `Recorder`."""

    def make(*assignments, score=None, runtime=None, data=None) -> Trainer:
        config = recipes.override(small.config, assignments)
        return Trainer(config, data or small.data, small.scaler, runtime or LocalRuntime(), Recorder(), score)

    return make


@pytest.fixture(scope="session")
def two_stages():
    """Run a trainer's first two stages, and stop before the adversarial one."""

    def run(made: Trainer) -> Trainer:
        for _ in range(2):
            made._enter()
            made._run_stage()
            made._leave()
            made.state.stage, made.state.series_seen = made.state.stage + 1, 0
        return made

    return run


@pytest.fixture(scope="session")
def folder(trainer, two_stages, tmp_path_factory) -> Path:
    """Checkpoint at the start of the adversarial stage."""
    where = tmp_path_factory.mktemp("adversarial")
    LocalRuntime(where).save("start", two_stages(trainer()).state.files(), {})
    return where / "checkpoint_start"


@pytest.fixture(scope="session")
def adversarial(trainer, folder):
    """Make a trainer that stands at the start of the adversarial stage, its pool drawn."""

    def make(*assignments) -> Trainer:
        made = trainer(*assignments)
        # Not `load`: the stages before it are the same for every setting that these tests change.
        made.state.restore({path.name: path.read_bytes() for path in folder.iterdir()})
        made._enter()
        made.state.networks.train()
        return made

    return make
