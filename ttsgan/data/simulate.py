"""A simulated population of households: sample data for all stages of a run, without any real person in them.

The load is built bottom-up from who is at home and awake, which appliance runs for how long, and how cold and dark it
is. The numbers were set by hand until population averages (level, quantiles, autocorrelation, course of the year) came
near those of 200 London households of 2013; no household's own series or habits went into them. Place and habits are
those of a town at 51.5 degrees north. Time stamps are UTC all year, so habits move by an hour while summer time is in
force, as on real meters.

Households are simulated in blocks of 256, each with its own random stream, so household i does not depend on how many
are simulated. Given the weather and the calendar, which all share, households are independent draws from one
distribution.

Axis letters: B household of a block, D day (the first is a run-in day and is dropped), T hour, E appliance use.
Clock times are hours after midnight and may exceed 24.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.signal import lfilter

from ttsgan.data import calendar
from ttsgan.data.appliances import APPLIANCES, ARCHETYPES, Archetype
from ttsgan.data.series_set import SeriesSet
from ttsgan.errors import ConfigError

BLOCK = 256
DAYS = 365
FUSE_KW = 23.0
METER_STEP_KWH = np.float32(0.001)
STEP_SECONDS = {8760: 3600, 2190: 14_400}

_SIM_DAYS = DAYS + 1
_WIDTH = (_SIM_DAYS + 2) * 24

Rng = np.random.Generator
Floats = NDArray[np.float64]
Hourly = NDArray[np.float32]
Flags = NDArray[np.bool_]
Uses = tuple[NDArray[np.int64], Floats, Floats, Floats]


class _Surroundings(NamedTuple):
    """Calendar and weather that all households share: (D,) per day; dark and temperature (D, 24) per hour in UTC."""

    weekday: NDArray[np.int64]
    off: Flags
    christmas: Flags
    trips: Floats  # relative frequency of departures
    winter: Floats  # from -1 in July to 1 in January
    summer_time: Floats  # hours
    dark: Floats  # 0 to 1
    temperature: Floats  # degrees Celsius


class _Person(NamedTuple):
    """Moments (B, D) in the days of one adult per home, in hours (UTC) since the start of the run-in day."""

    wake: Floats
    leave: Floats
    back: Floats
    sleep: Floats
    dinner: Floats


def simulate(
    households: int = 10_000, length: int = 2190, seed: int = 0, start: str = "2013-01-01T00:00:00"
) -> SeriesSet:
    """Simulate one year (365 days) of electricity use of a population of households.

    Parameters
    ----------
    households : int
        Number of households, at least 1. Household i does not depend on this number.
    length : int
        Number of steps: 8760 (hours) or 2190 (4-hour means of the same hourly simulation; a 4-hour step is missing only
        if all of its hours are, otherwise it is the mean of the observed ones).
    seed : int
        At least 0; the same arguments give the same bytes.
    start : str
        A midnight in UTC, ISO 8601.

    Returns
    -------
    SeriesSet
        Ids ``sim-000001`` onwards; mean power of each step, at least 0, NaN where the meter recorded nothing;
        the attribute ``archetype``, one of the keys of ``ARCHETYPES``; the note ``simulated``.

    Raises
    ------
    ConfigError
        An argument is not allowed.

    Notes
    -----
    About 1 ms of CPU time per household; memory is the result plus about 200 MB.
    """
    if length not in STEP_SECONDS:
        raise ConfigError(f"length is {length}; use 8760 (hourly) or 2190 (4-hour means)")
    if households < 1:
        raise ConfigError(f"households is {households}; ask for at least 1")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; use 0 or more")
    try:
        moment = np.datetime64(start, "s")
    except ValueError:
        moment = np.datetime64("NaT")
    if np.isnat(moment) or moment != moment.astype("datetime64[D]"):
        raise ConfigError(f"start is {start!r}; give a midnight in UTC such as 2013-01-01T00:00:00")
    around = _surroundings(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))), moment)
    values = np.empty((households, 1, length), np.float32)
    archetype = np.empty(households, f"<U{max(map(len, ARCHETYPES))}")
    for block, low in enumerate(range(0, households, BLOCK)):
        stream = np.random.SeedSequence(seed, spawn_key=(1, block))
        kinds, hourly = _simulate_block(np.random.Generator(np.random.SFC64(stream)), around)
        part = slice(low, min(low + BLOCK, households))
        values[part, 0] = _reduce(hourly, length)[: part.stop - low]
        archetype[part] = kinds[: part.stop - low]
    ids = np.array([f"sim-{i:06d}" for i in range(1, households + 1)], dtype=object)
    kinds = pa.table({"archetype": archetype.tolist()})
    return SeriesSet(
        ids, ids.copy(), np.full(households, moment), values, "kWh/h", STEP_SECONDS[length], kinds, "simulated"
    )


def _reduce(hourly: Hourly, length: int) -> Hourly:
    """Average observed hours (B, 8760) to steps (B, length); NaN if no hour of a step is observed."""
    parts = hourly.reshape(len(hourly), length, -1)
    seen = ~np.isnan(parts)
    count = seen.sum(axis=2, dtype=np.float32)
    total = np.where(seen, parts, np.float32(0)).sum(axis=2)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _surroundings(rng: Rng, start: np.datetime64) -> _Surroundings:
    """Look up the calendar and draw the weather of the year from ``start``."""
    day = start.astype("datetime64[D]") + np.arange(-1, _SIM_DAYS - 1).astype("timedelta64[D]")
    first = day.astype("datetime64[M]")
    month = first.astype(int) % 12 + 1
    date = 100 * month + (day - first.astype("datetime64[D]")).astype(int) + 1  # 1225 is 25 December
    number = (day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64)
    weekday = calendar.weekday(day.astype("datetime64[s]").astype(np.int64))

    year = day.astype("datetime64[Y]").astype(int) + 1970
    moon = (19 * (year % 19) + 24) % 30  # Easter by the rule of Gauss, which holds from 1900 to 2099
    sunday = (2 * (year % 4) + 4 * (year % 7) + 6 * moon + 5) % 7
    sunday -= 7 * ((sunday == 6) & ((moon == 29) | ((moon == 28) & (year % 19 > 10))))
    spring = (first + (3 - month).astype("timedelta64[M]")).astype("datetime64[D]")
    to_easter = (day - spring).astype(int) - 21 - moon - sunday
    bank = (weekday == 0) & (((month == 5) & ((date <= 507) | (date >= 525))) | ((month == 8) & (date >= 825)))
    off = np.isin(date, (101, 1225, 1226)) | np.isin(to_easter, (-2, 1)) | bank
    christmas = (date >= 1223) | (date == 101)
    trips = 1 + 2.0 * np.isin(month, (7, 8)) + 2.5 * christmas + 1.5 * (np.abs(to_easter) < 8)
    changed = date % 100 - (weekday + 1) % 7 >= 25  # in a month of 31 days: its last Sunday has come
    summer = ((date > 331) & (date < 1001)) | ((month == 3) & changed) | ((month == 10) & ~changed)

    winter = np.cos(2 * np.pi * (number - 22) / 365.25)
    anomaly = lfilter([1.0], [1.0, -0.82], rng.normal(0, 1.8, _SIM_DAYS))
    cold_half = np.clip(winter, 0, None)
    for middle in rng.choice(_SIM_DAYS, 3, p=cold_half / cold_half.sum()):  # cold snaps of one to two weeks
        distance = (np.arange(_SIM_DAYS) - middle) / rng.uniform(2, 5)
        anomaly -= rng.uniform(2, 6) * np.exp(-0.5 * distance**2)
    hour = np.arange(24) + 0.5
    daily = (3.2 - 1.4 * winter)[:, None] * np.cos(2 * np.pi * (hour - 15) / 24)
    temperature = (10.8 - 6.8 * winter + anomaly)[:, None] + daily

    decline = np.deg2rad(-23.44) * np.cos(2 * np.pi * (number + 10) / 365.25)[:, None]
    north = np.deg2rad(51.5)
    sun = np.sin(north) * np.sin(decline) + np.cos(north) * np.cos(decline) * np.cos(np.pi * (hour - 12) / 12)
    cloud = lfilter([1.0], [1.0, -0.5], rng.normal(0, 0.04, _SIM_DAYS))[:, None]
    dark = 1 / (1 + np.exp((sun - 0.09 - cloud) / 0.05))
    return _Surroundings(weekday, off, christmas, trips, winter, summer.astype(np.float64), dark, temperature)


def _simulate_block(rng: Rng, around: _Surroundings) -> tuple[NDArray[np.str_], Hourly]:
    """Draw one block: archetype names (B,) and hourly kWh/h (B, 8760)."""
    kinds = ARCHETYPES.values()
    kind = rng.choice(len(kinds), BLOCK, p=[k.share for k in kinds])
    typical = Archetype(*(np.array(column)[kind] for column in zip(*kinds, strict=True)))
    empty = typical.base_kw == 0
    tail = np.where(rng.random(BLOCK) < 0.05, rng.uniform(1.3, 2.8, BLOCK), 1.0)
    size = tail * np.exp(rng.normal(-0.2, 0.65, BLOCK))
    regular = np.exp(rng.normal(-0.6, 0.5, BLOCK))
    present = _presence(rng, around, empty)
    activity = _activity(rng, around) * present
    joins = np.where(rng.random(BLOCK) < 0.1, rng.integers(20, 340, BLOCK), 0)[:, None]
    leaves = np.where(rng.random(BLOCK) < 0.1, rng.integers(20, 340, BLOCK), _SIM_DAYS)[:, None]
    day = np.arange(_SIM_DAYS)
    lodging = (rng.random((BLOCK, 1)) < typical.second[:, None]) & (day >= joins) & (day < leaves)

    use, bursts = np.zeros((2, BLOCK, _WIDTH))
    adult, second = (_person(rng, around, typical, regular, share) for share in (0.95, 0.6))
    _occupy(rng, use, adult, activity)
    _occupy(rng, use, second, activity * lodging * rng.uniform(0.4, 1.0, (BLOCK, 1)))
    rate = activity * (1 + 0.5 * lodging)
    for name in APPLIANCES:
        _deposit(bursts, *_uses(rng, around, name, typical, size, regular, rate, adult))
    occupied = _running_total(use)
    warmth = _heat(rng, around, bursts, occupied, typical.heated, present, size)
    load = _running_total(bursts)
    load += _everyday(rng, around, typical.active_kw * size, size, occupied)
    load += _always_on(rng, around, typical.base_kw * size)
    for rows, kw in warmth:
        load[rows] += kw
    np.clip(load, 0, FUSE_KW, out=load)
    np.rint(load / METER_STEP_KWH, out=load)
    load *= METER_STEP_KWH
    _lose_hours(rng, load)
    return np.array(list(ARCHETYPES))[kind], load


def _presence(rng: Rng, around: _Surroundings, empty: Flags) -> Flags:
    """Return on which days (B, D) somebody is in the home: not during trips, long absences and weekends away."""
    day = np.arange(_SIM_DAYS)
    when = np.cumsum(around.trips) / around.trips.sum()

    def spells(count: NDArray[np.int64], mean_days: float) -> Flags:
        shape = (8, BLOCK, 1)
        begin = np.searchsorted(when, rng.random(shape))
        end = begin + 1 + rng.geometric(1 / mean_days, shape)
        drawn = np.arange(8)[:, None, None] < count[:, None]
        return ((day >= begin) & (day < end) & drawn).any(axis=0)

    away = spells(rng.poisson(1.7, BLOCK), 6.0)
    away |= spells((rng.random(BLOCK) < 0.06).astype(int), 35.0)
    chance = np.where(rng.random(BLOCK) < 0.06, rng.uniform(0.2, 0.7, BLOCK), 0.02)
    week = np.cumsum(around.weekday == 0)
    weekends = rng.random((BLOCK, week[-1] + 1)) < chance[:, None]
    away |= weekends[:, week] & (around.weekday >= 5)
    visits = spells(rng.integers(2, 9, BLOCK), 5.0)
    second_home = rng.random((BLOCK, 1)) < 0.015
    short_visits = spells(rng.integers(2, 6, BLOCK), 1.2)
    return np.where(empty[:, None], short_visits, np.where(second_home, visits, ~away))


def _activity(rng: Rng, around: _Surroundings) -> Floats:
    """Return how busy each day (B, D) is, around 1: drift over weeks, season, and in some homes a change for months."""
    day, one, each = np.arange(_SIM_DAYS), (BLOCK, 1), (BLOCK, _SIM_DAYS)
    drift = lfilter([0.31], [1.0, -0.95], rng.standard_normal((BLOCK, _SIM_DAYS + 60)))[:, 60:]
    log = drift * rng.uniform(0.08, 0.35, one) + rng.standard_normal(each) * 0.22
    log += around.winter * rng.normal(0.12, 0.1, one) + around.christmas * rng.uniform(0, 0.3, one)
    begin = rng.integers(20, _SIM_DAYS - 20, one)
    end = np.where(rng.random(one) < 0.5, begin + rng.integers(21, 120, one), _SIM_DAYS)
    change = np.where(rng.random(one) < 0.4, rng.normal(-0.05, 0.55, one), 0.0)
    return np.exp(log + change * ((day >= begin) & (day < end)))


def _person(rng: Rng, around: _Surroundings, typical: Archetype, regular: Floats, share: float) -> _Person:
    """Draw the days of one adult per home, who works ``share`` of the usual days; for some the working week changes."""
    each, one = (BLOCK, _SIM_DAYS), (BLOCK, 1)
    chance = share * typical.work[:, (np.arange(7) >= 5).astype(int)]
    before, after = rng.random((2, BLOCK, 7)) < np.stack([chance, chance * rng.integers(0, 2, one)])
    change = np.where(rng.random(one) < 0.15, rng.integers(30, 340, one), _SIM_DAYS)
    working = np.where(np.arange(_SIM_DAYS) < change, before[:, around.weekday], after[:, around.weekday])
    working &= (rng.random(each) < 0.95) & ~(around.off | (around.christmas & (rng.random(one) < 0.6)))

    def clock(work_off: Floats, own: float, daily: float) -> Floats:
        mean = work_off + rng.normal(0, own, one)
        return np.where(working, mean[:, :1], mean[:, -1:]) + rng.normal(0, daily, each) * regular[:, None]

    wake = clock(typical.wake, 0.8, 0.6)
    leave = np.maximum(clock(typical.away[:, :1], 0.6, 0.4), wake + 0.3)
    back = np.maximum(clock(typical.away[:, 1:], 1.1, 1.0), leave + 0.5)
    outing = rng.random(each) < rng.uniform(0.2, 0.7, one)
    out = wake + rng.uniform(1.0, 7.0, each)
    leave, back = np.where(working, leave, out), np.where(working, back, out + outing * rng.uniform(0.7, 5.0, each))
    sleep = np.maximum(clock(typical.sleep, 0.9, 0.7), back + 0.5)
    dinner = clock(typical.dinner[:, None], 0.8, 0.5)
    dinner = np.where(typical.dinner[:, None] < 15, dinner, np.maximum(dinner, np.where(working, back + 0.4, dinner)))
    offset = 24.0 * np.arange(_SIM_DAYS) - around.summer_time
    return _Person(*(moment + offset for moment in (wake, leave, back, sleep, dinner)))


def _deposit(out: Floats, row: NDArray[np.int64], begin: Floats, hours: Floats, kw: Floats) -> None:
    """Add to ``out`` (B, T) changes whose running total is the hourly mean of ``kw`` over ``hours`` from ``begin``."""
    flat = out.reshape(-1)
    for moment, step in ((begin, kw), (begin + hours, -kw)):
        moment = np.clip(moment, 0, _WIDTH - 2)
        whole = moment.astype(np.int64)
        late = (moment - whole) * step
        at = row * _WIDTH + whole
        np.add.at(flat, at, step - late)
        np.add.at(flat, at + 1, late)


def _running_total(changes: Floats) -> Hourly:
    """Return the running total of deposited changes for the year's hours (B, 8760), without the run-in day."""
    return np.cumsum(changes, axis=1)[:, 24 : 24 * _SIM_DAYS].astype(np.float32)


