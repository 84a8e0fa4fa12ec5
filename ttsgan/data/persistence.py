"""How long a residual remembers: autocorrelations and slow drift, measured, and given to a residual that was drawn.

A household's persistence is drawn with its other numbers, but the residual that the temporal prior draws for it keeps
only a part of the differences between households. `with_persistence` gives it the wanted figures by the least change of
its spectrum (least relative entropy): the power at frequency w is multiplied by exp(sum_k a_k f_k(w)), where f_k is the
function whose mean under the spectrum is the k-th figure. Phases, and so the events of single days, stay.

Axis letters: B series, C channels, T time steps, L lags, K = L + 1 figures, W frequencies.
"""

import numpy as np
from numpy.typing import NDArray

DAY_LAGS = (1, 2, 7, 14)
"""Lags, in days, of the autocorrelations among the household numbers; one step comes before them."""
DRIFT_DAYS = 28
"""Days of the means whose spread is the drift of a household."""
LARGEST_TILT = 3.0
"""The power of no frequency is multiplied or divided by more than exp of this."""
ITERATIONS = 10
"""Newton steps towards the wanted figures."""


def lags(num_slots: int) -> list[int]:
    """Return the lags, in steps, of the autocorrelations that are measured, days having ``num_slots`` steps."""
    return [1, *(days * num_slots for days in DAY_LAGS)]


def persistence(residual: NDArray, observed: NDArray, lag: int) -> NDArray:
    """Return the inverse hyperbolic tangent of the autocorrelation (B, C) at ``lag`` steps."""
    if residual.shape[2] <= 2 * lag:
        return np.zeros(residual.shape[:2])
    both = observed[..., lag:] & observed[..., :-lag]
    product = (residual[..., lag:] * residual[..., :-lag] * both).sum(axis=2)
    square = (np.square(residual) * observed).sum(axis=2) * both.sum(axis=2) / np.maximum(observed.sum(axis=2), 1)
    return np.arctanh(np.clip(product / np.maximum(square, 1e-9), -0.99, 0.99))


def drift(residual: NDArray, observed: NDArray, steps: int) -> NDArray:
    """Return the log spread (B, C) of the means of stretches of ``steps``; a stretch without values counts as 0."""
    whole = residual.shape[2] // steps * steps
    if whole == 0:
        return np.zeros(residual.shape[:2])
    seen = observed[..., :whole].reshape(*residual.shape[:2], -1, steps)
    parts = residual[..., :whole].reshape(seen.shape)
    means = (parts * seen).sum(axis=3) / np.maximum(seen.sum(axis=3), 1)
    return 0.5 * np.log(np.square(means).mean(axis=2) + 1e-3)


def with_persistence(residual: NDArray, persistence_BCL: NDArray, drift_BC: NDArray, num_slots: int) -> NDArray:
    """Return residuals (B, C, T) of mean 0 and mean square 1 with these figures, as near as their spectra allow.

    Parameters
    ----------
    residual : ndarray (B, C, T)
        Complete.
    persistence_BCL : ndarray
        Wanted values of `persistence` at `lags`.
    drift_BC : ndarray
        Wanted `drift` over `DRIFT_DAYS`.
    num_slots : int
        Steps of a day.
    """
    length, stretch = residual.shape[2], DRIFT_DAYS * num_slots
    waves = np.fft.rfft(residual, axis=2)
    waves[..., 0] = 0
    angle_W = 2 * np.pi * np.arange(waves.shape[2]) / length
    # The same lags as `persistence` and `drift` measure; shorter series have fewer.
    used = [k for k, lag in enumerate(lags(num_slots)) if length > 2 * lag]
    columns = [np.cos(angle_W * lags(num_slots)[k]) for k in used]
    wanted = [np.tanh(persistence_BCL[..., k]) for k in used]
    if length >= stretch:
        half_W = np.maximum(angle_W, 1e-12) / 2
        columns.append(np.square(np.sin(half_W * stretch) / (stretch * np.sin(half_W))))
        wanted.append(np.exp(2 * drift_BC) - 1e-3)
    if columns:
        waves *= np.exp(0.5 * _tilt(np.square(np.abs(waves)), np.stack(columns, axis=1), np.stack(wanted, axis=-1)))
    out = np.fft.irfft(waves, n=length, axis=2)
    return out / np.sqrt(np.maximum(np.square(out).mean(axis=2, keepdims=True), 1e-9))


def _tilt(power_BCW: NDArray, columns_WK: NDArray, wanted_BCK: NDArray) -> NDArray:
    """Return the log gains (B, C, W) of power under which the means of the columns are as wanted."""
    kinds = columns_WK.shape[1]
    pairs = (columns_WK[:, :, None] * columns_WK[:, None, :]).reshape(len(columns_WK), -1)
    # The drift's column is large at few frequencies: scaled, one ridge suits all.
    size_K = np.maximum(columns_WK.std(axis=0), 1e-6)
    ridge = 1e-3 * np.diag(np.square(size_K))
    weight_BCK = np.zeros(wanted_BCK.shape)
    best_BCK, least_BC1 = weight_BCK.copy(), np.full((*wanted_BCK.shape[:2], 1), np.inf)
    for _ in range(ITERATIONS):
        share = power_BCW * np.exp(np.clip(weight_BCK @ columns_WK.T, -LARGEST_TILT, LARGEST_TILT))
        share /= np.maximum(share.sum(axis=2, keepdims=True), 1e-12)
        mean = share @ columns_WK
        # Figures drawn by chance need not belong to any spectrum; then the nearest that was met is taken.
        missed_BC1 = np.square((wanted_BCK - mean) / size_K).sum(axis=2, keepdims=True)
        best_BCK = np.where(missed_BC1 < least_BC1, weight_BCK, best_BCK)
        least_BC1 = np.minimum(missed_BC1, least_BC1)
        spread = (share @ pairs).reshape(*mean.shape, kinds) - mean[..., :, None] * mean[..., None, :]
        step = np.linalg.solve(spread + ridge, (wanted_BCK - mean)[..., None])[..., 0]
        weight_BCK = weight_BCK + np.clip(step, -1.0, 1.0)
    return np.clip(best_BCK @ columns_WK.T, -LARGEST_TILT, LARGEST_TILT)
