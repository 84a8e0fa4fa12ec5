"""The privacy audit: runs the attacks with their controls, tests itself, and gives one verdict.

Verdicts, the worst wins:

- FAIL: a leak is proven, whatever the size of the data. A statistical check fails where its *lower* bound
  exceeds the threshold; the bounds share an error of 5 % between all checks (Bonferroni), so that an honest
  set fails in at most 5 of 100 audits.
- INVALID: a control or the self-test did not work, or train and holdout overlap. Nothing is known.
- UNPROVEN: no leak found, but with this few entities a leak above a threshold cannot be ruled out.
- PASS: the *upper* one-sided 95 % bound of every check is at most its threshold. All must hold at once, so
  these need no correction for their number.

PASS means: these attacks, with this knowledge, on this data set. It is neither a proof nor legal anonymity.
Auditing again and again until it passes spoils the error rates.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from ttsgan.evaluation import attacks, copying
from ttsgan.evaluation.attacks import Progress, Views
from ttsgan.evaluation.checks import Thresholds, copy_checks, linkage_check, membership_checks, verdict
from ttsgan.evaluation.judged import Judged, check_comparable
from ttsgan.evaluation.stats import jsonable

__all__ = ["Thresholds", "audit"]

SCHEMA_VERSION = 1
DEFAULT_THRESHOLDS = Thresholds()
MIN_ENTITIES = 12
SELF_TEST_SERIES = 1000
LINKAGE_TARGETS = 2000


def _linkage_checks(
    views: Views,
    members: Judged,
    holdout: Judged,
    synthetic: Judged,
    rng: np.random.Generator,
    limits: Thresholds,
) -> list[dict]:
    """A3, where the series is at least three times as long as what is known."""
    checks = []
    member_sample, control_sample = (part.sample_entities(LINKAGE_TARGETS, rng) for part in (members, holdout))
    length, week = synthetic.values.shape[2], 7 * synthetic.steps_per_day
    for weeks in (1, 4):
        if not synthetic.has_clock or length < 3 * weeks * week:
            continue
        seed = int(rng.integers(2**31))
        hits, control = (
            attacks.linkage(views, part, synthetic, weeks, np.random.default_rng(seed))
            for part in (member_sample, control_sample)
        )
        checks.append(linkage_check(weeks, hits, control, limits))
    return checks


@dataclass(frozen=True)
class _Attacked:
    """Outcome of all attacks on one synthetic set."""

    checks: list[dict]
    roc: dict
    planted_found: int


def _attack(
    train: Judged, holdout: Judged, synthetic: Judged, planted: Judged | None, limits: Thresholds, max_targets: int,
    rng: np.random.Generator, report: Progress,
) -> _Attacked:  # fmt: skip
    """Run every attack; `planted` copies are searched beside the synthetic series, without influence on the checks."""
    halves = _split(holdout, 2, rng)
    real = np.concatenate([np.abs(part.values).mean(-1) for part in (train, holdout)])
    views = Views(np.median(real, axis=0))
    report(0.0, "searching for copies")
    search = copying.CopySearch(views, train, *halves, rng)
    found = search.measure(synthetic if planted is None else _join(synthetic, planted))
    num = len(synthetic)
    own = found.part(slice(0, num))
    cutoffs = copying.null_minimum(own, limits.literal_distance)
    settings = {"literal": limits.literal_distance, "soft": limits.soft_ratio, "hard": limits.hard_ratio}
    flags = copying.copy_flags(own, cutoffs, **settings)
    planted_found = int(copying.copy_flags(found.part(slice(num, None)), cutoffs, **settings).soft.sum())
    some = synthetic.sample_entities(copying.STRETCH_SERIES, rng)
    pasted = search.stretches(some, literal=limits.literal_distance, hard=limits.hard_ratio)
    checks = copy_checks(flags, pasted, search.folds, limits)
    members = train.sample_entities(max_targets, rng)
    reference, *others = _split(holdout, 4, rng)
    scores = attacks.membership(
        views,
        members,
        _join(*others),
        reference,
        synthetic,
        lambda done, text: report(0.4 + 0.5 * done, text),
    )
    more, roc = membership_checks(scores, limits, rng)
    report(0.9, "linkage")
    checks += more + _linkage_checks(views, members, holdout, synthetic, rng, limits)
    return _Attacked(checks, roc, planted_found)


def _split(judged: Judged, parts: int, rng: np.random.Generator) -> list[Judged]:
    """Split by entity in parts of about equal numbers of entities."""
    part = (rng.permutation(judged.codes.max() + 1) % parts)[judged.codes]
    return [judged.take(part == index) for index in range(parts)]


def _join(*parts: Judged) -> Judged:
    """Put sets one after the other."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "entities", "starts")
    }
    return replace(parts[0], **columns)


