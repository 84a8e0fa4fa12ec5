"""Statistics of the judges: confidence bounds of rates, AUC with its standard error, sample sizes, 1-D distances.

Every bound is one-sided unless stated otherwise, and every rate counts independent units (entities, or synthetic
series).
"""

import math
from typing import Any

import numpy as np
from scipy import stats as scipy_stats


def clopper_pearson_upper(hits: int, trials: int, alpha: float = 0.05) -> float:
    """Return the exact one-sided upper confidence bound of a rate (Clopper-Pearson).

    Parameters
    ----------
    hits : int
        Successes, 0..trials.
    trials : int
        Independent trials; with 0 nothing is known and the bound is 1.
    alpha : float
        Largest probability that the bound lies below the true rate, in (0, 1).

    Returns
    -------
    float
        Bound in [0, 1].
    """
    if trials <= 0 or hits >= trials:
        return 1.0
    return float(scipy_stats.beta.ppf(1 - alpha, hits + 1, trials - hits))


def clopper_pearson_lower(hits: int, trials: int, alpha: float = 0.05) -> float:
    """Return the exact one-sided lower confidence bound of a rate, the mirror of `clopper_pearson_upper`."""
    if trials <= 0 or hits <= 0:
        return 0.0
    return float(scipy_stats.beta.ppf(alpha, hits, trials - hits + 1))


def wilson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the centre and half width of the two-sided Wilson interval of a rate.

    Parameters
    ----------
    hits, trials : int
        Successes and trials; 0 trials give (0.5, 0.5).
    confidence : float
        Two-sided confidence, in (0, 1).

    Returns
    -------
    tuple of float
        Centre (pulled towards 1/2 for few trials) and half width, both in [0, 1].

    References
    ----------
    Wilson 1927, J. Am. Stat. Assoc. 22:209.
    """
    z = float(scipy_stats.norm.ppf((1 + confidence) / 2))
    denominator = trials + z * z
    centre = (hits + z * z / 2) / denominator
    spread = hits * (trials - hits) / trials if trials else 0.0
    return centre, z / denominator * math.sqrt(spread + z * z / 4)


def residual_risk(
    attack: tuple[int, int], control: tuple[int, int], confidence: float = 0.90
) -> tuple[float, float, float]:
    """Return the gain of an attack over its control, R = (a - c) / (1 - c), with its confidence interval.

    Parameters
    ----------
    attack, control : tuple of (hits, trials)
        Successes on training targets, and the same attack on holdout targets.
    confidence : float
        Two-sided confidence; 0.90 makes each end a one-sided 95 % bound.

    Returns
    -------
    tuple of float
        Risk, lower and upper end, each clipped to [0, 1]. The rates a and c are Wilson centres; their errors are
        propagated. All 0 where the control's interval lies above the attack's.

    References
    ----------
    Giomi et al. 2023, "A unified framework for quantifying privacy risk in synthetic data", PoPETs.
    """
    rate_a, error_a = wilson(*attack, confidence)
    rate_c, error_c = wilson(*control, confidence)
    if rate_a + error_a < rate_c - error_c:
        # An attack that its control beats gains nothing; the formula's error explodes if the control almost always hits
        return 0.0, 0.0, 0.0
    if rate_c >= 1.0:
        return 0.0, 0.0, 1.0
    risk = (rate_a - rate_c) / (1 - rate_c)
    error = math.hypot(error_a / (1 - rate_c), (rate_a - 1) / (1 - rate_c) ** 2 * error_c)
    return tuple(float(np.clip(value, 0, 1)) for value in (risk, risk - error, risk + error))


def auc_delong(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error.

    Parameters
    ----------
    positive, negative : ndarray of shape (m,) and (n,), float
        Scores; higher means positive. Ties count one half. Both must hold at least one score.

    Returns
    -------
    tuple of float
        AUC in [0, 1], and DeLong's standard error, never below that of exchangeable scores,
        sqrt((m + n + 1) / (12 m n)), because DeLong's is 0 for two small samples that happen to separate.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44:837; fast form by Sun and Xu 2014 (midranks).
    """
    m, n = len(positive), len(negative)
    ranks = scipy_stats.rankdata(np.concatenate([positive, negative]))
    inside_positive = scipy_stats.rankdata(positive)
    inside_negative = scipy_stats.rankdata(negative)
    auc = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    share_below = (ranks[:m] - inside_positive) / n
    share_above = 1 - (ranks[m:] - inside_negative) / m
    variance = 0.0
    if m > 1 and n > 1:
        variance = share_below.var(ddof=1) / m + share_above.var(ddof=1) / n
    return float(auc), math.sqrt(max(variance, (m + n + 1) / (12 * m * n)))


def normal_quantile(alpha: float) -> float:
    """Return z with P(N(0, 1) > z) = alpha."""
    return float(scipy_stats.norm.isf(alpha))


def trials_to_bound(rate: float, threshold: float, alpha: float = 0.05) -> int | None:
    """Return the number of trials that brings the upper confidence bound of a rate down to a threshold.

    Parameters
    ----------
    rate : float
        Rate assumed for the trials, for instance the observed one.
    threshold : float
        Largest allowed upper bound.
    alpha : float
        One-sided error of the bound.

    Returns
    -------
    int or None
        Smallest number of trials (within 1 %); None where the rate itself is not below the threshold, or more than
        10^9 trials are needed.
    """
    if rate >= threshold:
        return None

    def proves(trials: int) -> bool:
        return clopper_pearson_upper(math.ceil(rate * trials), trials, alpha) <= threshold

    high = max(1, math.ceil(-math.log(alpha) / threshold))
    while not proves(high):
        high *= 2
        if high > 10**9:
            return None
    low = 0
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high


def entities_to_bound(value: float, width: float, entities: int, threshold: float) -> int | None:
    """Return the number of entities that shrinks an interval enough for its upper end to meet a threshold.

    Parameters
    ----------
    value, width : float
        Estimate, and distance from it to its upper end; the width falls with 1 / sqrt(entities).
    entities : int
        Entities behind the estimate.
    threshold : float
        Largest allowed upper end.

    Returns
    -------
    int or None
        None where the estimate itself is not below the threshold.
    """
    if value >= threshold:
        return None
    return max(entities, math.ceil(entities * (width / (threshold - value)) ** 2))


def wasserstein_columns(order: np.ndarray, gaps: np.ndarray, signed_weights: np.ndarray) -> np.ndarray:
    """Return the 1-D Wasserstein-1 distance between two weighted samples, for many columns at once.

    Parameters
    ----------
    order : ndarray of shape (K, N), int
        Row k sorts column k of the N pooled records.
    gaps : ndarray of shape (K, N - 1), float
        Differences between neighbours of the sorted column.
    signed_weights : ndarray of shape (N,), float
        Weight in the first sample minus weight in the second; the weights of each sample sum to 1.

    Returns
    -------
    ndarray of shape (K,), float64
        Integral of |F_first - F_second|, in the column's unit.
    """
    difference = np.cumsum(signed_weights[order], axis=1)[:, :-1]
    np.abs(difference, out=difference)
    return np.einsum("kn,kn->k", difference, gaps)


def jsonable(value: Any) -> Any:
    """Return the same structure in plain Python types, floats to seven significant digits, non-finite ones as None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.bool_ | bool):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating | float):
        return float(f"{float(value):.7g}") if math.isfinite(value) else None
    return value
