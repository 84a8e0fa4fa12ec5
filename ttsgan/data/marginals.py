"""The distribution of a series' values: the share of zeros; level, quantile function and peak of the other values.

In some channels only some homes have negative values, such as a meter that also counts what a roof feeds in. Such a
channel is split into two parts, the values above zero and the values below zero, each with its own distribution. In a
home without values of one sign, that part is all zeros. A channel that is below zero in all homes, or for which zero is
nothing special (a temperature), stays one part.

Axis letters: B series, C channels, P parts, T time steps, Q points of a quantile function.
"""

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from ttsgan.data import quantiles, readings
from ttsgan.extremes import BEHIND, bounds

MIN_HOMES = 5
"""Negative values are treated as zeros if fewer entities have any than this, or than have none, whichever is less:
released series with negative values would point at these entities."""
NOTHING = np.log(1e-12)
"""Log of the mean absolute value, physical units; a part at or below it has only zeros."""
NOISE = 0.01
"""A lowest value less far below zero than this share of the series' mean absolute value is meter noise around zero."""
MOST_NEAR = 0.25
"""Zero is a bound if at most this many series have their lowest value a little below it, per series with it a little
above."""
OF_LEVEL = 0.4
"""If the standard deviation of log(peak / level) is below this share of that of log(peak), the household number of the
peak is relative to the level."""
FLATTEST = 0.05
"""Quantile of the rise of training distributions at their top; no new distribution is compressed to a smaller rise."""
ABOVE, BOTH, WHOLE = 0, 1, 2
"""Kinds of channel: without negative values; split at zero into two parts; in one part with values of either sign, zero
being nothing special."""


class Marginals(NamedTuple):
    """Distributions of the values of series, for each part of a channel.

    Attributes
    ----------
    level : ndarray (B, P)
        Log of the mean absolute value of the non-zero values, physical units.
    zero_share : ndarray (B, P)
        Logit of the share of zeros, after adding half a zero and half a non-zero value.
    peak : ndarray (B, P)
        Log of the largest value, physical units; 0 for channels that are `WHOLE`. Not relative to the mean, because an
        almost empty home can briefly draw as much as others. The household number is relative if `OF_LEVEL`
        applies.
    log_quantiles : ndarray (B, P*Q)
        Quantile function x of the non-zero values over their mean absolute value, as log(1 + x), or as arsinh(x) for
        channels that are `WHOLE`.
    """

    level: NDArray[np.float64]
    zero_share: NDArray[np.float64]
    peak: NDArray[np.float64]
    log_quantiles: NDArray[np.float64]

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Whether a part has only zeros (B, P); then only its zero share carries information."""
        return self.level <= NOTHING


def _homes(lowest_BC: NDArray, owners_B: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each channel how many entities (C,) have a series with negative values, and how many one without."""
    counts = [[len(np.unique(owners_B[rows])) for rows in (below_B, ~below_B)] for below_B in (lowest_BC < 0).T]
    with_any_C, without_C = np.array(counts).T
    return with_any_C, without_C


def _too_few(with_any_C: NDArray, without_C: NDArray) -> NDArray[np.bool_]:
    return with_any_C < np.minimum(MIN_HOMES, without_C)


def few_below(lowest_BC: NDArray, owners_B: NDArray) -> NDArray[np.int64]:
    """Return for each channel (C,) how many entities have negative values that are treated as zeros; usually 0.

    ``lowest_BC`` is the lowest value of each series.
    """
    with_any_C, without_C = _homes(lowest_BC, owners_B)
    return np.where(_too_few(with_any_C, without_C), with_any_C, 0)


def find_signs(values_BCT: NDArray, owners_B: NDArray) -> NDArray[np.int64]:
    """Return for each channel (C,) whether it is `ABOVE`, `BOTH` or `WHOLE`."""
    lowest_BC = np.nanmin(values_BCT, axis=2)
    with_any_C, without_C = _homes(lowest_BC, owners_B)
    size_BC = np.nanmean(np.abs(values_BCT), axis=2)
    taken_apart_C = (without_C >= MIN_HOMES) & _zero_is_a_bound(lowest_BC / np.maximum(size_BC, 1e-12))
    return np.where(_too_few(with_any_C, without_C), ABOVE, np.where(taken_apart_C, BOTH, WHOLE))


