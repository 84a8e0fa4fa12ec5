"""Attacks on membership (A2) and linkage (A3). They measure, `checks` judges; copying (A1) is in `copying`.

Every attack has a control that never was in training, treated in the same way. Whatever the control shows too
is not a leak: almost empty meters lie close to anything, and members of one kind of household resemble each
other.

Representations (rows of float32, gaps filled with the series' own typical day, rolled to a common weekday):

- *raw*: signed logarithm ``sign(x) log(1 + |x| / u)``, u = median scale of the real series: size and shape;
- *shape*: the same of values over the series' own scale, mean 0 and variance 1: free of size;
- *daily*: raw averaged over days; *profile*: mean day of each month over the series' own scale.

Axes: n series, C channels, L time steps, D dimensions, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.neighbours import log_density, nearest

DENSITY_DIMENSIONS = 16
Progress = Callable[[float, str], None]


def align_weekday(judged: Judged, reference: np.datetime64) -> Judged:
    """Roll every series so that its first step has the reference's time of the week; gaps are filled on the way.

    A synthetic year may be another calendar year than the real one; without this, habits would be compared a
    few days off.
    """
    values, starts = judged.filled(), judged.starts.copy()
    week = 7 * judged.steps_per_day
    if judged.has_clock and values.shape[2] >= week:
        ticks = (starts - reference).astype("timedelta64[s]").astype("int64") // judged.step_seconds
        delta = (ticks + week // 2) % week - week // 2
        for steps in np.unique(delta[delta != 0]):
            rows = delta == steps
            values[rows] = np.roll(values[rows], steps, axis=2)
        starts = starts - delta * np.timedelta64(judged.step_seconds, "s")
    return replace(judged, values=values, starts=starts)


class Views:
    """Representations of aligned, gap-free series.

    Parameters
    ----------
    unit_scale : ndarray of shape (C,), float
        Median over real series of the mean absolute value, physical units.
    """

    def __init__(self, unit_scale: np.ndarray) -> None:
        self.unit_scale = np.maximum(unit_scale, 1e-12).astype(np.float32)[:, None]

    @staticmethod
    def _log(x: np.ndarray) -> np.ndarray:
        return np.copysign(np.log1p(np.abs(x)), x)

    def raw(self, judged: Judged) -> np.ndarray:
        """Return the raw representation, shape (n, C * L)."""
        return self._log(judged.values / self.unit_scale).reshape(len(judged), -1)

    def shape(self, judged: Judged) -> np.ndarray:
        """Return the shape representation, (n, C * L), each channel of mean 0 and mean square 1."""
        scale = np.maximum(np.abs(judged.values).mean(-1, keepdims=True), 1e-6 * self.unit_scale)
        z = self._log(judged.values / scale)
        z -= z.mean(-1, keepdims=True)
        z /= np.maximum(np.sqrt((z**2).mean(-1, keepdims=True)), 1e-6)
        return z.reshape(len(judged), -1)

    def course(self, judged: Judged) -> np.ndarray:
        """Return the shape without the series' own mean day, (n, C * days * S): what belongs to dates, not to habit."""
        scale = np.maximum(np.abs(judged.values).mean(-1, keepdims=True), 1e-6 * self.unit_scale)
        days = judged.days(self._log(judged.values / scale))
        apart = (days - days.mean(-2, keepdims=True)).reshape(len(judged), -1)
        return apart / np.maximum(np.sqrt((apart**2).mean(-1, keepdims=True)), 1e-6)

    def daily(self, judged: Judged) -> np.ndarray:
        """Return logarithms of daily means, shape (n, C * days)."""
        means = judged.days(judged.values).mean(-1)
        return self._log(means / self.unit_scale).reshape(len(judged), -1)

    def profile(self, judged: Judged) -> np.ndarray:
        """Return the mean day of each month over the series' own scale, shape (n, C * 12 * S)."""
        scale = np.maximum(np.abs(judged.values).mean(-1, keepdims=True), 1e-6 * self.unit_scale)
        by_month = judged.calendar_means(judged.days(judged.values / scale))[0]
        return self._log(by_month).reshape(len(judged), -1)


@dataclass(frozen=True)
class Membership:
    """Scores of A2 per entity; higher means "was in training".

    Parameters
    ----------
    members, nonmembers : dict of str to ndarray of shape (m,) and (h,), float64
        Score of each entity under each attack.
    member_oddness, nonmember_oddness : ndarray of shape (m,) and (h,)
        Distance to the fifth neighbour among all targets: what makes an outlier.
    """

    members: dict[str, np.ndarray]
    nonmembers: dict[str, np.ndarray]
    member_oddness: np.ndarray
    nonmember_oddness: np.ndarray


