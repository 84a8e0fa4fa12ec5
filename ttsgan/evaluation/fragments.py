"""A7, fragments: find stretches of training series inside synthetic ones, in place, moved or rescaled.

A set pasted together from weeks of several households is close to no single one, so attacks on whole series miss it.
Two searches, each with the holdout as its control:

- *same dates*: compare a window of 3 days every third day with the same dates of all real series; finds sets with few
  pasted series;
- *anywhere*: compare windows of about a day and of a week with the windows at every step of equally many training and
  holdout series; finds pieces moved by hours, days or seasons.

Every window is standardised to mean 0 and variance 1, so that rescaled stretches are found too. A window is *found* if
its relative distance to a training window is below the literal distance, and below half of its distance to any holdout
window, because meters that round, or stand still, are close to everybody. Windows without movement are skipped. At the
same dates a window must be within a fifth of the literal distance: it is compared with far more windows, series that
follow the same weather are alike, and homes with one spike a day have neighbours in any large training set. Pieces with
noise of a few per cent are left to the search anywhere.

Axes: n series, C channels, L time steps, w steps of a window, q windows tested.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from ttsgan.evaluation.copying import ratio
from ttsgan.evaluation.gate import CONTROL_ERROR, COPIES_ERROR, FAIL_ERROR, Thresholds, line
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.stats import clopper_pearson_lower, clopper_pearson_upper, trials_to_bound

STRETCH_DAYS = 3
STRETCH_SHARE = 0.1
MAX_STRETCHES = 60
STRETCH_SERIES = 1000
ASKED_SERIES = 500
ASKED_WINDOWS = 4
SAME_DATES = 0.2
"""Threshold at the same dates, as a share of the literal distance."""
MIN_STEPS = 16
"""Shortest window in steps; shorter ones resemble others by chance alone."""
BASE_SERIES = 500
WORK = 1.2e12
"""Budget of floating point operations of one search anywhere; it limits the number of real series searched."""
_BASE_ROWS = 16
_TINY = 1e-9


@dataclass(frozen=True)
class Found:
    """Which synthetic series contain fragments of training series, and of the control; bool arrays of shape (n,)."""

    train: np.ndarray
    control: np.ndarray


def _standardised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows scaled to mean 0 and mean square 1, and their original standard deviations."""
    x = x - x.mean(-1, keepdims=True)
    spread = x.std(-1)
    return x / np.maximum(spread, _TINY)[..., None], spread


