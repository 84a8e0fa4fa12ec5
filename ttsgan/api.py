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
from numpy.typing import NDArray
from safetensors import SafetensorError

from ttsgan import recipes
from ttsgan.clustering import allocate, form_groups
from ttsgan.config import RunConfig
from ttsgan.data.marginals import MIN_HOMES
from ttsgan.data.prepare import day_points
from ttsgan.data.quantiles import informative
from ttsgan.data.scaling import SeriesScaler
from ttsgan.data.split import check_enough
from ttsgan.data.steps import DEFAULT_START
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
        self.config = config or recipes.quick()

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
        values : ndarray (B, L) or (B, C, L)
            Physical units; NaN where missing.
        step_seconds : int
            Time step of the series, in seconds.
        starts : ndarray (B,), datetime64, optional
            First time stamp of each series; 2013-01-01 by default.
        entities : ndarray (B,), str, optional
            Entity (unit of protection) that each series belongs to; by default each series is its own.

        Raises
        ------
        DataError
            If an argument has the wrong shape, ``values`` are no numbers or infinite, a series is constant or wholly
            missing in a channel, ``starts`` are not times, there are too few entities for two groups, or tokens do not
            fit the step.
        ConfigError
            If ``step_seconds`` is not a positive whole number, or a GPU is requested but torch finds none.
        """
        if not isinstance(step_seconds, (int, np.integer)) or step_seconds < 1:
            raise ConfigError(f"step_seconds is {step_seconds!r}; allowed: a whole number of seconds, 1 or more")
        try:
            values = np.asarray(values, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"values hold what is no number ({error}); allowed: numbers, NaN where missing") from error
        values = values[:, None] if values.ndim == 2 else values
        if values.ndim != 3 or not values.size:
            shape = f"{values.ndim} dimensions" if values.ndim != 3 else f"the shape {values.shape}"
            raise DataError(f"values have {shape}; allowed: 2 (series, points) or 3 with channels, none of them empty")
        for name, given in (("starts", starts), ("entities", entities)):
            if given is not None and np.shape(given) != (len(values),):
                raise DataError(f"{name} has the shape {np.shape(given)}; one for each of {len(values)} is needed")
        infinite = np.flatnonzero(np.isinf(values).any(axis=(1, 2)))
        if len(infinite):
            raise DataError(f"series {infinite[0]} holds an infinite value; allowed: finite numbers, NaN where missing")
        usable = informative(values)
        if not usable.all():
            row = int(np.flatnonzero(~usable)[0])
            raise DataError(f"series {row} is constant or wholly missing in a channel; leave it out")
        usual = np.full(len(values), np.datetime64(DEFAULT_START, "s"))
        try:
            starts = usual if starts is None else np.asarray(starts).astype("datetime64[s]")
        except ValueError as error:
            raise DataError(f"starts hold what is no moment ({error}); allowed: datetime64, or ISO 8601") from error
        if np.isnat(starts).any():
            raise DataError("starts hold NaT; allowed: the first moment of every series")
        entities = np.arange(len(values)).astype(str) if entities is None else np.asarray(entities).astype(str)
        check_enough(entities, self.config.cluster.min_group_size)
        day_points(int(step_seconds), self.config.patch)  # a step that gives no tokens is refused before training
        device = device_of(self.config.runtime)
        scaler = fit_scaler(values, starts, step_seconds, self.config, entities)
        data = build_train_set(values, starts, entities, scaler, self.config)
        whole = Judged(values=values, entities=entities, starts=starts, step_seconds=step_seconds, unit="")
        score = closeness(*map(whole.take, closeness_rows(entities, self.config.seed)), self.config.seed)
        state = train(data, scaler, self.config, LocalRuntime(device=device), None, score)
        self.model_ = Model(state.average, scaler, self.config)
        latents = self.model_.encode(values, starts)
        groups = form_groups(entities, latents, data.level, self.config.cluster, self.config.seed)
        self.cond_, self.member_groups_ = groups.conditions.cond, groups.members.group_id
        self.starts_ = shared_starts(starts, entities, self.config.cluster.min_group_size)
        return self

    def _plan(self, count: int) -> Plan:
        self._require_fitted()
        if not isinstance(count, (int, np.integer)) or count < 0:
            raise ConfigError(f"count is {count!r}; allowed: a whole number, 0 or more")
        return make_plan(self.cond_, allocate(self.member_groups_, count), self.starts_, self.config.seed)

    def sample_starts(self, count: int) -> NDArray:
        """Return the first time stamp (count,), datetime64[s], of each series that ``sample(count)`` returns."""
        return self._plan(count).start.astype("datetime64[s]")

    def sample(self, count: int) -> NDArray[np.float32]:
        """Return ``count`` new series (count, C, L) in physical units; the same ones in every call."""
        plan = self._plan(count)
        chunk, synthesizer = self.config.generate.chunk, self.model_.synthesizer()
        shape = self.model_.networks.shape
        parts = [np.empty((0, shape.channels, shape.length), dtype=np.float32)]
        for index in range(-(-count // chunk)):
            part = plan.chunk(index, chunk)
            parts.append(synthesizer.draw(self.cond_[part.group], part.start, index))
        return np.concatenate(parts)

    def save(self, folder: str | Path) -> None:
        """Write the estimator into ``folder``. It contains information on training households: keep it confidential."""
        self._require_fitted()
        Path(folder).mkdir(parents=True, exist_ok=True)
        groups = {
            "cond": self.cond_,
            "member_groups": self.member_groups_,
            "starts": self.starts_.astype("datetime64[s]").astype(np.int64),
        }
        files = self.model_.files() | {"groups.safetensors": safetensors.numpy.save(groups)}
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "TTSGAN":
        """Load an estimator written by `save` onto ``device``.

        Raises
        ------
        DataError
            If it is missing, damaged, or from another version of ttsgan.
        """
        try:
            model = Model.load(lambda name: (Path(folder) / name).read_bytes(), device)
            groups = safetensors.numpy.load((Path(folder) / "groups.safetensors").read_bytes())
            cond, members, starts = (groups[name] for name in ("cond", "member_groups", "starts"))
        except OSError as error:
            raise DataError(f"{folder} is not an estimator that save wrote: {error}") from error
        except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
            raise DataError(f"{folder} holds a damaged estimator ({error}); save it again") from error
        estimator = cls(model.config)
        estimator.model_, estimator.cond_, estimator.member_groups_ = model, cond, members
        estimator.starts_ = starts.astype("datetime64[s]")
        return estimator

    def _require_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError("the estimator has not been fitted; call fit first")
