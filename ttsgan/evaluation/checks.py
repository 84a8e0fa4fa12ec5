"""Lines of a privacy audit: thresholds, a check per attack with its bounds, and the verdict they lead to.

A check *passes* where its upper one-sided 95 % bound is at most the threshold. It *fails* where its lower
bound exceeds the threshold; these bounds share an error of 5 % between all statistical checks. In between
nothing is proven.

`needed_entities` says how many entities in train and in holdout (for copying: how many synthetic series) let
a set without the leak pass with a chance of about 95 %.

Entities are counted, never series: an entity with several series counts by its most telling one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats as scipy_stats

from ttsgan.errors import ConfigError
from ttsgan.evaluation.attacks import Membership
from ttsgan.evaluation.copying import CopyFlags
from ttsgan.evaluation.stats import (
    auc_delong,
    clopper_pearson_lower,
    clopper_pearson_upper,
    entities_to_bound,
    normal_quantile,
    residual_risk,
    trials_to_bound,
)

NUM_STATISTICAL_CHECKS = 6
VERDICTS = ("FAIL", "INVALID", "UNPROVEN", "PASS")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of the gate. Defaults without another source are this project's own; override them knowingly.

    Raises
    ------
    ConfigError
        If a limit is outside its range.
    """

    soft_copies: float = 0.001
    """Largest share of near-copies beyond what the control shows (0 to 1)."""
    auc: float = 0.55
    """Largest area under the ROC curve of membership (0.5 to 1)."""
    tpr: float = 0.02
    """Largest share of members recognised at `fpr` (fpr to 1)."""
    outlier_tpr: float = 0.05
    """The same among the oddest targets (fpr to 1)."""
    linkage_risk: float = 0.09
    """Largest gain over the control from a few known weeks (0 to 1); 0.09 is the EMA and Health Canada limit."""
    fpr: float = 0.01
    """False positive rate at which members are counted (0 to 0.5)."""
    literal_distance: float = 0.05
    """Relative distance below which a series can be a literal copy (0 to 1)."""
    soft_ratio: float = 0.9
    """A near-copy is closer to training than this times what chance alone brought about (0 to 1)."""
    hard_ratio: float = 0.5
    """A literal copy, likewise (0 to 1)."""
    planted_found: float = 0.95
    """Smallest share of planted copies that the self-test must find (0 to 1)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            low = {"auc": 0.5, "tpr": self.fpr, "outlier_tpr": self.fpr}.get(name, 0.0)
            high = 0.5 if name == "fpr" else 1.0
            if not low < value <= high:
                raise ConfigError(f"thresholds.{name} is {value}; it must be above {low} and at most {high}")


def _check(attack: str, name: str, stratum: str, explains: str, *, value: float, low: float, high: float,
           threshold: float, needed: int | None) -> dict:  # fmt: skip
    """Return one line of the audit; passed is True, False (proven leak) or None (not proven either way)."""
    passed = True if high <= threshold else False if low > threshold else None
    return {
        "attack": attack, "name": name, "stratum": stratum, "value": value, "low": low, "high": high,
        "threshold": threshold,
        "passed": passed, "needed_entities": None if passed is not None else needed, "explains": explains,
    }  # fmt: skip


def _alpha_fail() -> float:
    """Return the error of one check's lower bound that keeps the chance of any false FAIL at 5 %."""
    return 0.05 / NUM_STATISTICAL_CHECKS