def _moves(windows: np.ndarray, spread: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return which windows vary enough: a quarter of the series' own deviation, carried by at least 3 steps.

    Once standardised, a lone spike equals any other lone spike.
    """
    return (spread >= 0.25 * own) & (windows.shape[-1] / np.maximum((windows**4).mean(-1), _TINY) >= 3)


def _nearest(windows: np.ndarray, bases: Iterable[np.ndarray]) -> np.ndarray:
    """Return the smallest relative distance of each window; rows have norm sqrt(w), so products are exact to 0.001."""
    best = np.full(len(windows), -np.inf, np.float32)
    for base in bases:
        for start in range(0, len(base), 8192):
            np.maximum(best, (windows @ base[start : start + 8192].T).max(1), out=best)
    return np.sqrt(np.maximum(2 - 2 * best / windows.shape[1], 0))


def same_dates(
    synthetic: Judged, train: Judged, halves: tuple[Judged, Judged], limits: Thresholds, rng: np.random.Generator
) -> Found | None:
    """Find series pasted from training series at the same dates.

    Parameters
    ----------
    synthetic : Judged
        At most about a thousand series; all four sets aligned and gap-free.
    train : Judged
        Every training series.
    halves : tuple of Judged
        Two entity-disjoint halves of the holdout; in the control, the first takes the place of training.
    limits : Thresholds
    rng : numpy.random.Generator
        Chooses the training series that the control is measured against.

    Returns
    -------
    Found or None
        A series counts if at least 3 of its windows, and a tenth of those that move, are found. For training, these
        must also be more than 3 * len(train) / len(first half) times those found in the control. None where series
        have fewer than 6 windows.
    """
    width = STRETCH_DAYS * synthetic.steps_per_day
    begins = np.arange(0, synthetic.values.shape[2] - width + 1, width)
    if len(begins) < 6:
        return None
    begins = begins[np.unique(np.linspace(0, len(begins) - 1, MAX_STRETCHES).astype(int))]
    peers = train.sample_entities(max(len(halves[0]), 1), rng)
    own = np.maximum(synthetic.values.std((1, 2)), _TINY)
    moves, near = np.zeros((len(begins), len(synthetic)), bool), np.zeros((len(begins), 4, len(synthetic)))
    for at, begin in enumerate(begins):

        def cut(judged: Judged, begin: int = begin) -> tuple[np.ndarray, np.ndarray]:
            return _standardised(judged.values[:, :, begin : begin + width].reshape(len(judged), -1))

        bases = [cut(part)[0] for part in (train, peers, *halves)]
        window, spread = cut(synthetic)
        moves[at], near[at] = _moves(window, spread, own), [_nearest(window, [base]) for base in bases]
    literal = SAME_DATES * limits.literal_distance
    to_train, to_peers, to_first, to_second = near.swapaxes(0, 1)
    by_train, by_holdout = (
        (moves & (close < literal) & (ratio(close, other) < limits.hard_ratio)).sum(axis=0)
        for close, other in ((to_train, np.minimum(to_first, to_second)), (to_first, np.minimum(to_peers, to_second)))
    )
    enough = np.maximum(3, STRETCH_SHARE * moves.sum(axis=0))
    folds = len(train) / max(1, len(halves[0]))
    return Found((by_train >= enough) & (by_train > 3 * folds * by_holdout), by_holdout >= enough)


def _every_window(base: Judged, width: int) -> Iterator[np.ndarray]:
    """Yield the standardised windows at every step, (m, C * w), a few series at a time."""
    for start in range(0, len(base), _BASE_ROWS):
        x = base.values[start : start + _BASE_ROWS]
        view = np.lib.stride_tricks.sliding_window_view(x, width, axis=2)
        rows = np.moveaxis(view, 1, 2).reshape(-1, x.shape[1] * width)
        windows, spread = _standardised(rows)
        windows[spread < _TINY] = 0
        yield windows


def anywhere(
    synthetic: Judged, train: Judged, holdout: Judged, days: int, limits: Thresholds, rng: np.random.Generator
) -> Found | None:
    """Find series that contain windows of training series, moved to any step.

    Parameters
    ----------
    synthetic, train, holdout : Judged
        Aligned and gap-free.
    days : int
        Length of a window in days.
    limits : Thresholds
    rng : numpy.random.Generator
        Chooses the windows, and equally many training and holdout series.

    Returns
    -------
    Found or None
        At most `ASKED_SERIES` series, `ASKED_WINDOWS` windows each; a series counts if one window is found. None where
        series are shorter than 4 windows.
    """
    width = days * synthetic.steps_per_day
    channels, length = synthetic.values.shape[1:]
    if length < 4 * width:
        return None
    num = min(len(train), len(holdout), BASE_SERIES)
    chosen = synthetic.sample_entities(ASKED_SERIES, rng)
    per_series = 2.0 * len(chosen) * ASKED_WINDOWS * (length - width + 1) * width * channels
    num = int(np.clip(WORK / (2 * per_series), min(num, 50), num))
    bases = [part.sample_entities(num, rng) for part in (train, holdout)]
    # draw more candidate windows than are tested, because not all of them move
    begins = rng.integers(0, (length - width) // synthetic.steps_per_day + 1, (len(chosen), 4 * ASKED_WINDOWS))
    own = np.maximum(chosen.values.std((1, 2)), _TINY)
    asked, owner = [], []
    for row, x in enumerate(chosen.values):
        steps = np.unique(begins[row]) * synthetic.steps_per_day
        rows = np.stack([x[:, step : step + width].reshape(-1) for step in steps])
        windows, spread = _standardised(rows)
        good = windows[_moves(windows, spread, own[row])][:ASKED_WINDOWS]
        asked.append(good)
        owner += [row] * len(good)
    asked, owner = np.concatenate(asked).astype(np.float32), np.array(owner, int)
    if not len(asked):
        return Found(*(np.zeros(len(chosen), bool) for _ in range(2)))
    to_train, to_holdout = (_nearest(asked, _every_window(base, width)) for base in bases)
    sides = []
    for near, other in ((to_train, to_holdout), (to_holdout, to_train)):
        hit = (near < limits.literal_distance) & (ratio(near, other) < limits.hard_ratio)
        flags = np.zeros(len(chosen), bool)
        flags[owner[hit]] = True
        sides.append(flags)
    return Found(*sides)


def windows_of(synthetic: Judged) -> tuple[int, int]:
    """Return the days of the short and the long window: about a day (at least 16 steps), and about a week."""
    steps = synthetic.steps_per_day * synthetic.values.shape[1]
    short = -(-MIN_STEPS // steps)
    return short, max(7, 2 * short)


def same_dates_check(found: Found) -> dict:
    """Judge the search at the same dates: one series is proof, unless the same happens against the holdout."""
    hits, control, num = int(found.train.sum()), int(found.control.sum()), len(found.train)
    low = clopper_pearson_lower(hits, num, FAIL_ERROR / 2) - clopper_pearson_upper(control, num, FAIL_ERROR / 2)
    check = line(
        "fragments", "pasted stretches, same dates", "all",
        f"Synthetic series ({num} tested) that are, for a tenth or more, pieces of training series. One is proof, "
        "unless the same happens against holdout series.",
        value=hits / num, low=max(0.0, low), high=clopper_pearson_upper(hits, num), threshold=0.0, needed=None,
    )  # fmt: skip
    proven = hits > 0 and (control == 0 or low > 0)
    return check | {"passed": True if hits == 0 else False if proven else None}


def anywhere_check(found: Found, days: int, limits: Thresholds) -> dict:
    """Judge the search anywhere: series found in training in excess of those found in equally many holdout series.

    Without a leak, a find is equally likely on either side, so a sign test on the finds decides on proof.
    """
    hits, control, num = int(found.train.sum()), int(found.control.sum()), len(found.train)
    either = hits + control
    proven = either > 0 and scipy_stats.binom.sf(hits - 1, either, 0.5) < FAIL_ERROR
    share = max(0, hits - control) / num
    high = max(0.0, clopper_pearson_upper(hits, num, COPIES_ERROR) - clopper_pearson_lower(control, num, CONTROL_ERROR))
    low = max(0.0, clopper_pearson_lower(hits, num, FAIL_ERROR / 2) - clopper_pearson_upper(control, num, FAIL_ERROR))
    check = line(
        "fragments", f"{days} day{'s' if days > 1 else ''} found anywhere", "all",
        f"Synthetic series ({num} tested) with a stretch of {days} day{'s' if days > 1 else ''} that is in a training "
        f"series, moved or rescaled ({hits}), beyond the same in as many holdout series ({control}).",
        value=share, low=low, high=high, threshold=limits.fragments,
        needed=trials_to_bound(0.0, limits.fragments, COPIES_ERROR),
    )  # fmt: skip
    if proven:
        check |= {"passed": False, "needed_entities": None, "low": max(low, 1e-9)}
    elif check["passed"] is False:
        check |= {"passed": None}
    return check
