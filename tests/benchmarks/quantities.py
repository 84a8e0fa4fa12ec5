"""Quantities other than household load, simulated hourly: solar panels, heat, charging of cars.

They add nights and months of zeros, weather shared by all households, and spells of silence. The laws are simple, with
parameters for each household; they stand for the shape of such data, not for any country. Values are in kW.

Axis letters: M series, T hours of a year.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from ttsgan.data.simulate import simulate
from ttsgan.evaluation.judged import Judged

DAYS = 365
HOURS = 24 * DAYS
LATITUDE = 0.9
"""Northern latitude in radians."""
HOT_WATER_HOURS = (7, 8, 19, 20)
CHARGERS = (3.7, 7.4, 11.0)
"""Power of a charger, kW."""
ROOFS = 0.25
"""Share of homes with a solar roof, where only some have one."""


def _memory(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return series of mean 0 and variance 1 of which each value keeps ``share`` of the one before."""
    noise = rng.standard_normal(shape) * np.sqrt(1 - share**2)
    return lfilter([1.0], [1.0, -share], noise, axis=-1)


def _sun() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sine of the sun's height (T,), 0 at night, and its hour angle (T,), radians."""
    hour = np.arange(HOURS)
    tilt = 0.41 * np.sin(2 * np.pi * (hour / 24 - 80) / DAYS)
    angle = 2 * np.pi * (hour % 24 + 0.5 - 12) / 24
    height = np.sin(LATITUDE) * np.sin(tilt) + np.cos(LATITUDE) * np.cos(tilt) * np.cos(angle)
    return np.maximum(height, 0), angle


def solar(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the power of roofs (M, T): one sky, a little of each roof's own; size, direction and shade differ."""
    height, angle = _sun()
    sky = 1 / (1 + np.exp(-1.2 * _memory((HOURS,), 0.93, rng)))
    cloud = np.clip(sky + 0.13 * _memory((count, HOURS), 0.8, rng), 0, 1)
    size, west = rng.lognormal(1.0, 0.4, (count, 1)), rng.normal(0, 0.6, (count, 1))
    shade = rng.beta(2, 8, (count, 1)) * (angle > 0)
    clear = height**1.1 * np.clip(1 + 0.5 * np.sin(angle) * np.sin(west), 0, 2)
    return np.round(size * clear * (1 - 0.8 * cloud) * (1 - shade), 3)


def heat(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the heat of homes (M, T): below a temperature of their own, less at night; hot water; empty spells."""
    hour = np.arange(HOURS)
    air = 10 - 9 * np.cos(2 * np.pi * (hour / 24 - 20) / DAYS) + 4 * _sun()[0]
    air = air + np.repeat(3.3 * _memory((DAYS,), 0.8, rng), 24)
    limit, slope = rng.normal(17, 1.5, (count, 1)), rng.lognormal(-0.5, 0.5, (count, 1))
    night = np.where(hour % 24 < 6, rng.uniform(0.6, 0.9, (count, 1)), 1.0)
    warm = slope * np.maximum(limit - air - rng.normal(0, 1.5, (count, HOURS)), 0) * night * (air < limit)
    often = np.where(np.isin(hour % 24, HOT_WATER_HOURS), 0.5, 0.05)
    drawn = rng.gamma(2, 1.5, (count, HOURS)) * rng.lognormal(-1, 0.5, (count, 1))
    values = warm + drawn * (rng.random((count, HOURS)) < often)
    for row in np.flatnonzero(rng.random(count) < 0.5):
        begin = rng.integers(HOURS - 500)
        values[row, begin : begin + rng.integers(72, 500)] *= 0.1
    return np.round(values, 2)


def charging(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the power of cars that charge (M, T): at home on some evenings, until what was driven is replaced."""
    out = np.zeros((count, HOURS))
    for power_T in out:
        often, most, begin = rng.beta(2, 3), rng.choice(CHARGERS), rng.normal(18, 3)
        weekend = np.arange(DAYS) % 7 >= 5
        for day in np.flatnonzero(rng.random(DAYS) < often * np.where(weekend, 0.6, 1.0)):
            left = rng.gamma(2, 4)
            for hour in range(24 * day + int(np.clip(rng.normal(begin, 2), 0, 23)), HOURS):
                power_T[hour] = min(most, left)
                left -= power_T[hour]
                if left <= 0:
                    break
    return np.round(out, 2)


def net(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the metered net power of homes (M, T); a quarter have a solar roof, whose feed-in is negative."""
    use = simulate(count, HOURS, int(rng.integers(2**31))).values[:, 0].astype(np.float64)
    made = solar(count, rng)
    return use - np.where(rng.random((count, 1)) < ROOFS, made, 0)


QUANTITIES = {"solar": solar, "heat": heat, "charging": charging, "net": net}


def four_hours(name: str, count: int, seed: int) -> Judged:
    """Return a year of households with one of `QUANTITIES`, in means of four hours."""
    values = QUANTITIES[name](count, np.random.default_rng(seed)).reshape(count, 1, -1, 4).mean(axis=3)
    return Judged(
        values=values.astype(np.float32),
        entities=np.arange(count).astype(str),
        starts=np.full(count, np.datetime64("2013-01-01T00:00:00")),
        step_seconds=4 * 3600,
        unit="kW",
    )
