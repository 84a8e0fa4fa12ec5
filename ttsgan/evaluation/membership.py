"""A2, membership inference: decide whether a series was in training, with a control that never was.

An effect that the control shows too is not a leak: almost empty meters lie close to anything, and members of one kind
of household resemble each other. A distance score is ``-log(d_S / d_R)``: the distance to synthetic series relative to
the distance to unseen real series R. A density score is a difference of log densities, so that nothing underflows. The
reference R contains neither members nor non-members: if each holdout half were the other's reference, scores would not
be independent.

The strongest attack and its threshold are chosen on one half of the targets and tested on the other, in both
directions. The choice of reference entities and of halves is random, so results are averaged over several of both.

Axes: n series, C channels, L time steps, D dimensions, k neighbours, m members, h non-members, e entities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from ttsgan.evaluation.gate import FAIL_ERROR, Thresholds, line
from ttsgan.evaluation.judged import Judged, joined, split_by_entity
from ttsgan.evaluation.neighbours import log_density, merge_log_density, merge_nearest, nearest
from ttsgan.evaluation.stats import (
    auc_delong,
    clopper_pearson_lower,
    clopper_pearson_upper,
    entities_to_bound,
    normal_quantile,
    trials_to_bound,
)
from ttsgan.evaluation.strata import household_groups
from ttsgan.evaluation.views import Views, per_entity

DENSITY_DIMENSIONS = 16
NEIGHBOURS = 5
GROUP_TARGETS = 700
"""Smallest number of members, and of non-members, in a group that is judged separately."""
OUTCOMES = 8
"""Smallest number of outcomes to average. With few entities each outcome has its own splitting of the holdout. With
many, there are fewer splittings, each halved several times (only one splitting where groups are judged separately)."""
VIEWS = ("raw", "shape", "daily", "profile")
LEAST_POWER = 1e-4
"""Lower limit of the power of a frequency, relative to the mean of all: frequencies of the mean day have no power."""
FPR_GRID = np.unique(np.concatenate([np.geomspace(1e-3, 1, 41), np.linspace(0, 1, 41)]))
"""False positive rates at which the ROC curve of an attack is evaluated."""


@dataclass(frozen=True)
class Membership:
    """Scores of A2 per entity; higher means "was in training".

    Parameters
    ----------
    members, nonmembers : dict of str to ndarray of shape (m,) and (h,), float64
        Score of each entity under each attack.
    oddness : tuple of ndarray of shape (m,) and (h,)
        Distance to the fifth nearest neighbour among all targets; outliers have a large one.
    groups : tuple of ndarray of shape (m,) and (h,), int
        Number of the group of similar households.
    """

    members: dict[str, np.ndarray]
    nonmembers: dict[str, np.ndarray]
    oddness: tuple[np.ndarray, np.ndarray]
    groups: tuple[np.ndarray, np.ndarray]


class MembershipSearch:
    """Attack A2 on a synthetic set that comes in blocks.

    Parameters
    ----------
    views : Views
    members, nonmembers : Judged
        Targets from training and from the holdout.
    reference : Judged
        Other holdout entities.
    sketch : Judged
        Up to some thousand synthetic series, on which the axes of the density are fitted. All sets are aligned and
        gap-free.
    num_synthetic : int
        Series in the whole synthetic set (the bandwidth of the density depends on it).
    seed : int

    Notes
    -----
    Attacks: "raw k=1" ... "profile k=5" (k-nearest-neighbour distance in a view), "mean" and "whitened mean"
    (similarity of a series to the mean of all synthetic series), "density" (kernel density on at most 16 principal
    components of daily means and profile).
    """

    def __init__(
        self, views: Views, members: Judged, nonmembers: Judged, reference: Judged, sketch: Judged,
        num_synthetic: int, seed: int,
    ) -> None:  # fmt: skip
        self.views, self.num_synthetic = views, num_synthetic
        self.codes = members.codes, nonmembers.codes
        self.num_reference = len(reference)
        targets = joined(members, nonmembers)
        self.queries = {name: getattr(views, name)(targets) for name in VIEWS}
        self.to_reference = {
            name: nearest(rows, getattr(views, name)(reference), NEIGHBOURS)[0] for name, rows in self.queries.items()
        }
        daily = self.queries["daily"]
        own = np.arange(len(daily))
        self.oddness = nearest(daily, daily, min(NEIGHBOURS, len(daily) - 1), exclude=own)[0][:, -1]
        self.axes = _Axes(self._low(sketch))
        low = self.axes(np.concatenate([self.queries["daily"], self.queries["profile"]], axis=1))
        self.low_targets = low
        width = _bandwidth(len(reference), low.shape[1])
        self.reference_density = log_density(low, self.axes(self._low(reference)), width)
        self.course = views.course(targets)
        self.traces = _Traces(views.course(reference), members.values.shape[1])
        first_of = [np.unique(codes, return_index=True)[1] for codes in self.codes]
        rows = np.concatenate([first_of[0], len(members) + first_of[1]])
        sides = np.repeat([0, 1], [len(part) for part in first_of])
        groups = household_groups(self.queries["profile"][rows], sides, GROUP_TARGETS, seed)
        self.groups = groups[sides == 0], groups[sides == 1]

    def _low(self, judged: Judged) -> np.ndarray:
        return np.concatenate([self.views.daily(judged), self.views.profile(judged)], axis=1)

    def search(self, synthetic: Judged) -> dict[str, Any]:
        """Search one block of synthetic series (aligned and gap-free)."""
        found: dict[str, Any] = {
            name: nearest(rows, getattr(self.views, name)(synthetic), NEIGHBOURS) for name, rows in self.queries.items()
        }
        low = self.axes(self._low(synthetic))
        density = log_density(self.low_targets, low, _bandwidth(self.num_synthetic, low.shape[1]))
        course = self.views.course(synthetic).sum(0, dtype=np.float64)
        return found | {"density": density, "course": course, "num": len(low)}

    def join(self, parts: list[dict[str, Any]]) -> Membership:
        """Merge the results of all blocks."""
        sizes = [part["num"] for part in parts]
        begins = list(np.cumsum(sizes) - sizes)
        scores: dict[str, np.ndarray] = {}
        for name, control in self.to_reference.items():
            found = merge_nearest([part[name] for part in parts], begins)[0]
            floor = 1e-6 * np.median(control[:, 0]) + 1e-12
            for k in (1, NEIGHBOURS):
                if k <= min(sum(sizes), self.num_reference):
                    scores[f"{name} k={k}"] = -np.log((found[:, k - 1] + floor) / (control[:, k - 1] + floor))
        scores |= self.traces(self.course, sum(part["course"] for part in parts) / sum(sizes))
        scores["density"] = merge_log_density([part["density"] for part in parts], sizes) - self.reference_density
        num = len(self.codes[0])
        halves = slice(0, num), slice(num, None)
        sides = [
            {name: per_entity(value[half], codes) for name, value in scores.items()}
            for half, codes in zip(halves, self.codes, strict=True)
        ]
        oddness = tuple(per_entity(self.oddness[half], codes) for half, codes in zip(halves, self.codes, strict=True))
        return Membership(*sides, oddness, self.groups)


def _bandwidth(num: int, dimensions: int) -> float:
    return num ** (-1 / (dimensions + 4))


class _Traces:
    """Score how far a series lies from the mean of unseen real series in the direction of the synthetic mean.

    If a generator gives every synthetic series the average course of its training series, members can be traced in the
    synthetic mean, however many they are (Homer 2008; Dwork 2015). In the plain inner product, low frequencies, which
    are strong in every series, mask the rest. The whitened score divides each frequency by its power among unseen
    series, the weight of the likelihood ratio for a mean in coloured noise. Of the synthetic mean it keeps only the
    part that the unseen mean does not predict.

    Parameters
    ----------
    unseen : ndarray of shape (n, C * T)
        Courses of real series that are neither members nor targets.
    channels : int
    """

    def __init__(self, unseen: np.ndarray, channels: int) -> None:
        self.channels, self.centre = channels, unseen.mean(0, dtype=np.float64)
        power = sum(np.abs(self._waves(row - self.centre)) ** 2 for row in unseen)
        self.power = np.maximum(power, LEAST_POWER * power.mean(axis=1, keepdims=True) + 1e-12)

    def __call__(self, courses: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores of courses (n, C * T) against the mean course (C * T,) of the synthetic series."""
        direction = mean - self.centre
        towards = {"mean": direction, "whitened mean": self._whitened(direction)}
        # Single precision, because there are many targets.
        apart = courses - self.centre.astype(np.float32)
        size = np.linalg.norm(apart, axis=1)
        return {
            name: apart @ one.astype(np.float32) / np.maximum(size * np.linalg.norm(one), 1e-12)
            for name, one in towards.items()
        }

    def _whitened(self, direction: np.ndarray) -> np.ndarray:
        waves, centre = self._waves(direction), self._waves(self.centre)
        own = np.vdot(centre / self.power, centre).real
        foretold = np.vdot(centre / self.power, waves).real / own if own else 0.0
        return np.fft.irfft((waves - foretold * centre) / self.power, n=len(direction) // self.channels).ravel()

    def _waves(self, course: np.ndarray) -> np.ndarray:
        return np.fft.rfft(course.reshape(self.channels, -1))


class _Axes:
    """Projection on the whitened principal components of a sample (at most 16, fewer for few series)."""

    def __init__(self, base: np.ndarray) -> None:
        # In double precision: rounding would make a density depend on the block that a series is in.
        base = base.astype(np.float64)
        self.centre, self.spread = base.mean(0), np.maximum(base.std(0), 1e-6)
        self.turn = np.eye(base.shape[1])
        scaled = self(base)
        eigenvalues, vectors = np.linalg.eigh(scaled.T @ scaled / max(1, len(base) - 1))
        keep = max(1, min(DENSITY_DIMENSIONS, len(base) // 10, int((eigenvalues > 1e-6).sum())))
        self.turn = vectors[:, -keep:] / np.sqrt(np.maximum(eigenvalues[-keep:], 1e-9))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.clip((rows - self.centre) / self.spread, -20, 20) @ self.turn


def density_scores(targets: np.ndarray, synthetic: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Score targets by the log ratio of synthetic to reference density on the synthetic set's principal components.

    Parameters
    ----------
    targets, synthetic, reference : ndarray of shape (n, D), float
        For instance latents; D is a few dozen at most.

    Returns
    -------
    ndarray of shape (n,), float64
    """
    axes = _Axes(synthetic)
    sides = [
        log_density(axes(targets), axes(base), _bandwidth(len(base), axes.turn.shape[1]))
        for base in (synthetic, reference)
    ]
    return sides[0] - sides[1]


def _cut(scores: np.ndarray, fpr: float) -> float:
    """Return the threshold that at most a share `fpr` of the non-member scores exceeds."""
    return float(np.sort(scores)[::-1][int(fpr * len(scores))])


def _tail_gain(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """Return the mean log ratio of true to false positive rate at false positive rates of 2 % and 5 %."""
    gains = []
    for fpr in (0.02, 0.05):
        cut = _cut(nonmembers, fpr)
        gains.append(math.log(((members > cut).mean() + 0.005) / ((nonmembers > cut).mean() + 0.005)))
    return float(np.mean(gains))


Stratum = tuple[str, np.ndarray, np.ndarray]


def _odd(found: Membership, limits: Thresholds) -> Stratum:
    """Return the smallest stratum of the oddest targets that is large enough for an honest set to prove its bound."""
    pooled = np.concatenate(found.oddness)
    for share in (0.05, 0.1, 0.2, 0.5):
        edge = np.quantile(pooled, 1 - share)
        members, nonmembers = (side >= edge for side in found.oddness)
        num = int(members.sum())
        likely = int(scipy_stats.binom.ppf(0.995, num, 1.75 * limits.fpr))
        if nonmembers.sum() >= 8 and num and clopper_pearson_upper(likely, num) <= limits.outlier_tpr:
            return f"the oddest {100 * share:.0f} % of targets", members, nonmembers
    return "the oddest 100 % of targets", *(np.ones(len(side), bool) for side in found.oddness)


def _tail_line(stratum: str, counts: np.ndarray, limit: float, share: float, parts: int, limits: Thresholds) -> dict:
    """Judge the true positive rate in one of `parts` strata of the same kind, which share the error (Bonferroni)."""
    hits, trials, false_hits, false_trials = (float(x) for x in counts)
    error, others = FAIL_ERROR / (2 * parts), false_hits / max(1, false_trials)
    too_few = f": they are too few to measure {100 * limits.fpr:g} %" if others > 2 * limits.fpr else ""
    low = clopper_pearson_lower(hits, trials, error)
    if low <= clopper_pearson_upper(false_hits, false_trials, error):
        low = 0.0
    needed = trials_to_bound(1.5 * limits.fpr, limit)
    return line(
        "membership", f"true positive rate at {100 * limits.fpr:g} % false positives", stratum,
        f"Share of members that are recognised with few false alarms ({false_hits:g} of {false_trials:g} non-members "
        "here). Averages hide such leaks.",
        value=hits / max(1, trials), low=low, high=clopper_pearson_upper(hits, trials), threshold=limit,
        needed=None if needed is None else math.ceil(needed / share),
        beside=f"of other non-members {others:.2g} are recognised{too_few}",
    )  # fmt: skip


Splitting = tuple[Judged, Judged]
"""Non-members, and the reference that scores of members and non-members are measured against."""


def splittings(holdout: Judged, rng: np.random.Generator) -> list[Splitting]:
    """Set aside a quarter of the holdout's entities as the reference, once or, with few entities, several times."""
    entities = int(holdout.codes.max()) + 1
    found = []
    for _ in range(max(1, min(OUTCOMES, 2 * GROUP_TARGETS // entities))):
        reference, *others = split_by_entity(holdout, 4, rng)
        found.append((joined(*others), reference))
    return found


@dataclass(frozen=True)
class _Outcome:
    """Results of the attacks on one splitting.

    ``counts`` (strata, 4): recognised members, members, recognised non-members, non-members.
    """

    auc: float
    error: float
    strata: list[Stratum]
    counts: np.ndarray
    tpr: np.ndarray
    attacks: list[str]


def _outcome(found: Membership, limits: Thresholds, rng: np.random.Generator) -> _Outcome:
    """Choose attack and threshold on one half of the targets and apply them to the other, in both directions."""
    folds = [rng.permutation(len(side)) % 2 for side in found.oddness]
    num_groups = int(found.groups[0].max()) + 1
    strata: list[Stratum] = [("all", *(np.ones(len(side), bool) for side in found.oddness)), _odd(found, limits)]
    if num_groups > 1:
        strata += [(f"group {g + 1}", *(side == g for side in found.groups)) for g in range(num_groups)]
    counts = np.zeros((len(strata), 4), int)
    aucs, errors, curves, chosen = [], [], [], []
    pairs = {name: (found.members[name], found.nonmembers[name]) for name in found.members}
    for test in (0, 1):
        calibrate_m, calibrate_n = folds[0] != test, folds[1] != test
        by_auc = max(pairs, key=lambda a: auc_delong(pairs[a][0][calibrate_m], pairs[a][1][calibrate_n])[0])
        by_tail = max(pairs, key=lambda a: _tail_gain(pairs[a][0][calibrate_m], pairs[a][1][calibrate_n]))
        chosen += [by_auc, by_tail]
        members, nonmembers = pairs[by_auc]
        auc, error = auc_delong(members[~calibrate_m], nonmembers[~calibrate_n])
        aucs.append(auc)
        errors.append(error)
        cuts = np.quantile(nonmembers[~calibrate_n], 1 - FPR_GRID)
        curves.append((members[~calibrate_m][:, None] >= cuts).mean(0))
        members, nonmembers = pairs[by_tail]
        for row, (_, in_m, in_n) in enumerate(strata):
            reference = nonmembers[calibrate_n & in_n]
            cut = _cut(reference if len(reference) else nonmembers[calibrate_n], limits.fpr)
            m, n = members[~calibrate_m & in_m], nonmembers[~calibrate_n & in_n]
            counts[row] += [(m > cut).sum(), len(m), (n > cut).sum(), len(n)]
    return _Outcome(float(np.mean(aucs)), math.hypot(*errors) / 2, strata, counts, np.mean(curves, axis=0), chosen)


def membership_checks(
    found: Sequence[Membership], limits: Thresholds, rng: np.random.Generator
) -> tuple[list[dict], dict]:
    """Judge A2.

    Parameters
    ----------
    found : sequence of Membership
        Scores of the same members, one object per splitting of the holdout; only a single one may have groups. Rates,
        AUCs and standard errors are averaged over splittings and halves. These share their targets, so they do not
        count as further evidence.
    limits : Thresholds
    rng : numpy.random.Generator

    Returns
    -------
    checks : list of dict
        AUC, and the true positive rate of all targets, of the oddest (where there are enough targets) and of every
        group of at least `GROUP_TARGETS` (where there are two or more; all but the worst only inform).
    roc : dict
        ROC curve of the strongest attack, averaged over all halves and splittings.
    """
    outcomes = [_outcome(one, limits, rng) for one in found for _ in range(math.ceil(OUTCOMES / len(found)))]
    auc, error = (float(np.mean([getattr(one, what) for one in outcomes])) for what in ("auc", "error"))
    strata = outcomes[0].strata
    counts = np.mean([one.counts for one in outcomes], axis=0)
    width = normal_quantile(0.05) * error
    entities = min(len(side) for side in found[0].oddness)
    checks = [
        line(
            "membership", "AUC", "all", "Can a holder of a series tell whether it was in training? 0.5 is a coin toss.",
            value=auc, low=auc - normal_quantile(FAIL_ERROR) * error, high=min(1.0, auc + width), threshold=limits.auc,
            needed=entities_to_bound(0.5, 2 * width, entities, limits.auc),
        )
    ]  # fmt: skip
    total = len(found[0].oddness[0])
    for row, (name, in_m, _) in enumerate(strata[:2]):
        if row and in_m.all():
            # With too few targets this stratum holds all of them, and the line above says the same.
            continue
        limit = limits.tpr if name == "all" else limits.outlier_tpr
        checks.append(_tail_line(name, counts[row], limit, in_m.sum() / total, 1, limits))
    groups = [
        _tail_line(f"{name} ({in_m.sum()} members)", counts[row], limits.outlier_tpr, 1.0, len(strata) - 2, limits)
        for row, (name, in_m, _) in enumerate(strata)
        if row >= 2
    ]
    worst = max(range(len(groups)), key=lambda i: (groups[i]["low"], groups[i]["high"]), default=None)
    checks += [check | {"informs": i != worst} for i, check in enumerate(groups)]
    attacks = sorted({name for one in outcomes for name in one.attacks})
    return checks, {"fpr": FPR_GRID, "tpr": np.mean([one.tpr for one in outcomes], axis=0), "attacks": attacks}
