"""One set of series to judge, with its gaps and its calendar made explicit; arrays only, no model and no file.

Axes: n series, C channels, L time steps, D days, S slots of a day (at most 24), M months (12).

A *day* is 86,400 / step_seconds steps. Where that is not a whole number, a patch of 24 steps takes its place;
a series shorter than one day is one day.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ttsgan.errors import DataError

DAY_SECONDS = 86_400
PATCH_STEPS = 24
MAX_SLOTS = 24


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A set of series in physical units.

    Parameters
    ----------
    values : ndarray of shape (n, C, L), float32
        Physical units, NaN = missing, no infinity.
    entities : ndarray of shape (n,), str
        Unit of protection, of resampling and of splitting. A synthetic series is its own entity.
    starts : ndarray of shape (n,), datetime64[s]
        Time of the first step of each series.
    step_seconds : int
        Seconds between steps, > 0.
    unit : str
        Unit of the values, for instance "kWh".

    Raises
    ------
    DataError
        If shapes do not agree, a value is infinite, or the set is empty.
    """

    values: np.ndarray
    entities: np.ndarray
    starts: np.ndarray
    step_seconds: int
    unit: str

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or 0 in self.values.shape:
            raise DataError(f"values has shape {self.values.shape}; (n, C, L) with no empty axis is needed")
        for name in ("entities", "starts"):
            shape = getattr(self, name).shape
            if shape != (len(self.values),):
                raise DataError(f"{name} has shape {shape}; one per series ({len(self.values)}) is needed")
        if self.step_seconds <= 0:
            raise DataError(f"step_seconds is {self.step_seconds}; it must be > 0")
        if np.isinf(self.values).any():
            raise DataError("values holds an infinity; missing readings are written as NaN")
        object.__setattr__(self, "values", np.ascontiguousarray(self.values, np.float32))
        object.__setattr__(self, "entities", np.asarray(self.entities).astype(str))
        object.__setattr__(self, "starts", self.starts.astype("datetime64[s]"))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def has_clock(self) -> bool:
        """Whether a whole number of steps, and at least two, makes a day."""
        return DAY_SECONDS % self.step_seconds == 0 and 2 * self.step_seconds <= DAY_SECONDS

    @property
    def steps_per_day(self) -> int:
        """Steps in a day, never more than the series has."""
        steps = DAY_SECONDS // self.step_seconds if DAY_SECONDS % self.step_seconds == 0 else PATCH_STEPS
        return min(steps, self.values.shape[2])

    @property
    def slots(self) -> int:
        """Slots of a day: the largest divisor of the steps in a day that is at most 24."""
        steps = self.steps_per_day
        return max(slots for slots in range(1, MAX_SLOTS + 1) if steps % slots == 0)

    @cached_property
    def codes(self) -> np.ndarray:
        """Entity numbers 0.., shape (n,), int."""
        return np.unique(self.entities, return_inverse=True)[1]

    def take(self, index: np.ndarray) -> "Judged":
        """Return the series at these positions (or under this mask)."""
        return replace(self, values=self.values[index], entities=self.entities[index], starts=self.starts[index])

    def channels_apart(self) -> "Judged":
        """Return every channel as a series of its own, (n * C, 1, L); channels of a series are next to each other."""
        count, length = self.values.shape[1:]
        labels = {name: np.repeat(getattr(self, name), count) for name in ("entities", "starts")}
        return replace(self, values=self.values.reshape(-1, 1, length), **labels)

    def usable(self) -> tuple[np.ndarray, np.ndarray]:
        """Return two masks of shape (n,): series with no reading at all, and series that never change."""
        low, high = np.fmin.reduce(self.values, axis=2), np.fmax.reduce(self.values, axis=2)
        empty = np.isnan(low).all(axis=1)
        return empty, ~empty & ~(high > low).any(axis=1)

    def sample_entities(self, limit: int, rng: np.random.Generator) -> "Judged":
        """Return at most `limit` series, whole entities as far as possible, in the original order."""
        return self if len(self) <= limit else self.take(sample_rows(self.entities, limit, rng))

    def filled(self) -> np.ndarray:
        """Return the values with gaps filled by the series' own typical day, shape (n, C, L), float32.

        A missing reading becomes the mean of the same step of the day over all days of that series and
        channel; failing that the mean of the channel, failing that 0.
        """
        rows = np.flatnonzero(np.isnan(self.values).any(axis=(1, 2)))
        out = self.values.copy()
        steps, length = self.steps_per_day, self.values.shape[2]
        for row in rows:
            x = out[row]
            padded = np.full((x.shape[0], -(-length // steps) * steps), np.nan, np.float32)
            padded[:, :length] = x
            cube = padded.reshape(x.shape[0], -1, steps)
            known = ~np.isnan(cube)
            total, count = np.where(known, cube, 0).sum(1), known.sum(1)
            mean = total.sum(-1) / np.maximum(count.sum(-1), 1)
            typical = np.where(count > 0, total / np.maximum(count, 1), mean[:, None])
            repeated = np.tile(typical, (1, cube.shape[1]))[:, :length]
            out[row] = np.where(np.isnan(x), repeated, x)
        return out

    def first_midnights(self) -> np.ndarray:
        """Return how many steps each series has before its first whole day, shape (n,), int."""
        if not self.has_clock or self.values.shape[2] < 2 * self.steps_per_day:
            return np.zeros(len(self), int)
        inside = self.starts.astype("int64") % DAY_SECONDS // self.step_seconds
        return (-inside) % self.steps_per_day

    def days(self, x: np.ndarray) -> np.ndarray:
        """Cut an array of shape (n, C, L) into whole days of slot means, shape (n, C, D, S), same dtype."""
        offsets, steps = self.first_midnights(), self.steps_per_day
        count = (x.shape[2] - int(offsets.max())) // steps
        if (offsets == offsets[0]).all():
            cut = x[:, :, offsets[0] : offsets[0] + count * steps]
        else:
            cut = np.stack([row[:, o : o + count * steps] for row, o in zip(x, offsets, strict=True)])
        cube = cut.reshape(*x.shape[:2], count, self.slots, steps // self.slots)
        return cube[..., 0] if cube.shape[-1] == 1 else cube.mean(-1)

    def calendar(self, num_days: int) -> tuple[np.ndarray, np.ndarray]:
        """Return weekday (0 = Monday) and month (0 = January) of each day, both of shape (n, D), int."""
        first = self.starts + self.first_midnights() * np.timedelta64(self.step_seconds, "s")
        stride = np.timedelta64(self.steps_per_day * self.step_seconds, "s")
        dates = (first[:, None] + np.arange(num_days) * stride).astype("datetime64[D]")
        return weekday(dates), dates.astype("datetime64[M]").astype("int64") % 12

    def calendar_means(self, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average the days of each series by month, and by weekday and weekend.

        Parameters
        ----------
        days : ndarray of shape (n, C, D, S)
            Output of `days`.

        Returns
        -------
        tuple of ndarray
            (n, C, 12, S) by month and (n, C, 2, S) by weekday / weekend, float32. A month or a weekend that
            the series does not cover gets the mean of all days.
        """
        weekday, month = self.calendar(days.shape[2])
        by_month = np.empty((*days.shape[:2], 12, days.shape[3]), np.float32)
        by_week = np.empty((*days.shape[:2], 2, days.shape[3]), np.float32)
        for start in np.unique(self.starts):
            rows = np.flatnonzero(self.starts == start)
            masks = [month[rows[0]] == m for m in range(12)] + [weekday[rows[0]] < 5, weekday[rows[0]] >= 5]
            weights = np.array([mask if mask.any() else np.ones_like(mask) for mask in masks], np.float32)
            weights /= weights.sum(1, keepdims=True)
            means = weights @ days[rows]
            by_month[rows], by_week[rows] = means[:, :, :12], means[:, :, 12:]
        return by_month, by_week

    def fingerprints(self) -> list[bytes]:
        """Return one digest per series of its values (NaN included), to find identical rows."""
        # NaN has many bit patterns; all of them mean missing.
        return [hashlib.sha256(np.where(np.isnan(row), np.float32(np.nan), row)).digest() for row in self.values]


def weekday(dates: np.ndarray) -> np.ndarray:
    """Return the day of the week of dates (datetime64[D]), Monday 0 to Sunday 6."""
    return (dates.astype(np.int64) + 3) % 7


def sample_rows(entities: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Return at most `limit` positions of series (n,), ascending, whole entities as far as possible."""
    if len(entities) <= limit:
        return np.arange(len(entities))
    return draw_rows(np.unique(entities.astype(str), return_inverse=True)[1], limit, rng)


def draw_rows(codes: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows as `sample_rows`, from entity numbers (n,), 0..; uses the generator even where all series fit."""
    rank = rng.permutation(codes.max() + 1)[codes]
    return np.sort(np.argsort(rank, kind="stable")[:limit])


def joined(*parts: Judged) -> Judged:
    """Concatenate sets of the same channels, length, step and unit."""
    if len(parts) == 1:
        return parts[0]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "entities", "starts")
    }
    return replace(parts[0], **columns)


def split_by_entity(judged: Judged, parts: int, rng: np.random.Generator) -> list[Judged]:
    """Split into entity-disjoint parts with about equal numbers of entities, at random."""
    part = (rng.permutation(judged.codes.max() + 1) % parts)[judged.codes]
    return [judged.take(part == index) for index in range(parts)]


def check_comparable(**sets: Judged) -> None:
    """Raise unless all sets have the same channels, length, step and unit.

    Raises
    ------
    DataError
        If channels, length, step or unit differ; names the first set that differs from the first one given.
    """
    (first_name, first), *others = sets.items()
    for name, other in others:
        for what, a, b in (
            ("channels", first.values.shape[1], other.values.shape[1]),
            ("length", first.values.shape[2], other.values.shape[2]),
            ("step_seconds", first.step_seconds, other.step_seconds),
            ("unit", first.unit, other.unit),
        ):
            if a != b:
                raise DataError(f"{name}: {what} is {b!r}, {first_name} has {a!r}; bring both to the same {what}")
