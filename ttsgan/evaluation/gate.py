"""The release gate: its thresholds, one line per check, and the verdict that the lines lead to.

A check *passes* where its upper one-sided 95 % bound is at most the threshold. It *fails* where its lower bound exceeds
the threshold; these lower bounds share an error of `FAMILY_ERROR` between all checks of an audit (Bonferroni). In
between, nothing is proven. Lines that *inform* take no part in the verdict.

`needed_entities` is the number of entities in train and in holdout (for copying and fragments: of synthetic series)
with which a set without the leak passes with a probability of about 95 %.
"""

from dataclasses import asdict, dataclass

from ttsgan.errors import ConfigError
from ttsgan.evaluation.stats import trials_to_bound

NUM_CHECKS = 25
"""Upper bound on the number of statistical checks of an audit."""
FAMILY_ERROR = 0.025
"""Largest probability that any check of an audit of an honest set fails (family-wise error)."""
FAIL_ERROR = FAMILY_ERROR / NUM_CHECKS
"""Error of the lower bound of one check (Bonferroni)."""
COPIES_ERROR, CONTROL_ERROR = 0.045, 0.005
"""Errors of the bounds of copies and fragments, and of those of their control; together one bound at 95 %."""
PER_SERIES = ("copying", "fragments")
"""Attacks that count synthetic series; all others count entities."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of the gate. Defaults without another source are this project's own; override them knowingly.

    Raises
    ------
    ConfigError
        If a limit is outside its range.
    """

    soft_copies: float = 0.001
    """Largest share of near-copies in excess of the control (0 to 1)."""
    fragments: float = 0.01
    """Largest share of synthetic series with days or weeks of training series, in excess of the control (0 to 1)."""
    auc: float = 0.55
    """Largest area under the ROC curve of membership inference (0.5 to 1)."""
    tpr: float = 0.02
    """Largest true positive rate of membership inference at `fpr` (fpr to 1)."""
    outlier_tpr: float = 0.05
    """Largest true positive rate among the oddest targets, and in the worst group (fpr to 1)."""
    linkage_risk: float = 0.09
    """Largest risk of linkage and of inference from known weeks, as gain over the control (0 to 1); 0.09 is the limit
    of EMA and Health Canada."""
    min_group_size: int = 15
    """Fewest entities behind a condition (10 or more)."""
    max_dominance: float = 0.15
    """Largest share of one entity in the sum of levels of its group (0 to 1); the 15/15 rule of US utilities."""
    fpr: float = 0.01
    """False positive rate at which the true positive rate is measured (0 to 0.5)."""
    literal_distance: float = 0.05
    """Relative distance below which a series can be a literal copy (0 to 1)."""
    soft_ratio: float = 0.9
    """A near-copy has a ratio d(train) / d(holdout) below this times the smallest that chance produces (0 to 1)."""
    hard_ratio: float = 0.5
    """The same factor for a literal copy (0 to 1)."""
    planted_found: float = 0.95
    """Smallest share of planted copies that the self-test must find (0 to 1)."""

    def __post_init__(self) -> None:
        if self.min_group_size < 10:
            raise ConfigError(f"thresholds.min_group_size is {self.min_group_size}; it must be 10 or more")
        for name, value in asdict(self).items():
            low = {"auc": 0.5, "tpr": self.fpr, "outlier_tpr": self.fpr}.get(name, 0.0)
            high = 0.5 if name == "fpr" else 1.0
            if name != "min_group_size" and not low < value <= high:
                raise ConfigError(f"thresholds.{name} is {value}; it must be above {low} and at most {high}")


def least_for_pass(limits: Thresholds) -> tuple[int | None, int | None]:
    """Return the fewest synthetic series and the fewest training entities with which a PASS is possible, about.

    With so many series and no near-copy, and so many members of whom no more are recognised than others, the bounds of
    these two checks meet their limits. None where no number would do. Sets that are to pass reliably need more.
    """
    series = trials_to_bound(0.0, limits.soft_copies, COPIES_ERROR)
    return series, trials_to_bound(limits.fpr, limits.tpr)


def line(attack: str, name: str, stratum: str, explains: str, *, value: float, low: float, high: float,
         threshold: float, needed: int | None, informs: bool = False, beside: str = "") -> dict:  # fmt: skip
    """Return one line of the audit; passed is True, False (proven leak) or None (not proven either way).

    ``beside`` is context to be read with the value.
    """
    passed = True if high <= threshold else False if low > threshold else None
    return {
        "attack": attack, "name": name, "stratum": stratum, "value": value, "low": low, "high": high,
        "threshold": threshold, "passed": passed, "needed_entities": None if passed is not None else needed,
        "informs": informs, "explains": explains, "beside": beside,
    }  # fmt: skip


def _sentence(check: dict) -> str:
    """Describe a check that did not pass in one sentence."""
    what = f"{check['attack']}: {check['name']} ({check['stratum']})"
    value = f"{check['value']:.4g}" + (f" ({check['beside']})" if check.get("beside") else "")
    if check["passed"] is False:
        if check["threshold"] == 0:
            return f"{what}: {100 * check['value']:.3g} % of the synthetic series tested; none is allowed"
        return f"{what} is {value}, proven above {check['low']:.4g}; the limit is {check['threshold']:g}"
    needed = check["needed_entities"]
    counted = "synthetic series" if check["attack"] in PER_SERIES else "entities"
    if needed:
        more = f"; about {needed:,} {counted} would do for a set without this leak"
    else:
        more = "; it must be 0" if check["threshold"] == 0 else ""
    # A count has no interval.
    reach = f", but could be up to {check['high']:.4g}" if check["high"] > check["value"] else ""
    return f"{what} is {value}{reach}; the limit is {check['threshold']:g}{more}"


def _over_limit(check: dict) -> float:
    """Return the measured value over its limit; with a limit of 0, any finding ranks above all other checks."""
    return check["value"] / max(check["threshold"], 1e-12)


def verdict(checks: list[dict], invalid: list[str]) -> tuple[str, list[str]]:
    """Return the worst verdict that applies, and its reasons in plain sentences.

    Parameters
    ----------
    checks : list of dict
        Lines of the audit; those that only inform are ignored.
    invalid : list of str
        Reasons why controls or the self-test did not work.

    Returns
    -------
    tuple
        FAIL, INVALID, UNPROVEN or PASS, and at least one sentence, the worst first.
    """
    counted = [check for check in checks if not check["informs"]]
    failed = [_sentence(check) for check in counted if check["passed"] is False]
    unproven = sorted((check for check in counted if check["passed"] is None), key=_over_limit, reverse=True)
    if failed:
        return "FAIL", failed + invalid
    if invalid:
        return "INVALID", invalid
    if unproven:
        above = sum(_over_limit(check) > 1 for check in unproven)
        sentences = [_sentence(check) for check in unproven]
        if above:
            measured = f"{above} of {len(counted)} checks are measured above their limits"
            sentences.insert(0, f"{measured}, by chance or by a leak")
        return "UNPROVEN", sentences
    return "PASS", [f"all {len(counted)} checks are below their limits with 95 % confidence each"]