def _occupy(rng: Rng, use: Floats, person: _Person, weight: Floats) -> None:
    """Deposit the times at which one adult per home is at home and awake, with more weight in the evening."""
    lived = weight > 0
    row = np.nonzero(lived)[0]
    evening = np.maximum(person.back, person.dinner + rng.normal(0, 0.3, weight.shape))
    spans = ((person.wake, person.leave, 1.0), (person.back, person.sleep, 0.9), (evening, person.sleep - 0.5, 0.2))
    for begin, end, strength in spans:
        _deposit(use, row, begin[lived], np.maximum(end - begin, 0)[lived], strength * weight[lived])


def _uses(
    rng: Rng, around: _Surroundings, name: str, typical: Archetype, size: Floats, regular: Floats,
    busy: Floats, person: _Person,
) -> Uses:  # fmt: skip
    """Return row, begin, duration and power (E,) of all uses of one appliance."""
    device = APPLIANCES[name]
    owns = rng.random(BLOCK) < (typical.vehicle if name == "car" else device.own)
    kw, hours = rng.uniform(*device.kw, BLOCK), rng.uniform(*device.hours, BLOCK)
    habit = {"car": 1.0, "oven and hob": typical.cook * size**0.4}.get(name, 0.36 * typical.busy * size**0.7)
    habit = habit * owns * device.per_day / device.slots * np.exp(rng.normal(0, 0.35, BLOCK))
    week = np.exp(rng.normal(0, device.weekly, (BLOCK, 7)))
    rate = habit[:, None] * (week / week.mean(axis=1, keepdims=True))[:, around.weekday]
    rate = rate * busy * (1 + device.winter * around.winter)
    hour = rng.choice([23.6, 0.6, 2.0], BLOCK) if device.anchor == "night" else rng.uniform(4, 23, BLOCK)
    _, row, day = np.nonzero(rng.random((device.slots, BLOCK, _SIM_DAYS), dtype=np.float32) < rate)
    if device.anchor == "any":
        wake, leave, back, sleep = (moment[row, day] for moment in person[:4])
        begin = wake + rng.random(len(row)) * (leave - wake + sleep - back)
        begin = np.where(begin < leave, begin, begin + back - leave)
    elif device.anchor in ("night", "timer"):
        begin = 24.0 * day + hour[row]
    else:
        begin = getattr(person, device.anchor)[row, day]
    begin = begin + rng.normal(0, 1, len(row)) * device.spread * (regular[row] + 0.1)
    return row, begin, hours[row] * np.exp(rng.normal(0, 0.25, len(row))), kw[row]


