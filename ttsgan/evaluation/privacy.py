"""The privacy audit: run attacks with controls, run a self-test, and give one verdict.

Verdicts, the worst wins:

- FAIL: a leak is proven, whatever the size of the data. A statistical check fails where its *lower* bound exceeds the
  threshold. The lower bounds of all checks share an error of 2.5 % (Bonferroni), so at most 2.5 % of honest sets FAIL.
- INVALID: a control or the self-test did not work, a set has too few entities, or train and holdout overlap or are of
  different dates. Nothing is known about leaks.
- UNPROVEN: no leak is proven, but the upper bound of at least one check is above its threshold: there are too few
  entities or series, or the check is measured above it, by chance or by a leak.
- PASS: the *upper* one-sided 95 % bound of every check is at most its threshold. All must hold at once, so these bounds
  need no correction for multiple testing.

PASS covers these attacks, with this attacker knowledge, on this data set. It is neither a proof nor legal anonymity.
Repeating the audit until it passes invalidates the error rates.

Holdout and synthetic sets may come in blocks (`blocks.Blocks`). The search of each synthetic block, and every other
part of the audit, can run in parallel on any worker. The result depends neither on the block size nor on which worker
ran what.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from ttsgan.evaluation import copying, fragments
from ttsgan.evaluation.blocks import Blocks, Loader, ParallelMap, Survey, do_part, gather, in_turn, survey
from ttsgan.evaluation.gate import Thresholds, verdict
from ttsgan.evaluation.judged import Judged, check_comparable, joined, sample_rows, split_by_entity
from ttsgan.evaluation.linkage import LinkageSearch, linkage_checks
from ttsgan.evaluation.membership import MembershipSearch, Splitting, membership_checks, splittings
from ttsgan.evaluation.model_attacks import Inside, canary_check, network_checks, structure_checks
from ttsgan.evaluation.neighbours import nearest
from ttsgan.evaluation.stats import jsonable
from ttsgan.evaluation.views import Views, align_weekday

__all__ = ["Canaries", "Inside", "Thresholds", "audit"]

SCHEMA_VERSION = 2
DEFAULT_THRESHOLDS = Thresholds()
MIN_ENTITIES = 12
SELF_TEST_SERIES, SELF_TEST_SKETCH = 1000, 250
SKETCH_SERIES = 5000
OTHER_DATES = 1e-4
"""Significance level at which a Kolmogorov-Smirnov test finds different start times in train and holdout."""
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Canaries:
    """Implausible series that a fair coin either planted in training (`included`) or left out (`excluded`)."""

    included: Judged
    excluded: Judged


@dataclass(frozen=True)
class _Real:
    """Real series, aligned and gap-free, with the start they are aligned to and the views of the attacks."""

    train: Judged
    holdout: Judged
    first: np.datetime64
    views: Views

    @classmethod
    def of(cls, train: Judged, holdout: Judged) -> "_Real":
        scale = np.concatenate([np.abs(part.values).mean(-1) for part in (train, holdout)])
        return cls(train, holdout, train.starts[0], Views(np.median(scale, axis=0)))


@dataclass(frozen=True)
class _Field:
    """Shared input of all parts of the audit of one synthetic set; sent to every worker that runs a part."""

    real: _Real
    halves: tuple[Judged, ...]
    members: Judged
    splittings: list[Splitting]
    sketch: Judged
    searches: tuple[Any, ...]
    inside: Inside | None
    limits: Thresholds


Part = Callable[[_Field], Any]
"""One part of an audit. Its random generator is fixed when it is made, so parts can run in any order."""


def _search(field: _Field, *, block: Loader) -> list[Any] | None:
    """Run every whole-series search on one block; return None where the block has no usable series."""
    series = block()
    empty, constant = series.usable()
    usable = ~(empty | constant)
    if not usable.any():
        return None
    aligned = align_weekday(series.take(usable), field.real.first)
    return [search.search(aligned) for search in field.searches]


def _fragments(field: _Field, *, rng: np.random.Generator) -> list[dict]:
    checks, limits = [], field.limits
    # Test channels separately: a generator may paste one and draw the other, and the larger channel would hide it.
    train, holdout, *halves = (part.channels_apart() for part in (field.real.train, field.real.holdout, *field.halves))
    some = field.sketch.sample_entities(fragments.STRETCH_SERIES, rng).channels_apart()
    pasted = fragments.same_dates(some, train, tuple(halves), limits, rng)
    if pasted is not None:
        checks.append(fragments.same_dates_check(pasted))
    for days in fragments.windows_of(some):
        found = fragments.anywhere(some, train, holdout, days, limits, rng)
        if found is not None:
            checks.append(fragments.anywhere_check(found, days, limits))
    return checks


def _ask_networks(field: _Field, *, rng: np.random.Generator) -> list[dict]:
    return network_checks(field.inside, field.members, field.splittings, field.sketch, field.limits, rng)


def _self_test(field: _Field, *, rng: np.random.Generator) -> list[str]:
    """Attack a third of the holdout as if it were synthetic, the rest as holdout; return names of checks that FAIL."""
    stand_in, *rest = split_by_entity(field.real.holdout, 3, rng)
    control = joined(*rest).sample_entities(2 * SELF_TEST_SERIES, rng)
    stand_in = stand_in.sample_entities(SELF_TEST_SERIES, rng)
    few = _Real.of(field.real.train.sample_entities(2 * SELF_TEST_SERIES, rng), control)
    sketch, first_of = stand_in.sample_entities(SELF_TEST_SKETCH, rng), np.ones(len(stand_in), bool)
    outcome = _attack(few, Blocks.of(stand_in), sketch, first_of, field.limits, 2 * SELF_TEST_SERIES, rng)
    return [check["name"] for check in outcome.checks if check["passed"] is False]


@dataclass(frozen=True)
class _Attacked:
    """Outcome of all attacks on one synthetic set."""

    checks: list[dict]
    roc: dict
    planted_found: int
    self_test_fails: list[str]


def _attack(
    real: _Real, blocks: Blocks, sketch: Judged, first_of: np.ndarray, limits: Thresholds, max_targets: int,
    rng: np.random.Generator, *, planted: Judged | None = None, inside: Inside | None = None, self_test: bool = False,
    parallel_map: ParallelMap = in_turn, report: Progress = lambda done, text: None,
) -> _Attacked:  # fmt: skip
    """Run every attack; `planted` copies are searched too, without influence on the checks.

    `first_of` is False for usable synthetic series that repeat an earlier one: a series written a hundred times is one
    piece of evidence of copying.
    """
    views, train, holdout = real.views, real.train, real.holdout
    halves = split_by_entity(holdout, 2, rng)
    copies = copying.CopySearch(views, train, *halves, rng)
    members = train.sample_entities(max_targets, rng)
    split = splittings(holdout, rng)
    report(0.0, "describing targets")
    seed_of_groups = int(rng.integers(2**31))
    of_membership = [MembershipSearch(views, members, *one, sketch, len(first_of), seed_of_groups) for one in split]
    of_linkage = LinkageSearch(views, members, holdout, int(rng.integers(2**31)))
    searches = (copies, of_linkage, *of_membership)
    field = _Field(real, tuple(halves), members, split, sketch, searches, inside, limits)
    of_networks, of_self_test, of_fragments = rng.spawn(3)
    # Longest parts first, so that no worker is still busy with one when the others are done.
    parts: dict[str, Part] = {"networks": partial(_ask_networks, rng=of_networks)} if inside is not None else {}
    searched = {f"block {i}": partial(_search, block=loader) for i, loader in enumerate(blocks.loaders, 1)}
    parts |= searched
    parts |= {"self-test": partial(_self_test, rng=of_self_test)} if self_test else {}
    parts["fragments"] = partial(_fragments, rng=of_fragments)
    found: dict[str, Any] = {}
    for name, outcome in zip(parts, parallel_map(do_part, field, list(parts.values())), strict=True):
        found[name] = outcome
        report(0.1 + 0.8 * len(found) / len(parts), f"{name} done, part {len(found)} of {len(parts)}")
    of_blocks = [found[name] for name in searched if found[name] is not None]
    own, linked, *membership = (search.join([part[i] for part in of_blocks]) for i, search in enumerate(searches))
    own = own.take(first_of)
    settings = {"literal": limits.literal_distance, "soft": limits.soft_ratio, "hard": limits.hard_ratio}
    cutoffs = copying.null_minimum(own, limits.literal_distance, copies.chance)
    checks = copying.copy_checks(copying.copy_flags(own, cutoffs, **settings), copies.folds, limits)
    planted_found = 0
    if planted is not None:
        planted_found = int(copying.copy_flags(copies.search(planted), cutoffs, **settings).soft.sum())
    more, roc = membership_checks(membership, limits, rng)
    checks += found["fragments"] + more + linkage_checks(linked, limits)
    if inside is not None:
        checks += structure_checks(inside, limits) + found["networks"]
    return _Attacked(checks, roc, planted_found, found.get("self-test", []))


def _canary_line(canaries: Canaries, real: _Real, sketch: Judged) -> dict:
    """Score canaries by their distance to the synthetic set, relative to their distance to unseen real series."""
    reference = real.views.shape(real.holdout)
    base = real.views.shape(sketch)
    scores = []
    for part in (canaries.included, canaries.excluded):
        rows = real.views.shape(align_weekday(part, real.first))
        scores.append(
            np.log(nearest(rows, reference, 1)[0][:, 0] + 1e-9) - np.log(nearest(rows, base, 1)[0][:, 0] + 1e-9)
        )
    return canary_check(*scores)


def _counts(of: Survey) -> dict:
    """Count the series and entities of a set, and the audited entities: those with readings that change."""
    return {
        "series": len(of.empty), "entities": of.num_entities, "set_aside_empty": int(of.empty.sum()),
        "set_aside_constant": int(of.constant.sum()), "audited_entities": len(np.unique(of.entities[of.usable])),
    }  # fmt: skip


def audit(
    train: Judged, holdout: Judged | Blocks, synthetic: Judged | Blocks, *, thresholds: Thresholds = DEFAULT_THRESHOLDS,
    seed: int = 0, max_targets: int = 5000, inside: Inside | None = None, canaries: Canaries | None = None,
    parallel_map: ParallelMap = in_turn, progress: Progress | None = None,
) -> dict:  # fmt: skip
    """Attack a synthetic set and give a verdict.

    Parameters
    ----------
    train : Judged
        Series the generator was trained on.
    holdout : Judged or Blocks
        Series of entities the generator never saw; same channels, length, step and unit.
    synthetic : Judged or Blocks
        Series the generator made; each counts as its own entity.
    thresholds : Thresholds
        Limits of the gate.
    seed : int
        Seed of all random choices.
    max_targets : int
        Largest number of training series, and of holdout series, that are attacked; copying always searches every
        synthetic and training series.
    inside : Inside, optional
        Conditions and networks of the run folder, for attacks with the owner's knowledge.
    canaries : Canaries, optional
        Canaries, where some were planted in training.
    parallel_map : ParallelMap
        Runs the parts of the audit, including the blocks; by default one after the other in this process.
    progress : callable (float, str) -> None, optional
        Called with the share done (0 to 1) and a status text.

    Returns
    -------
    dict
        JSON-serialisable, schema version 2: `verdict` (see above), `reasons` (sentences), `checks` (lines made by
        `gate.line`), `self_test` (`planted`, `found`: counts; `holdout_as_synthetic`: "clean", "fails" or "not run"),
        `sizes` (per set: `series`, `entities`, `set_aside_empty`, `set_aside_constant`, `audited_entities`; for the
        synthetic set also `distinct`, because a series written twice counts once in copying),
        `thresholds`, `seed`, `curves.roc` (`fpr`, `tpr`: lists of equal length, `attacks`: names of the strongest).
        Series without readings or without any change are set aside and counted.

    Raises
    ------
    DataError
        If the sets cannot be compared.

    Notes
    -----
    Cost: about 120 CPU-seconds for 5,000 series of 2,190 steps in each set, 165 with the networks of a run folder. It
    grows with the product of the set sizes.
    """
    report = progress or (lambda done, text: None)
    blocks = synthetic if isinstance(synthetic, Blocks) else Blocks.of(synthetic)
    seen = {"train": survey(train), "holdout": survey(holdout, parallel_map), "synthetic": survey(blocks, parallel_map)}
    check_comparable(**{name: of.like for name, of in seen.items()})
    rng = np.random.default_rng(seed)
    usable = {name: np.flatnonzero(of.usable) for name, of in seen.items()}
    num_synthetic = len(usable["synthetic"])
    first_of = np.zeros(num_synthetic, bool)
    first_of[np.unique(seen["synthetic"].digests[usable["synthetic"]], return_index=True)[1]] = True
    sizes = {name: _counts(of) for name, of in seen.items()}
    sizes["synthetic"] |= {
        "entities": len(seen["synthetic"].empty), "audited_entities": num_synthetic, "distinct": int(first_of.sum()),
    }  # fmt: skip
    result = {
        "schema_version": SCHEMA_VERSION, "verdict": None, "reasons": [], "checks": [],
        "self_test": {"planted": 0, "found": 0, "holdout_as_synthetic": "not run"},
        "sizes": sizes, "thresholds": asdict(thresholds), "seed": seed,
        "curves": {"roc": {"fpr": [], "tpr": [], "attacks": []}},
    }  # fmt: skip
    unfit = _overlap(seen["train"], seen["holdout"])
    unfit += [f"{n} has {s['audited_entities']} entities with usable series, fewer than {MIN_ENTITIES}"
           for n, s in sizes.items() if s["audited_entities"] < MIN_ENTITIES]  # fmt: skip
    dates = other_dates(*((seen[name].starts, seen[name].entities) for name in ("train", "holdout")))
    unfit += [dates] if dates else []
    if unfit:
        result["verdict"], result["reasons"] = "INVALID", unfit
        return jsonable(result)
    targets = usable["holdout"][sample_rows(seen["holdout"].entities[usable["holdout"]], max_targets, rng)]
    chosen = np.sort(rng.permutation(usable["synthetic"])[:SKETCH_SERIES])
    parts = [
        gather(series, seen[name].sizes, rows)
        for name, series, rows in (
            ("train", train, usable["train"]), ("holdout", holdout, targets), ("synthetic", blocks, chosen)
        )
    ]  # fmt: skip
    first = parts[0].starts[0]
    mine, unseen, sketch = (align_weekday(part, first) for part in parts)
    real = _Real.of(mine, unseen)
    planted = copying.plant(real.train, max(20, math.ceil(0.01 * min(num_synthetic, SKETCH_SERIES))), rng)
    outcome = _attack(
        real, blocks, sketch, first_of, thresholds, max_targets, rng, planted=planted, inside=inside, self_test=True,
        parallel_map=parallel_map, report=report,
    )  # fmt: skip
    failed, invalid = outcome.self_test_fails, []
    if outcome.planted_found < thresholds.planted_found * len(planted):
        invalid.append(
            f"self-test: {outcome.planted_found} of {len(planted)} planted copies were found; "
            f"{100 * thresholds.planted_found:g} % are needed for the search to count"
        )
    if failed:
        invalid.append(f"self-test: holdout series in the place of synthetic ones fail ({', '.join(failed)})")
    result["checks"] = outcome.checks
    if canaries is not None:
        result["checks"] = [*outcome.checks, _canary_line(canaries, real, sketch)]
    result["self_test"] = {
        "planted": len(planted),
        "found": outcome.planted_found,
        "holdout_as_synthetic": "fails" if failed else "clean",
    }
    result["curves"] = {"roc": outcome.roc}
    result["verdict"], result["reasons"] = verdict(result["checks"], invalid)
    report(1.0, result["verdict"])
    return jsonable(result)


def other_dates(train: tuple[np.ndarray, np.ndarray], holdout: tuple[np.ndarray, np.ndarray]) -> str | None:
    """Return why the holdout's dates make it unfit as a control, or None where it is fit.

    Each side is a pair of start times and entities; an entity counts once, by its first series.
    """
    starts = [of[np.unique(entities, return_index=True)[1]].astype(np.int64) for of, entities in (train, holdout)]
    if ks_2samp(*starts, method="asymp").pvalue >= OTHER_DATES:
        return None
    of_train, of_holdout = (np.datetime64(int(np.median(of)), "s") for of in starts)
    return (
        f"train and holdout are of other dates (half of them start by {of_train} and {of_holdout}): what tells dates"
        " apart would be taken for what tells members apart; hold out entities of the same dates"
    )


def _overlap(train: Survey, holdout: Survey) -> list[str]:
    """Return the reasons why train and holdout are not disjoint: shared entities, identical series."""
    reasons = []
    shared = np.intersect1d(train.entities, holdout.entities)
    if shared.size:
        reasons.append(
            f"train and holdout share {shared.size} entities, for instance {str(shared[0])!r}; split by entity"
        )
    owners = [dict(zip(of.digests[of.usable], of.entities[of.usable], strict=True)) for of in (train, holdout)]
    same = [digest for digest in owners[0] if digest in owners[1]]
    if same:
        one, other = (str(of[same[0]]) for of in owners)
        reasons.append(
            f"{len(same)} series are identical in train and holdout, for instance of {one!r} and of {other!r}; remove"
            " them from one side"
        )
    return reasons