def _self_test(
    train: Judged, holdout: Judged, limits: Thresholds, rng: np.random.Generator, report: Progress
) -> tuple[str, list[str]]:
    """Audit a third of the holdout as if it were synthetic, against the other two thirds: it must not FAIL."""
    stand_in, *rest = _split(holdout, 3, rng)
    control = _join(*rest).sample_entities(2 * SELF_TEST_SERIES, rng)
    stand_in = stand_in.sample_entities(SELF_TEST_SERIES, rng)
    few = train.sample_entities(2 * SELF_TEST_SERIES, rng)
    outcome = _attack(few, control, stand_in, None, limits, 2 * SELF_TEST_SERIES, rng, report)
    failed = [check["name"] for check in outcome.checks if check["passed"] is False]
    return ("fails" if failed else "clean"), failed


def audit(
    train: Judged, holdout: Judged, synthetic: Judged, *, thresholds: Thresholds = DEFAULT_THRESHOLDS,
    seed: int = 0, max_targets: int = 5000, progress: Progress | None = None,
) -> dict:  # fmt: skip
    """Attack a synthetic set and give a verdict.

    Parameters
    ----------
    train, holdout, synthetic : Judged
        What the generator saw, what it never saw (by entity), and what it made. Same channels, length, step
        and unit.
    thresholds : Thresholds
        Limits of the gate.
    seed : int
        All random choices.
    max_targets : int
        Most training and holdout series that are attacked; copying always searches every synthetic and
        training series.
    progress : callable (float, str) -> None, optional
        Told the share done and what is under way.

    Returns
    -------
    dict
        JSON-able: `verdict`, `reasons`, `checks`, `self_test`, `sizes`, `thresholds`, `curves`, `seed`.
        Series without readings or without any change are set aside and counted.

    Raises
    ------
    DataError
        If the sets cannot be compared.

    Notes
    -----
    Cost about 55 CPU-seconds and 0.9 GB for 5,000 series of 2,190 steps in each set; it grows with the
    product of set sizes.
    """
    check_comparable(train=train, holdout=holdout, synthetic=synthetic)
    report = progress or (lambda done, text: None)
    rng = np.random.default_rng(seed)
    sizes, kept = {}, {}
    for name, judged in (("train", train), ("holdout", holdout), ("synthetic", synthetic)):
        empty, constant = judged.usable()
        usable = ~(empty | constant)
        kept[name] = judged.take(usable) if usable.any() else None
        sizes[name] = {
            "series": len(judged), "entities": int(judged.codes.max() + 1), "set_aside_empty": int(empty.sum()),
            "set_aside_constant": int(constant.sum()),
            "audited_entities": len(np.unique(judged.entities[usable])),
        }  # fmt: skip
    result = {
        "schema_version": SCHEMA_VERSION, "verdict": None, "reasons": [], "checks": [],
        "self_test": {"planted": 0, "found": 0, "holdout_as_synthetic": "not run"},
        "sizes": sizes, "thresholds": asdict(thresholds), "seed": seed,
        "curves": {"roc": {"fpr": [], "tpr": [], "attacks": []}},
    }  # fmt: skip
    invalid = _overlap(train, holdout, kept)
    few = [f"{n} has {s['audited_entities']} entities with usable series, fewer than {MIN_ENTITIES}"
           for n, s in sizes.items() if s["audited_entities"] < MIN_ENTITIES]  # fmt: skip
    if few:
        result["verdict"], result["reasons"] = "INVALID", invalid + few
        return jsonable(result)
    first = kept["train"].starts[0]
    train, holdout, synthetic = (attacks.align_weekday(part, first) for part in kept.values())
    del kept
    holdout = holdout.sample_entities(max_targets, rng)
    planted = copying.plant(train, max(20, math.ceil(0.01 * len(synthetic))), rng)
    outcome = _attack(
        train,
        holdout,
        synthetic,
        planted,
        thresholds,
        max_targets,
        rng,
        lambda d, text: report(0.85 * d, text),
    )
    clean, failed = _self_test(train, holdout, thresholds, rng, lambda d, text: report(0.85 + 0.15 * d, "self-test"))
    if outcome.planted_found < thresholds.planted_found * len(planted):
        invalid.append(
            f"self-test: {outcome.planted_found} of {len(planted)} planted copies were found; "
            f"{100 * thresholds.planted_found:g} % are needed for the search to count"
        )
    if failed:
        invalid.append(f"self-test: holdout series in the place of synthetic ones fail ({', '.join(failed)})")
    result["checks"] = outcome.checks
    result["self_test"] = {
        "planted": len(planted),
        "found": outcome.planted_found,
        "holdout_as_synthetic": clean,
    }
    result["curves"] = {"roc": outcome.roc}
    result["verdict"], result["reasons"] = verdict(outcome.checks, invalid)
    report(1.0, result["verdict"])
    return jsonable(result)


def _overlap(train: Judged, holdout: Judged, kept: dict[str, Judged | None]) -> list[str]:
    """Return why train and holdout are not disjoint."""
    reasons = []
    shared = np.intersect1d(train.entities, holdout.entities)
    if shared.size:
        reasons.append(f"train and holdout share {shared.size} entities, for instance {shared[0]!r}; split by entity")
    if kept["train"] and kept["holdout"]:
        same = kept["train"].fingerprints() & kept["holdout"].fingerprints()
        if same:
            reasons.append(f"{len(same)} series are identical in train and holdout; remove them from one side")
    return reasons