def _zero_is_a_bound(lowest_BC: NDArray) -> NDArray[np.bool_]:
    """Return for each channel (C,) whether zero bounds the series from below, except some that go far below it.

    The lowest values of a temperature lie as often a little below zero as a little above it. ``lowest_BC`` is relative
    to the mean absolute value of each series.
    """
    out = []
    for lowest_B in lowest_BC.T:
        above = lowest_B[lowest_B >= 0]
        reach = np.median(above) if len(above) else 0.0
        near_below = np.count_nonzero((lowest_B > -reach) & (lowest_B < -NOISE))
        out.append(near_below <= MOST_NEAR * np.count_nonzero(above <= reach))
    return np.array(out)


def is_zero(values_BCT: NDArray, signs_C: NDArray) -> NDArray[np.bool_]:
    """Return where a value (B, C, T) counts as zero; in an `ABOVE` channel negative values do, too."""
    signs_C1 = signs_C[:, None]
    return ((values_BCT == 0) & (signs_C1 != WHOLE)) | ((values_BCT < 0) & (signs_C1 == ABOVE))


def whole(signs_C: NDArray) -> NDArray[np.bool_]:
    """Return for each part (P,) whether it is a `WHOLE` channel, with values of either sign."""
    return np.concatenate([signs_C == WHOLE, np.zeros((signs_C == BOTH).sum(), dtype=bool)])


def _apart(values_BCT: NDArray, signs_C: NDArray) -> NDArray:
    """Return the parts (B, P, T): values above zero, or all if `WHOLE`, of each channel; then sizes below if `BOTH`."""
    above = np.where(signs_C[:, None] == WHOLE, values_BCT, np.maximum(values_BCT, 0))
    return np.concatenate([above, np.maximum(-values_BCT[:, signs_C == BOTH], 0)], axis=1)


def _together(sorted_BPT: NDArray, signs_C: NDArray) -> NDArray:
    """Return channels (B, C, T) in rising order from their parts (B, P, T), each in rising order."""
    sorted_BCT, below = sorted_BPT[:, : len(signs_C)], sorted_BPT[:, len(signs_C) :, ::-1]
    sorted_BCT[:, signs_C == BOTH] -= below
    return sorted_BCT


def measure(values_BCT: NDArray, signs_C: NDArray, grid_Q: NDArray) -> Marginals:
    """Measure the distributions of series; NaN values are left out."""
    parts_BPT, whole_P = _apart(values_BCT, signs_C), whole(signs_C)
    zero_BPT, length = (parts_BPT == 0) & ~whole_P[:, None], values_BCT.shape[2]
    empty_BP = zero_BPT.sum(axis=2) / (~np.isnan(parts_BPT)).sum(axis=2)
    rest_BPT = np.where(zero_BPT & (empty_BP < 1)[..., None], np.nan, parts_BPT)
    level_BP = np.log(np.maximum(np.nanmean(np.abs(rest_BPT), axis=2, dtype=np.float64), np.exp(NOTHING)))
    log_quantiles = []
    for p, is_whole in enumerate(whole_P):
        quantiles_BQ = quantiles.quantile_function(rest_BPT[:, p], grid_Q) / np.exp(level_BP[:, p, None])
        log_quantiles.append(np.arcsinh(quantiles_BQ) if is_whole else np.log1p(quantiles_BQ))
    return Marginals(
        level=level_BP,
        zero_share=logit((empty_BP * length + 0.5) / (length + 1)),
        peak=np.where(whole_P, 0.0, np.log(np.maximum(np.nanmax(parts_BPT, axis=2), 1e-12))),
        log_quantiles=np.concatenate(log_quantiles, axis=1),
    )


