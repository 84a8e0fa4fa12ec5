"""Features of single series, and curves of whole sets, for the comparison of distributions.

Axes: n series, C channels, L time steps, D days, S slots of a day (at most 24), B bins, K feature columns.

Values may be negative: a series' *scale* is its mean absolute value, its *peak* the largest absolute value. Shape
features use values divided by the scale, so that only "level", "peak", "high quantile" and the raw quantities outside
`Features.columns` see size.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

from ttsgan.evaluation.judged import DAY_SECONDS, Judged, weekday

PROBABILITIES = np.concatenate([[0.001, 0.005], np.linspace(0.01, 0.99, 29), [0.995, 0.999]])
SPECTRUM_BINS = 40
YEAR_DAYS, WEEKS_OF_YEAR = 365.25, 52
ABOUT_A_YEAR = 330
"""Smallest number of days for which month features and a yearly cycle are computed."""
HISTOGRAM_BINS = 48
FLAT = 1e-3
"""Two readings closer than this share of the scale count as equal, and a reading below it as zero (meters round)."""
BAND = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a set, from one pass over its values.

    Parameters
    ----------
    columns : dict of str to ndarray of shape (n, k), float64
        Feature families; the k columns of a family (channels, slots, lags ...) are averaged after comparison.
        A family that length, step or channels do not allow is absent. "peak hour", "peak weekday" and "peak
        month" are one-hot per channel.
    month_days : ndarray of shape (n, C * 12 * S), float32
        Mean day of each month in physical units.
    histogram : ndarray of shape (n, C, S, B), float32
        Share of each series' readings per slot and bin; the last axis sums to 1.
    moments : ndarray of shape (n, C, 2), float64
        Mean and mean square of the values.
    peaks : ndarray of shape (n, C), float32
        Largest absolute value.
    values : ndarray of shape (n, C, L), float32
        Gap-free values.
    """

    columns: dict[str, np.ndarray]
    month_days: np.ndarray
    histogram: np.ndarray
    moments: np.ndarray
    peaks: np.ndarray
    values: np.ndarray


def copy_gaps(synthetic: Judged, real: Judged, rng: np.random.Generator) -> Judged:
    """Give each complete synthetic series the gaps of one random real series, so that filling favours no side.

    Returns the set unchanged where the real series are complete or a synthetic one has gaps of its own.
    """
    gaps = np.isnan(real.values)
    if not gaps.any() or np.isnan(synthetic.values).any():
        return synthetic
    donors = rng.integers(len(real), size=len(synthetic))
    return replace(synthetic, values=np.where(gaps[donors], np.float32(np.nan), synthetic.values))