def copy_checks(
    flags: CopyFlags, pasted: tuple[np.ndarray, np.ndarray] | None, folds: float, limits: Thresholds
) -> list[dict]:
    """Judge A1. The control searches one subset, training is `folds` of them: the control's bound is multiplied."""
    alpha = _alpha_fail()

    def excess(hits: int, control: int, num: int) -> tuple[float, float]:
        low = clopper_pearson_lower(hits, num, 0.9 * alpha) - folds * clopper_pearson_upper(control, num, 0.1 * alpha)
        return low, clopper_pearson_upper(hits, num, 0.045) - clopper_pearson_lower(control, num, 0.005)

    def literal(name: str, found: np.ndarray, control: np.ndarray, explains: str) -> dict:
        hits, control_hits, num = int(found.sum()), int(control.sum()), len(found)
        low, high = excess(hits, control_hits, num)
        check = _check(
            "copying", name, "all", explains + " One is proof, unless the same happens against holdout series.",
            value=hits / num, low=max(0.0, low), high=high, threshold=0.0, needed=None,
        )  # fmt: skip
        proven = hits > 0 and (control_hits == 0 or low > 0)
        return check | {"passed": True if hits == 0 else False if proven else None}

    checks = [
        literal(
            "literal copies", flags.hard, flags.hard_control,
            "Synthetic series that are training series, perhaps shifted by up to 7 days or rescaled.",
        )
    ]  # fmt: skip
    if pasted is not None:
        tested = len(pasted[0])
        explains = f"Synthetic series ({tested} tested) that are, for a tenth or more, pieces of training series."
        checks.append(literal("pasted stretches", *pasted, explains))
    num = len(flags.soft)
    soft, control = int(flags.soft.sum()), int(flags.soft_control.sum())
    low, high = excess(soft, control, num)
    near = _check(
        "copying", "near-copies beyond the control", "all",
        "Share of synthetic series much closer to a training series than chance explains, minus the same "
        "against holdout series.",
        value=(soft - control) / num, low=low, high=high, threshold=limits.soft_copies,
        needed=trials_to_bound(0.0, limits.soft_copies, 0.045),
    )  # fmt: skip
    return [*checks, near]


def _cut(scores: np.ndarray, fpr: float) -> float:
    """Return the score that at most a share `fpr` of these non-members exceeds."""
    return float(np.sort(scores)[::-1][int(fpr * len(scores))])


