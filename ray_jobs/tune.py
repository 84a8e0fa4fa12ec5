"""Search with Ray Tune: each trial is one Ray Train run; trials are compared by the temporal prior's validation loss.

Optuna proposes settings, none twice; trials that fall behind are stopped early.

The validation loss is in nats per value of one scaled series, so that it is comparable between patch sizes. It is
measured on training entities set apart for validation: the holdout plays no part in the choice.
"""

import logging
import math
import os
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from ray import tune
from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from ray_jobs.console import Console
from ray_jobs.folder import RunFolder
from ray_jobs.machines import check_resources, check_this_machine, resources_of_worker, start_ray
from ray_jobs.runtime import RayRuntime
from ray_jobs.train import SCALER_FILE, SILENCE_SECONDS, fit_run_scaler, train_worker
from ttsgan import recipes
from ttsgan.config import RunConfig
from ttsgan.data.calendar import slots_per_day
from ttsgan.data.prepare import MOST_POINTS
from ttsgan.data.storage import Location
from ttsgan.data.tables import write_table
from ttsgan.errors import ConfigError
from ttsgan.training.loop import UNKNOWN_LOSS
from ttsgan.training.state import stage_series

METRIC = "validation"
DEPTHS = (1, 2, 3, 4)
LATENT_DIMS = (8, 16, 32)
AT_RANDOM = 5
"""Trials with random settings before Optuna proposes any."""


