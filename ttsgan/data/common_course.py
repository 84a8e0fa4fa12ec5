"""What households share on the same dates (weather, holidays), so that it can be given to others without its members.

A mean over training series is a statistic in which they can be traced: the series of a member is, on average, closer to
it than that of anybody else. `guess_course` keeps of it what a noisy version of the mean says. A member is an entity:
with each of its meters as one, a building of many would be the mean, and the noise would hide a meter, not a building.

Axis letters: B series, M members, D dates, C channels, T time steps, W frequencies.
"""

import numpy as np
from numpy.typing import NDArray

TINY = 1e-12
MIN_SHARED = 10
"""A course is estimated only for dates that series of so many entities share."""
COURSE_NOISE = 10.0
"""Noise that hides many members: power over that of the mean's own error, were it the same at all frequencies."""
MANY = 5_000
"""Members from which on that is enough. Each of fewer weighs more in the mean: the noise grows as the root of how many
times fewer there are."""
MAX_TRACE = 0.01
"""Most that a usual member may stand out by for who knows the true course, over all dates and channels, as the square
of a distance in standard deviations: members and others are told apart with an AUC of at most .528."""


def common_courses(
    rest_BCT: NDArray, observed_BCT: NDArray[np.bool_], starts_B: NDArray, owners_B: NDArray, seed: int
) -> dict[str, NDArray]:
    """Average what entities share on the same dates, shrunk towards nothing.

    Parameters
    ----------
    rest_BCT : ndarray
        Normal scores without habits.
    observed_BCT : ndarray
        Where a value is there.
    starts_B : ndarray, datetime64
        Of those that enough entities share, a course is estimated for each.
    owners_B : ndarray
        Entity of each series.
    seed : int
        Of the noise that hides the members.

    Returns
    -------
    dict
        ``start`` (D,), int64, seconds since 1970; for each, ``course`` (D, C, T), of its members, and ``guess``
        (D, C, T), for new series.
    """
    courses, guesses = [], []
    rng = np.random.default_rng(seed)
    owners_of = {start: np.unique(owners_B[starts_B == start]) for start in np.unique(starts_B)}
    shared = {start: owners for start, owners in owners_of.items() if len(owners) >= MIN_SHARED}
    for start, owners in shared.items():
        rows = starts_B == start
        members, seen = mean_by_owner(rest_BCT[rows], observed_BCT[rows], owners_B[rows])
        courses.append(members.sum(axis=0) / (seen.sum(axis=0) + MIN_SHARED))
        # A member of several dates may be traced in the course of each: the limit is for all of them.
        dates_of_one = sum(np.isin(owners, others).sum() for others in shared.values()) / len(owners)
        guesses.append(guess_course(courses[-1], members, rng, MAX_TRACE / dates_of_one))
    dates = [start.astype("datetime64[s]").astype(np.int64) for start in shared]
    shape = (-1, *rest_BCT.shape[1:])
    return {
        "start": np.array(dates, dtype=np.int64),
        "course": np.array(courses, dtype=np.float64).reshape(shape),
        "guess": np.array(guesses, dtype=np.float64).reshape(shape),
    }