def _tail_gain(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """Return how far an attack's ROC curve lies above the diagonal at few false positives (mean log ratio)."""
    gains = []
    for fpr in (0.02, 0.05):
        cut = _cut(nonmembers, fpr)
        gains.append(math.log(((members > cut).mean() + 0.005) / ((nonmembers > cut).mean() + 0.005)))
    return float(np.mean(gains))


def _outlier_share(found: Membership, limits: Thresholds) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the smallest stratum of odd targets that is large enough for an honest set to prove its bound."""
    pooled = np.concatenate([found.member_oddness, found.nonmember_oddness])
    for share in (0.05, 0.1, 0.2, 0.5):
        edge = np.quantile(pooled, 1 - share)
        members, nonmembers = found.member_oddness >= edge, found.nonmember_oddness >= edge
        num = int(members.sum())
        likely = int(scipy_stats.binom.ppf(0.995, num, 1.75 * limits.fpr))
        if nonmembers.sum() >= 8 and num and clopper_pearson_upper(likely, num) <= limits.outlier_tpr:
            return share, members, nonmembers
    return 1.0, np.ones(len(found.member_oddness), bool), np.ones(len(found.nonmember_oddness), bool)


def membership_checks(found: Membership, limits: Thresholds, rng: np.random.Generator) -> tuple[list[dict], dict]:
    """Judge A2: choose the strongest attack and its cut on half of the targets, report on the rest, both ways."""
    folds = [rng.permutation(len(x)) % 2 for x in (found.member_oddness, found.nonmember_oddness)]
    share, odd_members, odd_nonmembers = _outlier_share(found, limits)
    strata = {
        "all": (np.ones_like(odd_members), np.ones_like(odd_nonmembers)),
        "odd": (odd_members, odd_nonmembers),
    }
    counts = {name: np.zeros(4, int) for name in strata}
    aucs, errors, curves, chosen = [], [], [], []
    grid = np.unique(np.concatenate([np.geomspace(1e-3, 1, 41), np.linspace(0, 1, 41)]))
    for test in (0, 1):
        calibrate_m, calibrate_n = folds[0] != test, folds[1] != test
        pairs = {name: (found.members[name], found.nonmembers[name]) for name in found.members}
        by_auc = max(pairs, key=lambda a: auc_delong(pairs[a][0][calibrate_m], pairs[a][1][calibrate_n])[0])
        by_tail = max(pairs, key=lambda a: _tail_gain(pairs[a][0][calibrate_m], pairs[a][1][calibrate_n]))
        chosen += [by_auc, by_tail]
        members, nonmembers = pairs[by_auc]
        auc, error = auc_delong(members[~calibrate_m], nonmembers[~calibrate_n])
        aucs.append(auc)
        errors.append(error)
        cuts = np.quantile(nonmembers[~calibrate_n], 1 - grid)
        curves.append((members[~calibrate_m][:, None] >= cuts).mean(0))
        members, nonmembers = pairs[by_tail]
        for name, (in_m, in_n) in strata.items():
            reference = nonmembers[calibrate_n & in_n]
            cut = _cut(reference if len(reference) else nonmembers[calibrate_n], limits.fpr)
            m, n = members[~calibrate_m & in_m], nonmembers[~calibrate_n & in_n]
            counts[name] += [(m > cut).sum(), len(m), (n > cut).sum(), len(n)]
    auc, error = float(np.mean(aucs)), math.hypot(*errors) / 2
    entities = min(len(found.member_oddness), len(found.nonmember_oddness))
    width = normal_quantile(0.05) * error
    checks = [
        _check(
            "membership", "AUC", "all", "Can a holder of a series tell whether it was in training? 0.5 is a coin toss.",
            value=auc, low=auc - normal_quantile(_alpha_fail()) * error, high=auc + width, threshold=limits.auc,
            needed=entities_to_bound(0.5, 2 * width, entities, limits.auc),
        )
    ]  # fmt: skip
    for name, limit in (("all", limits.tpr), ("odd", limits.outlier_tpr)):
        hits, trials, false_hits, false_trials = (int(x) for x in counts[name])
        low = clopper_pearson_lower(hits, trials, _alpha_fail() / 2)
        if low <= clopper_pearson_upper(false_hits, false_trials, _alpha_fail() / 2):
            low = 0.0
        needed = trials_to_bound(1.5 * limits.fpr, limit)
        part = share if name == "odd" else 1.0
        stratum = "all" if name == "all" else f"the oddest {100 * share:.0f} % of targets"
        checks.append(
            _check(
                "membership", f"true positive rate at {100 * limits.fpr:g} % false positives", stratum,
                f"Share of members that are recognised with few false alarms "
                f"({false_hits} of {false_trials} non-members here). "
                "Averages hide such leaks.",
                value=hits / max(1, trials), low=low, high=clopper_pearson_upper(hits, trials), threshold=limit,
                needed=None if needed is None else math.ceil(needed / part),
            )
        )  # fmt: skip
    curve = {"fpr": grid, "tpr": np.mean(curves, axis=0), "attacks": sorted(set(chosen))}
    return checks, curve


def linkage_check(weeks: int, hits: np.ndarray, control: np.ndarray, limits: Thresholds) -> dict:
    """Judge A3 from who was linked (bool arrays) among members and among holdout series."""
    pair = (int(hits.sum()), len(hits)), (int(control.sum()), len(control))
    risk, _, high = residual_risk(*pair)
    low = residual_risk(*pair, confidence=1 - 2 * _alpha_fail())[1]
    return _check(
        "linkage", f"risk from {weeks} known week{'s' if weeks > 1 else ''}", "all",
        f"Known weeks and the rest of the year lead to the same synthetic series for {pair[0][0]} of "
        f"{pair[0][1]} members and {pair[1][0]} of {pair[1][1]} controls; risk is the gain over the control.",
        value=risk, low=low, high=high, threshold=limits.linkage_risk,
        needed=entities_to_bound(0.0, 2 * (high - risk), min(len(hits), len(control)), limits.linkage_risk),
    )  # fmt: skip


def _sentence(check: dict) -> str:
    """Put one check that did not pass into words."""
    what = f"{check['attack']}: {check['name']} ({check['stratum']})"
    if check["passed"] is False:
        if check["threshold"] == 0:
            return f"{what}: {100 * check['value']:.3g} % of the synthetic series tested; none is allowed"
        return f"{what} is {check['value']:.4g}, proven above {check['low']:.4g}; the limit is {check['threshold']:g}"
    needed = check["needed_entities"]
    more = f"about {needed:,} entities would do for a set without this leak" if needed else "it must be 0"
    figures = f"is {check['value']:.4g}, but could be up to {check['high']:.4g}; the limit is {check['threshold']:g}"
    return f"{what} {figures}; {more}"


def verdict(checks: list[dict], invalid: list[str]) -> tuple[str, list[str]]:
    """Return the worst verdict that applies, and its reasons in plain sentences.

    Parameters
    ----------
    checks : list of dict
        Lines of the audit; `passed` is True, False (a leak is proven) or None (not proven either way).
    invalid : list of str
        Why controls or self-test did not work.

    Returns
    -------
    tuple
        One of `VERDICTS`, and at least one sentence.
    """
    failed = [_sentence(check) for check in checks if check["passed"] is False]
    unproven = [_sentence(check) for check in checks if check["passed"] is None]
    if failed:
        return "FAIL", failed + invalid
    if invalid:
        return "INVALID", invalid
    if unproven:
        return "UNPROVEN", unproven
    return "PASS", [f"all {len(checks)} checks are below their limits with 95 % confidence each"]