def histogram_edges(real: np.ndarray) -> np.ndarray:
    """Return bin edges per channel, shape (C, B + 1), from the quantiles of real values of shape (n, C, L).

    Inside the real range, bins hold equal shares of the readings. Outside, they widen up to 16 times the range, so that
    values beyond those of all real series still count by how far out they lie.
    """
    edges = []
    inner = HISTOGRAM_BINS - 8
    for channel in range(real.shape[1]):
        flat = real[:, channel].ravel()
        flat = flat[:: max(1, flat.size // 200_000)]
        low, high = float(real[:, channel].min()), float(real[:, channel].max())
        span = max(high - low, 1e-6 * abs(high), 1e-12)
        core = np.quantile(flat, np.linspace(0, 1, inner + 1)).astype(float)
        core[0], core[-1] = low, high
        core = np.maximum.accumulate(core + np.arange(inner + 1) * span * 1e-7)
        out = span * np.array([0.5, 1.0, 4.0, 16.0])
        edges.append(np.concatenate([low - out[::-1], core, core[-1] + out]))
    return np.stack(edges)


def extract(judged: Judged, edges: np.ndarray, smallest_scale: float) -> Features:
    """Describe every series of a set.

    Parameters
    ----------
    judged : Judged
        Series with at least one reading each.
    edges : ndarray of shape (C, B + 1)
        Output of `histogram_edges` for the real series.
    smallest_scale : float
        Lower bound of a series' scale (physical units, > 0), so that a series of zeros has a finite log
        level.

    Returns
    -------
    Features
        Cost: about 0.3 CPU-seconds per 1,000 series of 2,190 points.
    """
    values = judged.filled()
    parts = [
        _describe(judged.take(slice(i, i + _ROWS)), values[i : i + _ROWS], edges, smallest_scale)
        for i in range(0, len(judged), _ROWS)
    ]
    columns = {family: np.concatenate([part["columns"][family] for part in parts]) for family in parts[0]["columns"]}
    names = ("month_days", "histogram", "moments", "peaks")
    rest = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return Features(columns=columns, values=values, **rest)


def _describe(judged: Judged, x: np.ndarray, edges: np.ndarray, smallest_scale: float) -> dict:
    """Compute everything of `Features` for one block of series."""
    n, channels, _ = x.shape
    steps = judged.steps_per_day
    magnitude = np.abs(x)
    scale = np.maximum(magnitude.mean(-1), smallest_scale)
    peak = np.maximum(magnitude.max(-1), smallest_scale)
    y = x / scale[..., None]
    ordered = np.sort(y, axis=-1)
    quantiles = _quantiles(ordered, PROBABILITIES)
    ordered_magnitude = ordered if ordered[..., 0].min() >= 0 else np.sort(np.abs(y), axis=-1)
    ramp = np.abs(np.diff(y, axis=-1))
    rank99 = int(0.99 * (ramp.shape[-1] - 1))
    columns: dict[str, np.ndarray] = {
        "level": np.log(scale),
        # Divided by its own scale, however small, and rounded: exactly 1 without negative values, so it says nothing.
        "sign": (x.mean(-1) / np.maximum(magnitude.mean(-1), 1e-12)).round(5),
        "peak": np.log(peak),
        "high quantile": np.log(scale * np.maximum(_quantiles(ordered_magnitude, [0.999])[..., 0], 1e-6)),
        "load factor": scale / peak,
        "base load": _quantiles(ordered, [0.05])[..., 0],
        "zero share": (np.abs(y) <= FLAT).mean(-1),
        "flat run": np.log1p(_longest_run(ramp <= FLAT)),
        "shape marginal": quantiles,
        "ramp mean": ramp.mean(-1),
        "ramp p99": np.partition(ramp, rank99, axis=-1)[..., rank99],
    }
    centred = y - y.mean(-1, keepdims=True)
    columns |= _autocorrelation_columns(centred, steps, judged.step_seconds)
    columns |= _spectrum_columns(centred, steps, judged.step_seconds)
    days = judged.days(y)
    by_month, by_week = judged.calendar_means(days)
    columns |= _day_columns(judged, days, by_month, by_week)
    columns |= _peak_columns(judged, magnitude)
    if steps > 1 and judged.has_clock:
        columns["seam"] = _seam(ramp, judged.first_midnights(), steps)
    if channels > 1:
        norm = np.sqrt((centred**2).sum(-1)) + 1e-9
        pairs = np.triu_indices(channels, 1)
        cross = np.einsum("ncl,ndl->ncd", centred, centred) / (norm[:, :, None] * norm[:, None, :])
        columns["channel correlation"] = cross[:, pairs[0], pairs[1]]
    return {
        "columns": {name: column.reshape(n, -1).astype(np.float64) for name, column in columns.items()},
        "month_days": (by_month * scale[:, :, None, None]).reshape(n, -1),
        "histogram": _histogram(judged.days(x), edges),
        "moments": np.stack([x.mean(-1, dtype=np.float64), (x.astype(np.float64) ** 2).mean(-1)], axis=-1),
        "peaks": magnitude.max(-1),
    }


def _quantiles(ordered: np.ndarray, probabilities: np.ndarray | list[float]) -> np.ndarray:
    """Interpolate quantiles of rows that are already sorted along the last axis."""
    position = np.asarray(probabilities) * (ordered.shape[-1] - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, ordered.shape[-1] - 1)
    share = (position - low).astype(ordered.dtype)
    return ordered[..., low] * (1 - share) + ordered[..., high] * share


def _longest_run(flags: np.ndarray) -> np.ndarray:
    """Return the longest run of True along the last axis."""
    position = np.arange(1, flags.shape[-1] + 1, dtype=np.int32)
    last_false = np.maximum.accumulate(np.where(flags, 0, position), axis=-1)
    return (position - last_false).max(-1, initial=0)


def autocorrelation(centred: np.ndarray, max_lag: int) -> np.ndarray:
    """Return each row's autocorrelation at lags 0..max_lag, corrected for the shorter overlap; 0 for constant rows.

    Parameters
    ----------
    centred : ndarray of shape (..., L), float32
        Rows of mean 0.
    max_lag : int
        Steps, < L.

    Returns
    -------
    ndarray of shape (..., max_lag + 1)
    """
    length = centred.shape[-1]
    spectrum = fft.rfft(centred, n=fft.next_fast_len(length + max_lag, real=True), axis=-1)
    power = spectrum.real**2 + spectrum.imag**2
    sums = fft.irfft(power, n=fft.next_fast_len(length + max_lag, real=True), axis=-1)[..., : max_lag + 1]
    variance = np.maximum(sums[..., :1], 1e-9)
    return sums / variance * (length / (length - np.arange(max_lag + 1))).astype(np.float32)


def _autocorrelation_columns(centred: np.ndarray, steps: int, step_seconds: int) -> dict[str, np.ndarray]:
    length = centred.shape[-1]
    lags = {"1 step": 1, "1 day": steps, "2 days": 2 * steps, "1 week": 7 * steps, "2 weeks": 14 * steps}
    lags = {name: lag for name, lag in lags.items() if lag <= length // 2}
    rho = autocorrelation(centred, max(lags.values(), default=1))
    columns = {f"autocorrelation {name}": rho[..., lag] for name, lag in lags.items()}
    # whole weeks, so that equal weekdays are compared; the overlap is short, so no Fourier transform is needed
    lag = round(WEEKS_OF_YEAR * 7 * DAY_SECONDS / step_seconds)
    if length - lag >= max(1, DAY_SECONDS // step_seconds):
        sums = np.einsum("ncl,ncl->nc", centred[..., lag:], centred[..., :-lag])
        variance = np.maximum((centred**2).mean(-1), 1e-9 / length)
        columns["autocorrelation 52 weeks"] = sums / (length - lag) / variance
    return columns


def _lines(length: int, steps: int, per: str) -> np.ndarray:
    """Return frequency indices (with one neighbour on each side) of the daily or weekly line and its harmonics."""
    base = length / steps if per == "day" else length / (7 * steps)
    if base < 2:
        return np.zeros(0, int)
    count = int((length // 2) / base) if per == "day" else 6
    centres = np.rint(base * np.arange(1, count + 1)).astype(int)
    index = np.unique(centres[:, None] + np.array([-1, 0, 1]))
    return index[(index > 0) & (index <= length // 2)]


def _power(centred: np.ndarray) -> np.ndarray:
    """Return the share of variance per frequency, times the number of frequencies: white noise is 1 everywhere."""
    spectrum = fft.rfft(centred, axis=-1)
    power = spectrum.real**2 + spectrum.imag**2
    power[..., 0] = 0
    return power / np.maximum(power.sum(-1, keepdims=True), 1e-12) * (power.shape[-1] - 1)


def _log_bins(frequencies: np.ndarray, bins: int) -> list[np.ndarray]:
    """Split sorted frequency indices (> 0) into at most `bins` groups of equal log width; empty ones are dropped."""
    edges = np.geomspace(frequencies[0], frequencies[-1] + 1, bins + 1)
    groups = np.split(frequencies, np.searchsorted(frequencies, edges[1:-1]))
    return [group for group in groups if group.size]


def _spectrum_columns(centred: np.ndarray, steps: int, step_seconds: int) -> dict[str, np.ndarray]:
    length = centred.shape[-1]
    power = _power(centred)
    daily, weekly = _lines(length, steps, "day"), _lines(length, steps, "week")
    weekly = np.setdiff1d(weekly, daily)
    num_days = length * step_seconds / DAY_SECONDS
    yearly = np.rint(num_days / YEAR_DAYS * np.array([1, 2] if num_days >= ABOUT_A_YEAR else [])).astype(int)
    rest = np.setdiff1d(np.arange(1, length // 2 + 1), np.concatenate([daily, weekly, yearly]))
    columns = {}
    if rest.size > 1:
        binned = [power[..., group].mean(-1) for group in _log_bins(rest, SPECTRUM_BINS)]
        columns["spectrum"] = np.log(np.stack(binned, axis=-1) + 1e-3)
    for name, index in (("daily line", daily), ("weekly line", weekly), ("yearly line", yearly)):
        if index.size:
            columns[name] = np.log(power[..., index].sum(-1) / (power.shape[-1] - 1) + 1e-4)
    return columns


def _day_columns(judged: Judged, days: np.ndarray, by_month: np.ndarray, by_week: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean days, calendar contrasts and the spread of days within a household, of scaled values."""
    energy = days.mean(-1)
    columns = {"daily energy spread": energy.std(-1)}
    if days.shape[-1] > 1:
        deviation = days - energy[..., None]
        deviation = deviation - deviation.mean(2, keepdims=True)
        columns["day shape spread"] = np.sqrt((deviation**2).mean((-1, -2)))
        columns["weekday and weekend day"] = by_week
    else:
        columns["day shape spread"] = np.zeros_like(energy[..., 0])
    if judged.steps_per_day * judged.step_seconds == DAY_SECONDS and days.shape[2] >= 14:
        columns["weekend contrast"] = (by_week[:, :, 1] - by_week[:, :, 0]).mean(-1)
        columns["week"] = _mean_week(judged, days)
    if days.shape[2] >= ABOUT_A_YEAR:
        months = by_month.mean(-1)
        columns["month shares"] = months
        columns["winter contrast"] = months[..., [11, 0, 1]].mean(-1) - months[..., [5, 6, 7]].mean(-1)
    return columns


def _mean_week(judged: Judged, days: np.ndarray) -> np.ndarray:
    """Return the mean Monday, Tuesday ... of days (n, C, D, S), D >= 7, shape (n, C, 7, S)."""
    weekday = judged.calendar(days.shape[2])[0]
    week = np.empty((*days.shape[:2], 7, days.shape[3]), days.dtype)
    for first in np.unique(weekday[:, 0]):
        rows = np.flatnonzero(weekday[:, 0] == first)
        weights = (weekday[rows[0]] == np.arange(7)[:, None]).astype(days.dtype)
        week[rows] = weights / weights.sum(1, keepdims=True) @ days[rows]
    return week


def _peak_columns(judged: Judged, magnitude: np.ndarray) -> dict[str, np.ndarray]:
    """Return slot of the day, weekday (0 = Monday) and month of each channel's first largest reading, one-hot."""
    seconds = judged.starts.astype(np.int64)[:, None] + magnitude.argmax(-1) * judged.step_seconds
    dates = (seconds // DAY_SECONDS).astype("datetime64[D]")
    num_days = magnitude.shape[-1] * judged.step_seconds / DAY_SECONDS
    columns = {}
    if judged.has_clock and num_days >= 2:
        columns["peak hour"] = np.eye(judged.slots)[seconds % DAY_SECONDS * judged.slots // DAY_SECONDS]
    if num_days >= 14:
        columns["peak weekday"] = np.eye(7)[weekday(dates)]
    if num_days >= ABOUT_A_YEAR:
        columns["peak month"] = np.eye(12)[dates.astype("datetime64[M]").astype(np.int64) % 12]
    return columns


def _seam(ramp: np.ndarray, offsets: np.ndarray, steps: int) -> np.ndarray:
    """Return log of (mean jump into the first step of a day / mean jump elsewhere)."""
    border = (np.arange(1, ramp.shape[-1] + 1) - offsets[:, None]) % steps == 0
    inside = np.einsum("ncl,nl->nc", ramp, ~border) / (~border).sum(-1)[:, None]
    at = np.einsum("ncl,nl->nc", ramp, border) / np.maximum(border.sum(-1), 1)[:, None]
    return np.log((at + 1e-3) / (inside + 1e-3))


def _histogram(days: np.ndarray, edges: np.ndarray) -> np.ndarray:
    n, channels, count, slots = days.shape
    bins = edges.shape[1] - 1
    out = np.empty((n, channels, slots, bins), np.float32)
    base = (np.arange(n)[:, None, None] * slots + np.arange(slots)) * bins
    for channel in range(channels):
        index = np.searchsorted(edges[channel], days[:, channel], side="right") - 1
        index = np.clip(index, 0, bins - 1) + base
        counts = np.bincount(index.ravel(), minlength=n * slots * bins)
        out[:, channel] = counts.reshape(n, slots, bins) / count
    return out


def curves(judged: Judged, features: Features) -> dict:
    """Return the curves of one set for the report.

    Parameters
    ----------
    judged : Judged
        The set.
    features : Features
        Its features, output of `extract`.

    Returns
    -------
    dict
        `day_profile` (by weekday / weekend and by season: mean and quantile bands over homes and days,
        physical units, mean over channels), `load_duration` (share of time, load over scale),
        `autocorrelation` (lag in steps up to 8 days), `periodogram` (frequency in cycles per day, mean log
        power, white noise = 0), `household` (quantiles of level, peak, load factor).
    """
    x = features.values.mean(1, keepdims=True)
    days = judged.days(x)[:, 0]
    weekday, month = judged.calendar(days.shape[1])
    masks = {"weekday": weekday < 5, "weekend": weekday >= 5}
    for index, season in enumerate(("winter", "spring", "summer", "autumn")):
        masks[season] = (month + 1) % 12 // 3 == index
    profile = {}
    for name, mask in masks.items():
        if mask.any():
            chosen = days[mask]
            chosen = chosen[:: max(1, len(chosen) // 20_000)]
            profile[name] = {"mean": chosen.mean(0), "quantiles": np.quantile(chosen, BAND, axis=0)}
    columns, steps, length = features.columns, judged.steps_per_day, x.shape[2]
    centred = (x - x.mean(-1, keepdims=True))[:1000, 0]
    max_lag = min(8 * steps, length // 2)
    power = _power(centred).astype(np.float64)
    groups = _log_bins(np.arange(1, length // 2 + 1), 100)
    shares = np.concatenate([[0.001], np.linspace(0.01, 0.99, 99), [0.999]])
    channels = features.peaks.shape[1]
    duration = columns["shape marginal"].reshape(len(judged), channels, -1).mean((0, 1))
    log_power = np.log(np.maximum(power, 1e-6)).mean(0)
    per_day = steps / length if judged.has_clock else 1 / length
    return {
        "day_profile": {"bands": list(BAND), "slots_per_day": judged.slots, "groups": profile},
        "load_duration": {"time_share": shares, "load_over_mean": np.interp(1 - shares, PROBABILITIES, duration)},
        "autocorrelation": {"lag_steps": np.arange(max_lag + 1), "value": autocorrelation(centred, max_lag).mean(0)},
        "periodogram": {
            "cycles_per_day": np.array([group.mean() for group in groups]) * per_day,
            "log_power": np.array([log_power[group].mean() for group in groups]),
        },
        "household": {
            "probabilities": np.linspace(0.01, 0.99, 99),
            "level": np.quantile(np.exp(columns["level"]), np.linspace(0.01, 0.99, 99)),
            "peak": np.quantile(np.exp(columns["peak"]), np.linspace(0.01, 0.99, 99)),
            "load_factor": np.quantile(columns["load factor"], np.linspace(0.01, 0.99, 99)),
        },
    }
