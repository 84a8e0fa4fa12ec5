"""The Python API: an estimator, and the steps of training that all drivers share.

    model = TTSGAN(recipes.quick()).fit(values, step_seconds=14_400)
    synthetic = model.sample(500)

Axis letters: B series, C channels, L points, Z latent.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from ttsgan import recipes
from ttsgan.clustering import allocate, form_groups
from ttsgan.config import RunConfig
from ttsgan.data.arrays import checked_entities, checked_starts, checked_values
from ttsgan.data.marginals import MIN_HOMES
from ttsgan.data.prepare import day_points
from ttsgan.data.scaling import SeriesScaler
from ttsgan.data.split import check_enough
from ttsgan.errors import ConfigError, DataError, NotFittedError
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged
from ttsgan.seeds import seed_of
from ttsgan.synthesis import Plan, make_plan, shared_starts
from ttsgan.trained_model import Model
from ttsgan.training.dataset import TrainSet, build_train_set
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime, Runtime, device_of
from ttsgan.training.state import TrainState, total_series, work_left
from ttsgan.training.telemetry import Telemetry
from ttsgan.training.transitions import encode_all

MAX_SCALER_ROWS = 5_000
"""Random training series that the scaler is fitted on, if there are more; more change its averages little."""
CLOSENESS_ENTITIES = 1_000
"""Most entities in each half that synthetic series are compared with; each score draws some hundred of them."""


def fit_scaler(
    values: NDArray[np.float32],
    starts: NDArray,
    step_seconds: int,
    config: RunConfig,
    entities: NDArray | None = None,
) -> SeriesScaler:
    """Fit the scaler on training series (B, C, L); by default each series is an entity.

    If there are more than `MAX_SCALER_ROWS` series, it is fitted on those of `scaler_rows`.
    """
    entities = np.arange(len(values)) if entities is None else entities
    if len(values) > MAX_SCALER_ROWS:
        rows = scaler_rows(np.nanmin(values, axis=2), entities, config.seed)
        values, starts, entities = values[rows], starts[rows], entities[rows]
    return SeriesScaler(config.household, step_seconds).fit(values, starts, config.seed, entities)


def scaler_rows(lowest: NDArray[np.float32], entities: NDArray, seed: int) -> NDArray[np.int64]:
    """Return the rows of many training series that the scaler is fitted on, given the lowest value (B, C) of each.

    These are `MAX_SCALER_ROWS` random rows, and rows with and without negative values in each channel.
    """
    few = np.random.default_rng(seed).choice(np.arange(len(lowest)), MAX_SCALER_ROWS, replace=False)
    rows = [few]
    for below in (lowest < 0).T:
        # Add `MIN_HOMES` households of each kind, with and without negative values, or the scaler could miss a kind.
        for kind in (below, ~below) if below.any() and not below.all() else ():
            at = np.flatnonzero(kind)
            rows.append(at[np.unique(entities[at], return_index=True)[1][:MIN_HOMES]])
    return np.unique(np.concatenate(rows))


def closeness_rows(entities: NDArray, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the training series of two disjoint sets of entities, at most `CLOSENESS_ENTITIES` each."""
    names = np.random.default_rng(seed_of(seed, "closeness")).permutation(np.unique(entities))
    middle = len(names) // 2
    one, other = (half[:CLOSENESS_ENTITIES] for half in (names[:middle], names[middle:]))
    return np.flatnonzero(np.isin(entities, one)), np.flatnonzero(np.isin(entities, other))


def closeness(one: Judged, other: Judged, seed: int) -> Callable[[NDArray[np.float32], NDArray], float]:
    """Return a function that scores synthetic series (B, C, L) with starts (B,) by the headline of the evaluation.

    Both sets are training series, from `closeness_rows`, so that choices by this score do not depend on the holdout.
    """

    def score(synthetic: NDArray[np.float32], starts: NDArray) -> float:
        names = np.arange(len(synthetic)).astype(str)
        made = dataclasses.replace(one, values=synthetic, entities=names, starts=starts)
        only_headline = {"max_series": len(synthetic), "bootstrap": 0, "classifier_series": 0}
        return evaluate(one, other, made, seed=seed, **only_headline)["headline"]["value"]

    return score