def _everyday(rng: Rng, around: _Surroundings, active_kw: Floats, size: Floats, at_home: Hourly) -> Hourly:
    """Return the load of screens, small devices, lamps and boiler pump of people at home and awake, kW (B, 8760)."""
    noise = rng.standard_normal(at_home.shape, dtype=np.float32)
    noise = lfilter(np.array([0.6], np.float32), np.array([1, -0.8], np.float32), noise, axis=1)
    noise *= rng.uniform(0.35, 0.9, (BLOCK, 1)).astype(np.float32)
    np.exp(noise, out=noise)
    noise *= (0.72 * active_kw).astype(np.float32)[:, None]
    cold = np.clip(14.5 - around.temperature, 0, 12)
    lamps, boiler = size * rng.lognormal(-2.6, 0.6, BLOCK), size * rng.uniform(0, 0.012, BLOCK)
    for kw, need in ((lamps, around.dark), (boiler, cold)):
        noise += kw.astype(np.float32)[:, None] * need[1:].reshape(-1).astype(np.float32)
    noise *= at_home
    return noise


def _always_on(rng: Rng, around: _Surroundings, base_kw: Floats) -> Hourly:
    """Return the load of fridge and standby (B, 8760); nearly empty meters have a trickle and single pulses instead."""
    empty = base_kw == 0
    period, duty = rng.uniform(0.8, 3.5, BLOCK)[:, None], rng.uniform(0.25, 0.45, BLOCK)[:, None]
    pace = 1 + 0.012 * (around.temperature[1:].mean(axis=1) - 11) + 0.05 * rng.standard_normal((BLOCK, DAYS))
    turns = np.repeat(pace / period, 24, axis=1)
    turns = np.cumsum(np.concatenate([rng.random((BLOCK, 1)), turns], axis=1), axis=1)
    whole = np.floor(turns)
    running = (whole * duty + np.minimum(turns - whole, duty)) * period  # hours that the compressor has run so far
    fridge_kw = rng.uniform(0.05, 0.16, BLOCK) * np.where(rng.random(BLOCK) < 0.3, 1.8, 1.0) * ~empty
    fridge = np.diff(running, axis=1).astype(np.float32)
    fridge *= fridge_kw.astype(np.float32)[:, None]

    thrift = np.where(rng.random(BLOCK) < 0.12, np.maximum(rng.uniform(-0.2, 0.2, BLOCK), 0), 1.0)
    kw = base_kw * thrift * np.exp(rng.normal(0.2, 0.5, BLOCK))
    begins = rng.integers(10, 2 * DAYS, (2, BLOCK, 1))  # devices that come or go, each in half of the homes
    steps = ((np.arange(DAYS) >= begins) * rng.normal(0, 0.2, (2, BLOCK, 1))).sum(axis=0)
    level = np.repeat((kw[:, None] * np.exp(steps)).astype(np.float32), 24, axis=1)
    level *= 1 + np.float32(0.04) * rng.standard_normal(level.shape, dtype=np.float32)
    level += fridge

    rows = np.flatnonzero(empty)
    one = (len(rows), 1)
    pulses = rng.random((len(rows), level.shape[1])) < rng.uniform(0.001, 0.02, one)
    level[rows] = rng.choice([0.0, 0.0, 0.003, 0.008], one) + pulses * rng.uniform(0.001, 0.02, pulses.shape)
    return level