def membership(
    views: Views, members: Judged, nonmembers: Judged, reference: Judged, synthetic: Judged, report: Progress
) -> Membership:
    """Attack A2: calibrated distance and density attacks on membership.

    The score is ``-log(d_S / d_R)``: close to synthetic series, measured against how close unseen real series
    R come. The reference holds neither members nor non-members. Using each holdout half as the other's
    reference would give more non-members, but each pair of halves twice, and scores that are not independent
    (false alarms).

    Parameters
    ----------
    views : Views
    members, nonmembers : Judged
        Targets from training and from the holdout.
    reference : Judged
        Other holdout entities.
    synthetic : Judged
        Synthetic series; all four sets aligned and gap-free.
    report : callable (float, str) -> None
        Progress in [0, 1].

    Returns
    -------
    Membership
        Attacks "raw k=1" ... "profile k=5", "mean" (what a series has in common with the mean of all synthetic
        ones) and "density" (16 principal components of daily means and profile).
    """
    scores: dict[str, np.ndarray] = {}
    low_dimensional = []
    num = len(members)
    for step, name in enumerate(("raw", "shape", "daily", "profile")):
        report(step / 5, f"membership, {name}")
        build = getattr(views, name)
        targets = np.concatenate([build(members), build(nonmembers)])
        base, control = build(synthetic), build(reference)
        to_synthetic, to_reference = nearest(targets, base, 5)[0], nearest(targets, control, 5)[0]
        floor = 1e-6 * np.median(to_reference[:, 0]) + 1e-12
        for k in (1, 5):
            if k <= min(len(base), len(control)):
                scores[f"{name} k={k}"] = -np.log((to_synthetic[:, k - 1] + floor) / (to_reference[:, k - 1] + floor))
        if name in ("daily", "profile"):
            low_dimensional.append((base, control, targets))
        if name == "daily":
            k = min(5, len(targets) - 1)
            oddness = nearest(targets, targets, k, exclude=np.arange(len(targets)))[0][:, -1]
    course = [views.course(judged) for judged in (members, nonmembers, synthetic, reference)]
    scores["mean"] = _traces_of(np.concatenate(course[:2]), *course[2:])
    report(4 / 5, "membership, density")
    joined = [np.concatenate(part, axis=1) for part in zip(*low_dimensional, strict=True)]
    base, control, targets = _principal(*joined)
    densities = (log_density(targets, part, len(part) ** (-1 / (part.shape[1] + 4))) for part in (base, control))
    scores["density"] = np.subtract(*densities)
    return Membership(
        {name: _per_entity(value[:num], members.codes) for name, value in scores.items()},
        {name: _per_entity(value[num:], nonmembers.codes) for name, value in scores.items()},
        _per_entity(oddness[:num], members.codes),
        _per_entity(oddness[num:], nonmembers.codes),
    )


def _traces_of(targets: np.ndarray, base: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Score how far each target lies towards the mean of the synthetic series from that of unseen real ones.

    A course that a generator averaged over its training series and gave to every synthetic one is a mean that its
    members can be traced in, however many they are (Homer 2008; Dwork 2015).
    """
    centre = control.mean(0, dtype=np.float64)
    direction = base.mean(0, dtype=np.float64) - centre
    apart = targets - centre
    return apart @ direction / np.maximum(np.linalg.norm(apart, axis=1) * np.linalg.norm(direction), 1e-12)


def _per_entity(value: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Take the largest value of each entity: its most telling series."""
    out = np.full(codes.max() + 1, -np.inf)
    np.maximum.at(out, codes, value)
    return out


def _principal(base: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Project all on the base's whitened principal components (at most 16, fewer for few series)."""
    centre, spread = base.mean(0), np.maximum(base.std(0), 1e-6)
    scaled = [np.clip((part - centre) / spread, -20, 20) for part in (base, *others)]
    eigenvalues, vectors = np.linalg.eigh(scaled[0].T @ scaled[0] / max(1, len(base) - 1))
    keep = max(1, min(DENSITY_DIMENSIONS, len(base) // 10, int((eigenvalues > 1e-6).sum())))
    axes = vectors[:, -keep:] / np.sqrt(np.maximum(eigenvalues[-keep:], 1e-9))
    return [part @ axes for part in scaled]


def linkage(views: Views, targets: Judged, synthetic: Judged, weeks: int, rng: np.random.Generator) -> np.ndarray:
    """Attack A3: see whether known weeks and the rest of the year lead to the same synthetic series.

    Parameters
    ----------
    views : Views
    targets, synthetic : Judged
        Aligned and gap-free.
    weeks : int
        Known weeks in a row, fewer than half the series.
    rng : numpy.random.Generator
        Chooses where the known weeks begin; the same for all targets.

    Returns
    -------
    ndarray of shape (entities,), bool
        Whether, for any series of the entity, the nearest synthetic series by the known weeks is the nearest
        by all other steps.
    """
    channels, length = targets.values.shape[1:]
    width = weeks * 7 * targets.steps_per_day
    begin = int(rng.integers(0, (length - width) // targets.steps_per_day + 1)) * targets.steps_per_day
    known = np.zeros(length, bool)
    known[begin : begin + width] = True
    known = np.tile(known, channels)
    mine, theirs = views.raw(targets), views.raw(synthetic)
    by_known = nearest(mine[:, known], theirs[:, known], 1)[1][:, 0]
    by_rest = nearest(mine[:, ~known], theirs[:, ~known], 1)[1][:, 0]
    return _per_entity(by_known == by_rest, targets.codes) > 0