def train(
    data: TrainSet,
    scaler: SeriesScaler,
    config: RunConfig,
    runtime: Runtime,
    log_folder: Path | None,
    score: Callable[[NDArray, NDArray], float] | None,
) -> TrainState:
    """Train to the end, from ``runtime``'s newest checkpoint or from the start. Collective."""
    log_folder = log_folder if runtime.rank == 0 else None
    telemetry = Telemetry(log_folder, total_series(config.training), partial(work_left, config.training))
    try:
        return Trainer(config, data, scaler, runtime, telemetry, score).train()
    finally:
        telemetry.close()


class TTSGAN:
    """Estimator that fits on series and samples new ones in this process; on a GPU with ``runtime.use_gpu``.

    Parameters
    ----------
    config : RunConfig, optional
        From `ttsgan.recipes`; the ``quick`` recipe by default.

    Attributes
    ----------
    model_ : Model
        After `fit`.
    cond_ : ndarray (G, Z), float32
        Condition of each group.
    member_groups_ : ndarray (entities,), int64
        Group of each training entity, in the order of their names; determines how many series each group gets.
    starts_ : ndarray, datetime64[s]
        Possible starts of new series, one for each training series.
    """

    def __init__(self, config: RunConfig | None = None) -> None:
        if config is not None and not isinstance(config, RunConfig):
            raise ConfigError(f"config is {config!r}; allowed: a RunConfig, such as ttsgan.recipes.quick()")
        self.config = config or recipes.quick()

    def __getstate__(self) -> dict:
        """Return what `pickle` keeps: the configuration and, of a fitted estimator, the files of `save`."""
        return {"config": self.config, "files": self._files() if hasattr(self, "model_") else None}

    def __setstate__(self, state: dict) -> None:
        """Restore the estimator, on the CPU."""
        self.config = state["config"]
        if state["files"] is not None:
            self._restore(state["files"].__getitem__, "cpu")

    def fit(
        self,
        values: NDArray[np.float32],
        *,
        step_seconds: int,
        starts: NDArray | None = None,
        entities: NDArray | None = None,
    ) -> "TTSGAN":
        """Fit on series.

        Parameters
        ----------
        values : ndarray or data frame (B, L) or ndarray (B, C, L)
            Physical units; NaN or masked where missing.
        step_seconds : int
            Time step of the series, in seconds.
        starts : ndarray (B,), datetime64, optional
            First time stamp of each series, in UTC or local time; those with a time zone are taken in UTC. 2013-01-01
            by default.
        entities : ndarray (B,), str, optional
            Entity (unit of protection) that each series belongs to; by default each series is its own.

        Raises
        ------
        DataError
            If an argument has the wrong shape, ``values`` are no numbers or infinite, a series is constant or wholly
            missing in a channel or has fewer values than ``data.min_observed``, a channel is zero in every series,
            ``starts`` are not times, an entity is missing, there are too few entities for two groups, or tokens do
            not fit the step.
        ConfigError
            If ``step_seconds`` is not a positive whole number, the precision or a GPU asked for is not to be had here,
            or the batch cannot be divided as ``training.accumulation`` says.
        DivergedError
            If training still diverges after its last rollback.
        """
        if not isinstance(step_seconds, (int, np.integer)) or step_seconds < 1:
            raise ConfigError(f"step_seconds is {step_seconds!r}; allowed: a whole number of seconds, 1 or more")
        values = checked_values(values, self.config.data.min_observed)
        starts, entities = checked_starts(starts, len(values)), checked_entities(entities, len(values))
        check_enough(entities, self.config.cluster.min_group_size)
        day_points(int(step_seconds), self.config.patch)  # a step that gives no tokens is refused before training
        device = device_of(self.config.runtime)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device == "cuda" else ()):
            self._fit(values, starts, entities, int(step_seconds), device)
        return self

    def _fit(
        self, values: NDArray[np.float32], starts: NDArray, entities: NDArray, step_seconds: int, device: str
    ) -> None:
        runtime = LocalRuntime(device=device)
        scaler = fit_scaler(values, starts, step_seconds, self.config, entities)
        data = build_train_set(values, starts, entities, scaler, self.config)
        whole = Judged(values=values, entities=entities, starts=starts, step_seconds=step_seconds, unit="")
        score = closeness(*map(whole.take, closeness_rows(entities, self.config.seed)), self.config.seed)
        state = train(data, scaler, self.config, runtime, None, score)
        self.model_ = Model(state.average, scaler, self.config)
        latents = encode_all(state.average, data.to(runtime.device), runtime).cpu().numpy()
        groups = form_groups(entities, latents, data.level, self.config.cluster, self.config.seed)
        self.cond_, self.member_groups_ = groups.conditions.cond, groups.members.group_id
        self.starts_ = shared_starts(starts, entities, self.config.cluster.min_group_size)

    def _plan(self, count: int) -> Plan:
        self._require_fitted()
        if not isinstance(count, (int, np.integer)) or count < 0:
            raise ConfigError(f"count is {count!r}; allowed: a whole number, 0 or more")
        return make_plan(self.cond_, allocate(self.member_groups_, count), self.starts_, self.config.seed)

    def sample_starts(self, count: int) -> NDArray:
        """Return the first time stamp (count,), datetime64[s], of each series that ``sample(count)`` returns."""
        return self._plan(count).start.astype("datetime64[s]")

    def sample(self, count: int) -> NDArray[np.float32]:
        """Return ``count`` new series (count, C, L) in physical units; the same ones in every call.

        They depend on ``count``: those of a larger set do not begin with those of a smaller one.
        """
        plan = self._plan(count)
        chunk, synthesizer = self.config.generate.chunk, self.model_.synthesizer()
        shape = self.model_.networks.shape
        parts = [np.empty((0, shape.channels, shape.length), dtype=np.float32)]
        for index in range(-(-count // chunk)):
            part = plan.chunk(index, chunk)
            parts.append(synthesizer.draw(self.cond_[part.group], part.start, index))
        return np.concatenate(parts)

    def save(self, folder: str | Path) -> None:
        """Write the estimator into ``folder``. It contains information on training households: keep it confidential.

        Raises
        ------
        DataError
            If it cannot be written; an estimator that was there before is unchanged then.
        """
        files, folder = self._files(), Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                (folder / f".{name}.new").write_bytes(data)
            for name in files:
                (folder / f".{name}.new").replace(folder / name)
        except OSError as error:
            raise DataError(f"the estimator cannot be written into {folder}: {error}; choose another folder") from error

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "TTSGAN":
        """Load an estimator written by `save` onto ``device``.

        Raises
        ------
        DataError
            If it is missing, damaged, or from another version of ttsgan.
        ConfigError
            If ``device`` is not there.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device is {device!r}, but torch finds no GPU here; allowed: 'cpu'")
        estimator = cls()
        try:
            estimator._restore(lambda name: (Path(folder) / name).read_bytes(), device)
        except OSError as error:
            raise DataError(f"{folder} is not an estimator that save wrote: {error}") from error
        except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
            raise DataError(f"{folder} holds a damaged estimator ({error}); save it again") from error
        return estimator

    def _files(self) -> dict[str, bytes]:
        """Return the estimator as named files."""
        self._require_fitted()
        groups = {
            "cond": self.cond_,
            "member_groups": self.member_groups_,
            "starts": self.starts_.astype("datetime64[s]").astype(np.int64),
        }
        return self.model_.files() | {"groups.safetensors": safetensors.numpy.save(groups)}

    def _restore(self, read: Callable[[str], bytes], device: str) -> None:
        """Restore the estimator from `_files`; ``read`` returns the content of a file by name."""
        model = Model.load(read, device)
        groups = safetensors.numpy.load(read("groups.safetensors"))
        self.cond_, self.member_groups_, starts = (groups[name] for name in ("cond", "member_groups", "starts"))
        self.starts_, self.model_, self.config = starts.astype("datetime64[s]"), model, model.config

    def _require_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError("the estimator has not been fitted; call fit first")