def _heat(
    rng: Rng, around: _Surroundings, bursts: Floats, at_home: Hourly, chance: Floats, present: Flags,
    size: Floats,
) -> list[tuple[NDArray[np.int64], Floats]]:  # fmt: skip
    """Deposit night storage in ``bursts``; return rows and kW of panels, which follow occupancy, and of heat pumps."""
    system = np.where(rng.random(BLOCK) < chance, rng.choice(3, BLOCK, p=[0.5, 0.25, 0.25]), 3)
    panels, pumps = np.flatnonzero(system == 1), np.flatnonzero(system == 2)
    one = (BLOCK, 1)
    need = np.maximum(rng.uniform(12.5, 15.5, one) - around.temperature.mean(axis=1), 0) * np.where(present, 1, 0.15)
    kwh = 24 * need * (rng.uniform(0.02, 0.07, BLOCK) * size**0.6)[:, None] * np.exp(rng.normal(0, 0.12, need.shape))
    rated, clock = rng.uniform(2, 5, BLOCK), rng.choice([-0.5, 0.5, 1.5], BLOCK) + rng.uniform(-0.2, 0.2, BLOCK)
    row, day = np.nonzero((system == 0)[:, None] & (kwh > 0))
    _deposit(bursts, row, 24.0 * day + clock[row], np.minimum(kwh[row, day] / rated[row], 7), rated[row])

    cold = np.maximum(15 - around.temperature[1:].reshape(-1), 0)
    panel_kw = (rng.uniform(0.04, 0.1, BLOCK) * size**0.4)[panels, None] * np.minimum(at_home[panels], 1.2)
    pump_kw = (rng.uniform(0.1, 0.24, BLOCK) * size**0.6)[pumps, None] / (3.6 - 0.07 * np.minimum(cold, 20))
    pump_kw = pump_kw * (0.6 + 0.4 * np.minimum(at_home[pumps], 1))
    pump_kw *= np.repeat(np.where(present[pumps, 1:], 1, 0.3), 24, axis=1)
    noisy = ((panels, panel_kw * cold, 0.35), (pumps, pump_kw * cold, 0.2))
    return [(rows, kw * np.exp(rng.normal(0, sd, kw.shape))) for rows, kw, sd in noisy]


def _lose_hours(rng: Rng, load: Hourly) -> None:
    """Set hours that the meter did not record to NaN: single hours in most homes, a longer gap in some."""
    hours = load.shape[1]
    row = np.repeat(np.arange(BLOCK), np.where(rng.random(BLOCK) < 0.8, 1 + rng.poisson(1.6, BLOCK), 0))
    load[row, rng.integers(0, hours, len(row))] = np.nan
    for gap in np.flatnonzero(rng.random(BLOCK) < 0.08):
        begin = rng.integers(0, hours - 96)
        load[gap, begin : begin + rng.integers(4, 80)] = np.nan