def search_space(config: RunConfig, step_seconds: int) -> dict[str, tuple[int, ...]]:
    """Return the values to try for each field: half a day, a day or two days per token, depths, latent dimensions."""
    day = config.patch.size or slots_per_day(step_seconds)
    return {
        "patch.size": tuple(sorted({max(1, day // 2), day, *([2 * day] if 2 * day <= MOST_POINTS else [])})),
        "days.depth": DEPTHS,
        "encoder.latent_dim": LATENT_DIMS,
    }


class Untried(TPESampler):
    """Optuna's TPE sampler that tries no setting twice, because the loss would be the same.

    Parameters
    ----------
    space : dict of str to tuple
        The values of each field.
    seed : int
    """

    def __init__(self, space: dict[str, tuple[int, ...]], seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=AT_RANDOM)
        self.space = {name: CategoricalDistribution(values) for name, values in space.items()}
        self.values = space
        self.settings = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
        self.random = np.random.default_rng(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all fields, because they are always sampled together."""
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the untried setting nearest to Optuna's proposal, or a random one before there are proposals."""
        tried = [other.params for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        left = [setting for setting in self.settings if setting not in tried]
        proposed = super().sample_relative(study, trial, search_space)
        self.random.shuffle(left)
        return min(left, key=lambda setting: self._steps_between(setting, proposed)) if proposed else left[0]

    def _steps_between(self, one: dict[str, Any], other: dict[str, Any]) -> int:
        """Return the distance of two settings: the steps between their values in each field's list, added up."""
        return sum(abs(v.index(one[name]) - v.index(other[name])) for name, v in self.values.items())


class TrialLines(Callback):
    """Prints that a trial ended or failed, and the progress of running trials."""

    def __init__(self, console: Console, planned: int, series: int) -> None:
        self.console, self.planned, self.series = console, planned, series

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the console: Tune pickles its callbacks, and a terminal cannot be pickled."""
        return {**vars(self), "console": None}

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        """Show the progress of a trial."""
        self.console.progress(f"{self._name(trials, trial)}: {self._so_far(result)}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Print the result of a trial."""
        early = ", stopped early" if trial.last_result.get("series_seen", 0) < self.series else ""
        self.console.say(f"    {self._name(trials, trial)}: {self._so_far(trial.last_result)}{early}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Print why a trial failed."""
        error = Path(trial.error_file)
        why = reason(error.read_text()) if error.is_file() else "why is told at the end"
        self.console.say(f"    {self._name(trials, trial)} failed: {why}")

    def _name(self, trials: list[Trial], trial: Trial) -> str:
        chosen = ", ".join(f"{name} = {value}" for name, value in trial.evaluated_params.items())
        return f"trial {trials.index(trial) + 1} of {self.planned} ({chosen})"

    def _so_far(self, result: dict) -> str:
        loss = result.get(METRIC, UNKNOWN_LOSS)
        told = f"validation {loss:.4f}" if loss < UNKNOWN_LOSS else "no validation yet"
        return f"{told} after {result.get('series_seen', 0)} of {self.series} series"


def reason(error: Exception | str) -> str:
    """Return the last line of an error or traceback, which says what was wrong; at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _trial_worker(settings: dict[str, Any]) -> None:
    train_worker(
        Location.parse(settings["where"]), recipes.from_dict(settings["config"]), RayRuntime(), keep_model=False
    )


def run_tune(folder: RunFolder, console: Console, address: str, trials: int) -> None:
    """Try ``trials`` configurations; write ``trials.parquet`` and ``best.json`` into the run folder.

    Raises
    ------
    ConfigError
        If no trial reached a validation, or the cluster is too small for the concurrent trials.
    """
    where, config = folder.where, folder.config
    space = search_space(config, folder.summary("prepare")["step_seconds"])
    trials = min(trials, math.prod(len(values) for values in space.values()))
    at_once = min(trials, config.runtime.max_concurrent_trials)
    if address == "local":
        check_this_machine(config.runtime, at_once)
    # To free the machines of a trial that is stopped early, Ray Train uses the state API, which the dashboard serves.
    start_ray(config.runtime, address, dashboard=True, trials=at_once)
    # Trials are not elastic, so that all are compared on the same number of workers.
    check_resources(replace(config.runtime, min_workers=0), at_once)
    # Remove the trials of an earlier search, finished or interrupted: this search starts anew.
    (where / "trials").remove()
    if not (where / "checkpoints" / SCALER_FILE).is_file():
        fit_run_scaler(folder)
    with console.working(f"searching {' x '.join(f'{k} {list(v)}' for k, v in space.items())}, {trials} trials"):
        rows = [_row(result, space) for result in _search(where, config, space, trials, console)]
    finished = sorted((row for row in rows if row[METRIC] < UNKNOWN_LOSS), key=lambda row: row[METRIC])
    errors = [row["error"] for row in rows if row["error"]]
    if not finished:
        why = f"{len(errors)} failed, the first by: {errors[0]}" if errors else "raise training.max_series"
        raise ConfigError(f"none of {trials} trials came to a validation; {why}")
    write_table(where / "trials.parquet", {name: np.array([row[name] for row in rows]) for name in rows[0]})
    if errors:
        console.say(f"{len(errors)} of {trials} trials failed: column error of {where / 'trials.parquet'}")
    best = recipes.override(config, [f"{name}={finished[0][name]}" for name in space])
    (where / "best.json").write_json(recipes.to_dict(best))
    console.table(
        "Trials, best first",
        [(f"{row[METRIC]:.4f}", ", ".join(f"{n} = {row[n]}" for n in space) + f" ({row['series_seen']} series)")
         for row in finished[:8]]
        + [("best", f"ttsgan run --config {(where / 'best.json').quoted} --out ANOTHER_FOLDER")],
    )  # fmt: skip


def _search(
    where: Location, config: RunConfig, space: dict[str, tuple[int, ...]], trials: int, console: Console
) -> tune.ResultGrid:
    """Train each trial in its own Ray Train run; stop those that fall behind."""
    storage, uri = where / "trials", where.uri
    settings, runtime = recipes.to_dict(config), config.runtime

    def trial(chosen: dict[str, int]) -> None:
        tried = recipes.override(recipes.from_dict(settings), [f"{name}={value}" for name, value in chosen.items()])
        TorchTrainer(
            _trial_worker,
            train_loop_config={"where": uri, "config": recipes.to_dict(tried)},
            torch_config=TorchConfig(timeout_s=SILENCE_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=max(runtime.num_workers, 1),
                use_gpu=runtime.use_gpu,
                resources_per_worker=resources_of_worker(runtime),
            ),
            run_config=TrainRunConfig(
                name=f"trial-{tune.get_context().get_trial_id()}",
                storage_path=storage.path,
                storage_filesystem=storage.filesystem,
                failure_config=FailureConfig(max_failures=runtime.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    total = sum(stage_series(config.training, stage) for stage in ("encoder", "days"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # `TrialLines` prints one line for a failed trial; hide Tune's own output of its error.
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    return tune.Tuner(
        # A trial's driver only waits; its training workers hold the CPUs.
        tune.with_resources(trial, {"CPU": 0.1}),
        param_space={name: tune.choice(list(values)) for name, values in space.items()},
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            search_alg=OptunaSearch(sampler=Untried(space, config.seed)),
            scheduler=ASHAScheduler(
                time_attr="series_seen", max_t=total, grace_period=_grace(config), reduction_factor=2
            ),
            num_samples=trials,
            max_concurrent_trials=runtime.max_concurrent_trials,
        ),
        run_config=tune.RunConfig(name="search", storage_path=storage.path, storage_filesystem=storage.filesystem,
                                  verbose=0, callbacks=[TrialLines(console, trials, total)]),
    ).fit()  # fmt: skip


def _grace(config: RunConfig) -> int:
    """Return the number of series before which no trial is stopped: the encoder stage and a quarter of the prior's."""
    days = stage_series(config.training, "days")
    return stage_series(config.training, "encoder") + max(config.training.batch_size, days // 4)


def _row(result: Any, space: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    metrics = result.metrics or {}
    return {
        "trial_id": metrics.get("trial_id", ""),
        **{name: (result.config or {}).get(name, 0) for name in space},
        METRIC: float(metrics.get(METRIC, np.inf)),
        "series_seen": int(metrics.get("series_seen", 0)),
        "error": reason(result.error) if result.error else "",
    }
