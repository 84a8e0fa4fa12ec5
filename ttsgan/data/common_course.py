"""The common course: what households share on the same dates (weather, holidays), in a form that hides its members.

Members can be traced in a mean over training series: on average, the series of a member is closer to it than that of
anybody else. `guess_course` keeps only what a noisy version of the mean holds. A member is an entity. If each meter
were a member, a building of many meters would dominate the mean, and the noise would hide a meter, not a building.

Axis letters: B series, M members, D dates, C channels, T time steps, W frequencies.
"""

import numpy as np
from numpy.typing import NDArray

TINY = 1e-12
MIN_SHARED = 10
"""A course is estimated only for dates that series of at least this many entities share."""
COURSE_NOISE = 10.0
"""Power of the noise that hides `MANY` members or more, over that of the mean's own error, if this ratio were the same
at all frequencies."""
MANY = 5_000
"""Number of members from which `COURSE_NOISE` is enough. Among fewer, each weighs more in the mean: the noise grows as
the square root of `MANY` over their number."""
MAX_TRACE = 0.01
"""Most by which a typical member may stand out to an attacker who knows the true course, over all dates and channels,
as a squared distance in standard deviations: the attacker separates members from others with an AUC of at most .528."""


def common_courses(
    rest_BCT: NDArray, observed_BCT: NDArray[np.bool_], starts_B: NDArray, owners_B: NDArray, seed: int
) -> dict[str, NDArray]:
    """Average what entities share on the same dates, shrunk towards zero.

    Parameters
    ----------
    rest_BCT : ndarray
        Normal scores without habits.
    observed_BCT : ndarray
        True where a value is observed.
    starts_B : ndarray, datetime64
        Start of each series; a course is estimated for each start that enough entities share.
    owners_B : ndarray
        Entity of each series.
    seed : int
        Seed of the noise that hides the members.

    Returns
    -------
    dict
        ``start`` (D,), int64, seconds since 1970; for each start, ``course`` (D, C, T), for its members, and ``guess``
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
        # An entity with several start dates can be traced in the course of each: the limit is for all together.
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
    """Return the mean (M, C, T) of each owner's observed values, 0 where there is none, and a mask of where one is.

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
    """Return a draw of the course that members of a date share, given their mean and noise that hides the members.

    The mean is modelled as the true course plus an error, whose power at each frequency is estimated from the members'
    deviations. Noise is added, and the sum is weighted as by a Wiener filter. The power that the filter removes is
    replaced by a random course: the result is a draw from the distribution of the true course given the noisy mean.
    `COURSE_NOISE` and ``most`` limit how far members may stand out in it. `spend` divides this budget among the
    frequencies, so that there is little noise where much is shared. With many members, the mean hardly changes; with
    few, little of it is left.

    Parameters
    ----------
    mean_CT : ndarray
        Shrunk mean of ``members_MCT``, in normal scores.
    members_MCT : ndarray
        Each member's scores without its habits; 0 where missing.
    rng : numpy.random.Generator
    most : float
        Limit like `MAX_TRACE`, for these dates alone.
    """
    length, members = mean_CT.shape[1], len(members_MCT)
    waves_CW = np.fft.rfft(mean_CT, axis=1)
    power_CW = sum(np.square(np.abs(np.fft.rfft(member_CT, axis=1))) for member_CT in members_MCT)
    shared_CW = np.square(np.abs(waves_CW))
    # Power of the error of the mean: from the members' own power, without what they share.
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
    # One phase rotation for all channels keeps them in step; an attacker who compares channels may remove it.
    turn_W = _normal_waves(waves_CW.shape[1:], length, rng)
    other_CW = waves_CW / np.maximum(np.abs(waves_CW), TINY) * turn_W * np.sqrt(lost_CW)
    return np.fft.irfft(trust_CW * waves_CW + noise_CW + other_CW, n=length, axis=1)


def traces(trust: NDArray, signal: NDArray, error: NDArray, bare: bool = False) -> NDArray[np.float64]:
    """Return how far all members together stand out in a guess at each frequency.

    The measure is a squared distance in standard deviations, summed over members. A member's part of the mean, of power
    ``error / members``, enters the guess with the weight ``trust``. Everything else in the guess that is not the true
    course has the power ``signal * (1 - trust**2)``, or ``signal * trust * (1 - trust)`` without the random course that
    replaces what is lost. A frequency has two such numbers, except the first and the last.

    Parameters
    ----------
    trust : ndarray
        Weight of the noisy mean, from 0 to below 1.
    signal, error : ndarray
        Power of the true course, and of the error of the mean; above 0.
    bare : bool
        Whether the attacker knows that random course: an upper bound of what several channels in step may reveal of it.
    """
    odds = trust / (1 - trust) if bare else trust**2 / (1 - trust**2)
    return 2 * error / signal * odds


def spend(budget: float, signal: NDArray, error: NDArray, bare: bool = False) -> NDArray[np.float64]:
    """Return the trusts that lose least of the true course and whose `traces` add up to a budget.

    The loss, the sum of ``signal * (1 - trust)``, is least where a further unit of trace buys as much at every
    frequency.

    Parameters
    ----------
    budget : float
        Sum of the traces; no frequency exceeds the trace of the mean itself, without noise.
    signal, error, bare
        As for `traces`.
    """
    # In terms of odds, of which one unit leaves a trace of `cost`, one price of a trace determines all trusts:
    # signal / cost = price * slope, where slope is the derivative of odds with respect to trust.
    cost = 2 * error / signal
    known = np.logspace(-16, 8, 4_001)
    trust = known / (1 + known) if bare else np.sqrt(known / (1 + known))
    slope = (1 + known) ** 2 * (1 if bare else 2 * trust)
    worth = np.log(signal / cost)
    # Odds of the mean itself, without noise.
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
    """Return complex normal numbers of mean square 1 for the frequencies (..., W) of a real course of that length.

    The first and, for an even length, the last are real: there a real course has no imaginary part.
    """
    waves = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    ends = [0, -1] if length % 2 == 0 else [0]
    waves[..., ends] = np.sqrt(2) * waves[..., ends].real
    return waves