def mean_by_owner(
    rest_BCT: NDArray, observed_BCT: NDArray[np.bool_], owners_B: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the mean (M, C, T) of each owner's series where one is observed, 0 elsewhere, and where that is.

    Owners are in the order of their first series.
    """
    _, first, code = np.unique(owners_B, return_index=True, return_inverse=True)
    rank = first.argsort().argsort()[code]
    order = rank.argsort(kind="stable")
    begin = np.flatnonzero(np.diff(rank[order], prepend=-1))
    total, count = (np.add.reduceat(of[order], begin, axis=0) for of in (rest_BCT * observed_BCT, observed_BCT * 1))
    return total / np.maximum(count, 1), count > 0


def guess_course(
    mean_CT: NDArray, members_MCT: NDArray, rng: np.random.Generator, most: float = MAX_TRACE
) -> NDArray[np.float64]:
    """Return a course that the members of a date may share, drawn given their mean and noise that hides them.

    The mean is taken for the true course plus an error, whose power at each frequency the members' differences from it
    tell. Noise is added, and the sum is weighed as Wiener's filter does. What the filter takes is replaced by a random
    course of the same power: a draw from the law of the true course given the noisy mean. How much members may show by
    it `COURSE_NOISE` and ``most`` say; `spend` divides that among the frequencies, so that there is little noise where
    much is shared. Many members leave the mean nearly as it is; few leave little of it.

    Parameters
    ----------
    mean_CT : ndarray
        What `members_MCT` share, in normal scores.
    members_MCT : ndarray
        Each member's scores without its habits; 0 where missing.
    rng : numpy.random.Generator
    most : float
        As `MAX_TRACE`, for these dates.
    """
    length, members = mean_CT.shape[1], len(members_MCT)
    waves_CW = np.fft.rfft(mean_CT, axis=1)
    power_CW = sum(np.square(np.abs(np.fft.rfft(member_CT, axis=1))) for member_CT in members_MCT)
    shared_CW = np.square(np.abs(waves_CW))
    # What members have of their own: their power without what they share.
    error_CW = np.maximum((power_CW / members - shared_CW) / (members - 1), TINY)
    signal_CW = np.maximum(shared_CW - error_CW, TINY)
    noise = COURSE_NOISE * max(1.0, np.sqrt(MANY / members))
    even_CW = signal_CW / (signal_CW + (1 + noise) * error_CW)
    bare = len(mean_CT) > 1
    budget = min(traces(even_CW, signal_CW, error_CW, bare).sum(), most * members)
    trust_CW = spend(budget, signal_CW, error_CW, bare)
    lost_CW = signal_CW * (1 - trust_CW)
    noise_CW = _normal_waves(waves_CW.shape, length, rng)
    noise_CW *= np.sqrt(np.maximum(trust_CW * lost_CW - trust_CW**2 * error_CW, 0))
    # One turn of the phases for all channels, so that they stay in step: who compares them may take this off.
    turn_W = _normal_waves(waves_CW.shape[1:], length, rng)
    other_CW = waves_CW / np.maximum(np.abs(waves_CW), TINY) * turn_W * np.sqrt(lost_CW)
    return np.fft.irfft(trust_CW * waves_CW + noise_CW + other_CW, n=length, axis=1)


def traces(trust: NDArray, signal: NDArray, error: NDArray, bare: bool = False) -> NDArray[np.float64]:
    """Return how far members stand out in a guess at each frequency, all together.

    The square of a distance in standard deviations, the sum over all members. A member's part of the mean, of power
    ``error / members``, is in the guess ``trust`` times; all else that is not the true course has there the power
    ``signal * (1 - trust**2)``, or ``signal * trust * (1 - trust)`` without the random course that replaces what is
    lost. A frequency has two such numbers, but for the first and the last.

    Parameters
    ----------
    trust : ndarray
        Weight of the noisy mean, from 0 to below 1.
    signal, error : ndarray
        Power of the true course, and of the error of the mean; above 0.
    bare : bool
        Whether that random course is known: the most that several channels, in step, may tell of it.
    """
    odds = trust / (1 - trust) if bare else trust**2 / (1 - trust**2)
    return 2 * error / signal * odds


def spend(budget: float, signal: NDArray, error: NDArray, bare: bool = False) -> NDArray[np.float64]:
    """Return the trusts that lose least of the true course and whose `traces` come to a budget.

    The loss, the sum of ``signal * (1 - trust)``, is least where one more trace buys as much at every frequency.

    Parameters
    ----------
    budget : float
        Sum of the traces; the most is that of the mean itself, without noise.
    signal, error, bare
        As for `traces`.
    """
    # In odds, of which each leaves a trace of `cost`, all follows from one price of a trace:
    # signal / cost = price * slope, the change of odds with trust.
    cost = 2 * error / signal
    known = np.logspace(-16, 8, 4_001)
    trust = known / (1 + known) if bare else np.sqrt(known / (1 + known))
    slope = (1 + known) ** 2 * (1 if bare else 2 * trust)
    worth = np.log(signal / cost)
    # Those of the mean itself, without noise.
    most = signal / error if bare else signal**2 / (error * (2 * signal + error))

    def odds(price: float) -> NDArray[np.float64]:
        return np.minimum(np.exp(np.interp(worth - price, np.log(slope), np.log(known))), most)

    # Bounds of the price's logarithm.
    low, high = worth.min() - np.log(slope[-1]), worth.max() - np.log(slope[0])
    for _ in range(60):
        price = (low + high) / 2
        low, high = (price, high) if (cost * odds(price)).sum() > budget else (low, price)
    share = odds(high) / (1 + odds(high))
    return share if bare else np.sqrt(share)


def _normal_waves(shape: tuple[int, ...], length: int, rng: np.random.Generator) -> NDArray[np.complex128]:
    """Return normal numbers of mean square 1 for the frequencies (..., W) of a real course of that length.

    They are complex, but for the first and, of an even length, the last: of these a real course has no other part.
    """
    waves = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    ends = [0, -1] if length % 2 == 0 else [0]
    waves[..., ends] = np.sqrt(2) * waves[..., ends].real
    return waves