def limits(found: Marginals, owners_B: NDArray, grid_Q: NDArray) -> dict[str, NDArray]:
    """Return the limits of new distributions and the usual one, which replaces an absent one, from training data."""
    seen_BP = np.where(found.absent, np.nan, 1.0)
    level_BP, above_BP = found.level * seen_BP, (found.peak - found.level) * seen_BP
    seen_BF = np.repeat(seen_BP, found.log_quantiles.shape[1] // seen_BP.shape[1], axis=1)
    logq_BF = found.log_quantiles * seen_BF
    peak_low, peak_high = bounds(above_BP, owners_B)
    # Where levels vary far more than peak / level, that ratio would be lost if peak and level were drawn separately.
    over_P = np.nanstd(above_BP, axis=0) < OF_LEVEL * np.nanstd(found.peak * seen_BP, axis=0)
    logq_low, logq_high = bounds(logq_BF, owners_B)
    return {
        "peak_low": peak_low,
        "peak_high": peak_high,
        "peak_over": over_P.astype(np.float64),
        "least_rise": np.nanquantile(_rises(logq_BF, grid_Q), FLATTEST, axis=0),
        "most_zeros": bounds(expit(found.zero_share), owners_B)[1],
        "logq_low": logq_low,
        "logq_high": logq_high,
        "usual_level": np.stack([np.nanmean(level_BP, axis=0), np.nanstd(level_BP, axis=0)]),
        "usual_above": np.stack([np.nanmean(above_BP, axis=0), np.nanstd(above_BP, axis=0)]),
        "usual_logq": np.nanmean(logq_BF, axis=0),
    }


def find_caps(values_BCT: NDArray, signs_C: NDArray, owners_B: NDArray) -> tuple[NDArray, NDArray]:
    """Return the lowest and the highest possible value (C,), if `BEHIND` entities reach it; else -inf and inf.

    Only `WHOLE` channels get a lowest value: the parts of all others begin at zero.
    """
    lows, highs = np.full(len(signs_C), -np.inf), np.full(len(signs_C), np.inf)
    for caps, furthest_BC, furthest in (
        (highs, np.nanmax(values_BCT, axis=2), np.nanmax), (lows, np.nanmin(values_BCT, axis=2), np.nanmin),
    ):  # fmt: skip
        for c, reached_B in enumerate(furthest_BC.T):
            at_cap = reached_B == furthest(reached_B)
            if len(np.unique(owners_B[at_cap])) >= BEHIND:
                caps[c] = furthest(reached_B)
    return np.where(signs_C == WHOLE, lows, -np.inf), highs


def _rises(logq_BF: NDArray, grid_Q: NDArray) -> NDArray[np.float64]:
    """Return the log ratio (B, P) of the highest value to that at `PEAK_FROM`, for parts that are not whole."""
    logq_BPQ = logq_BF.reshape(len(logq_BF), -1, len(grid_Q))
    inner = np.clip(np.searchsorted(grid_Q, readings.PEAK_FROM), 1, len(grid_Q) - 1)
    share = np.clip((readings.PEAK_FROM - grid_Q[inner - 1]) / (grid_Q[inner] - grid_Q[inner - 1]), 0, 1)
    low, high, top = (np.expm1(np.maximum(logq_BPQ[..., at], 0)) for at in (inner - 1, inner, -1))
    return np.log(np.maximum(top, 1e-12)) - np.log(np.maximum(low + share * (high - low), 1e-12))


def completed(found: Marginals, values_BCT: NDArray, state: dict[str, NDArray], seed: int) -> Marginals:
    """Return distributions in which absent ones are replaced, so that nothing is learned from them.

    A home that feeds nothing in has no level of feed-in. A level drawn from those of others leaves the distribution of
    this number as it is among homes that have it. The draw depends on the seed and the series, not on other series.
    """
    level_BP, peak_BP, logq_BF = found.level.copy(), found.peak.copy(), found.log_quantiles.copy()
    logq_BPQ, usual_PQ = (x.reshape(*x.shape[:-1], level_BP.shape[1], -1) for x in (logq_BF, state["usual_logq"]))
    for row in np.flatnonzero(found.absent.any(axis=1)):
        rng = np.random.default_rng([seed, zlib.crc32(values_BCT[row].tobytes())])
        drawn_P, above_P = (
            mean_P + spread_P * rng.standard_normal(len(mean_P))
            for mean_P, spread_P in (state["usual_level"], state["usual_above"])
        )
        absent_P = found.absent[row]
        level_BP[row, absent_P] = drawn_P[absent_P]
        peak_BP[row, absent_P] = (drawn_P + np.clip(above_P, state["peak_low"], state["peak_high"]))[absent_P]
        logq_BPQ[row, absent_P] = usual_PQ[absent_P]
    return found._replace(level=level_BP, peak=peak_BP, log_quantiles=logq_BF)


def num_zeros(zero_share_BP: NDArray, state: dict[str, NDArray]) -> NDArray[np.int64]:
    """Return the number of zeros (B, P) for a logit of their share; 0 for a channel that is `WHOLE`."""
    share_BP = np.minimum(expit(zero_share_BP.astype(np.float64)), state["most_zeros"])
    count_BP = np.rint(share_BP * (state["shape"][1] + 1) - 0.5)
    return count_BP.astype(np.int64) * ~whole(state["signs"])


def rising(found: Marginals, state: dict[str, NDArray]) -> NDArray[np.float64]:
    """Return the values (B, C, T) of series with these distributions, in physical units and in rising order."""
    length, whole_P = int(state["shape"][1]), whole(state["signs"])
    logq_BF = np.clip(found.log_quantiles, state["logq_low"], state["logq_high"])
    zeros_BP = num_zeros(found.zero_share, state)
    values = np.empty((*zeros_BP.shape, length))
    for p, logq_BQ in enumerate(np.split(logq_BF, len(whole_P), axis=1)):
        quantiles_BQ = np.sort(np.sinh(logq_BQ) if whole_P[p] else np.expm1(logq_BQ), axis=1)
        shape_BT = quantiles.sorted_values(state["grid"], quantiles_BQ, length, zeros_BP[:, p])
        in_use_B1 = 1 - zeros_BP[:, [p]] / length
        shape_BT *= in_use_B1 / np.maximum(np.abs(shape_BT).mean(axis=1, keepdims=True), 1e-12)
        if not whole_P[p]:
            above_B = np.clip(found.peak[:, p] - found.level[:, p], state["peak_low"][p], state["peak_high"][p])
            shape_BT = readings.with_peak(shape_BT, above_B, state["least_rise"][p])
        values[:, p] = shape_BT * np.exp(found.level[:, p, None])
    return np.clip(_together(values, state["signs"]), state["lowest"][:, None], state["highest"][:, None])


def mean_size(level_BP: NDArray, zero_share_BP: NDArray, state: dict[str, NDArray]) -> NDArray[np.float64]:
    """Return the mean absolute value (B, C) of all values, zeros included; physical units."""
    in_use_BP = 1 - num_zeros(zero_share_BP, state) / state["shape"][1]
    mean_BP = np.exp(level_BP.astype(np.float64)) * in_use_BP
    signs = state["signs"]
    mean_BP[:, : len(signs)][:, signs == BOTH] += mean_BP[:, len(signs) :]
    return mean_BP[:, : len(signs)]


def kinds(zero_share_BP: NDArray, state: dict[str, NDArray]) -> NDArray[np.int64]:
    """Return a code (B,) for the combination of parts, of the `BOTH` channels, in which a series has values."""
    signs, length = state["signs"], state["shape"][1]
    both = signs == BOTH
    of_two_BP = num_zeros(zero_share_BP, state)[:, np.concatenate([both, np.ones(both.sum(), dtype=bool)])] < length
    return of_two_BP @ (1 << np.arange(of_two_BP.shape[1]))
