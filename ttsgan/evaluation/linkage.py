"""A3 and A5: what an attacker who knows some weeks of a household learns from the synthetic set.

*Linkage* (A3) succeeds if the known weeks and the rest of the year have the same nearest synthetic series. *Inference*
(A5) takes the synthetic series nearest in four known weeks and guesses an attribute of the rest: its level within 5 %,
the slot of the week of its largest reading, and its emptiest week. Both attack members and controls: equally many
holdout homes from the same groups of similar households. What is true for a kind of household is no leak.

Axes: n series, m targets, C channels, L time steps, D days, S slots of a day, A attributes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsgan.evaluation.gate import FAIL_ERROR, Thresholds, line
from ttsgan.evaluation.judged import Judged, joined
from ttsgan.evaluation.neighbours import merge_nearest, nearest
from ttsgan.evaluation.stats import entities_to_bound, residual_risk
from ttsgan.evaluation.strata import household_groups, matched
from ttsgan.evaluation.views import Views, per_entity

KNOWN_WEEKS = (1, 4, 12, 26)
INFERENCE_WEEKS = 4
LEVEL_TOLERANCE = 0.05
MATCH_TARGETS = 30
STRATUM_TARGETS = 1250
"""Smallest number of members, and of controls, in a group that is judged separately."""
ATTRIBUTES = {
    "level": "the level of the rest of the year within 5 %",
    "peak": "the slot of the week of the largest reading",
    "emptiest week": "the week with the least load",
}


def attributes(judged: Judged, rest: np.ndarray) -> dict[str, np.ndarray]:
    """Return the attributes to be inferred, for every series.

    Parameters
    ----------
    judged : Judged
        Aligned and gap-free series.
    rest : ndarray of shape (D,), bool
        Days that the attacker does not know.

    Returns
    -------
    dict of str to ndarray of shape (n,)
        `level` (physical units, mean over unknown days and channels), `peak` (slot of the week, 0 = Monday's first),
        `emptiest week` (number of the unknown week with the least load).
    """
    days = judged.days(judged.values)[:, :, : len(rest)].mean(1)
    weekday = judged.calendar(len(rest))[0]
    unknown = days[:, rest]
    slots = days.shape[2]
    at = np.abs(unknown).reshape(len(judged), -1).argmax(1)
    peak = weekday[:, rest][np.arange(len(judged)), at // slots] * slots + at % slots
    weeks = max(1, unknown.shape[1] // 7)
    load = np.abs(unknown[:, : 7 * weeks]).reshape(len(judged), weeks, -1).mean(2)
    return {"level": unknown.mean((1, 2)), "peak": peak, "emptiest week": load.argmin(1)}


@dataclass(frozen=True)
class Linked:
    """Outcome per entity, bool arrays of shape (e,): members first, then controls.

    Parameters
    ----------
    hits : dict of str to ndarray
        "1" ... "26" (known weeks) and the names of `ATTRIBUTES`.
    sides : ndarray of shape (e,), int
        0 for members, 1 for controls.
    strata : ndarray of shape (e,), int
        Number of the group; groups have at least `STRATUM_TARGETS` entities of each side.
    chosen : ndarray of shape (e,), bool
        Entities in the sample of members and controls that is matched by group.
    """

    hits: dict[str, np.ndarray]
    sides: np.ndarray
    strata: np.ndarray
    chosen: np.ndarray


class LinkageSearch:
    """Attacks A3 and A5 on a synthetic set that comes in blocks.

    Parameters
    ----------
    views : Views
    members, controls : Judged
        Targets from training and from the holdout, aligned and gap-free.
    seed : int
        Chooses the start of the known weeks (the same for all targets) and the matched controls.
    """

    def __init__(self, views: Views, members: Judged, controls: Judged, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.views = views
        self.codes = np.concatenate([members.codes, controls.codes + members.codes.max() + 1])
        targets = joined(members, controls)
        self.known = known_steps(targets, rng)
        self.raw = views.raw(targets)
        self.inferred = self.known.get(INFERENCE_WEEKS)
        if self.inferred is not None:
            self.truth = attributes(targets, self._rest(targets))
        first = np.unique(self.codes, return_index=True)[1]
        self.sides = (first >= len(members)).astype(int)
        profile = views.profile(targets)[first]
        alike = household_groups(profile, self.sides, MATCH_TARGETS, seed, most=20)
        self.chosen = matched(alike, self.sides, rng)
        self.strata = household_groups(profile, self.sides, STRATUM_TARGETS, seed)

    def _rest(self, judged: Judged) -> np.ndarray:
        """Return a mask of the days without any known step."""
        steps = judged.steps_per_day
        offset = int(judged.first_midnights()[0])
        days = (len(self.inferred) - int(judged.first_midnights().max())) // steps
        return ~self.inferred[offset : offset + days * steps].reshape(days, steps).any(1)

    def search(self, synthetic: Judged) -> dict[str, Any]:
        """Search one block of synthetic series (aligned and gap-free)."""
        raw = self.views.raw(synthetic)
        found: dict[str, Any] = {"num": len(synthetic)}
        for weeks, known in self.known.items():
            tiled = np.tile(known, len(self.views.unit_scale))
            found[str(weeks)] = [nearest(self.raw[:, mask], raw[:, mask], 1) for mask in (tiled, ~tiled)]
        if self.inferred is not None:
            found["attributes"] = attributes(synthetic, self._rest(synthetic))
        return found

    def join(self, parts: list[dict[str, Any]]) -> Linked:
        """Merge the results of all blocks."""
        sizes = [part["num"] for part in parts]
        begins = list(np.cumsum(sizes) - sizes)
        hits, nearest_known = {}, {}
        for weeks in self.known:
            by_known, by_rest = (
                merge_nearest([part[str(weeks)][side] for part in parts], begins)[1][:, 0] for side in (0, 1)
            )
            nearest_known[weeks] = by_known
            hits[str(weeks)] = self._per_entity(by_known == by_rest)
        if self.inferred is not None:
            guesses = {
                name: np.concatenate([part["attributes"][name] for part in parts])[nearest_known[INFERENCE_WEEKS]]
                for name in ATTRIBUTES
            }
            level = self.truth["level"]
            hits["level"] = self._per_entity(np.abs(guesses["level"] - level) <= LEVEL_TOLERANCE * np.abs(level))
            for name in ("peak", "emptiest week"):
                hits[name] = self._per_entity(guesses[name] == self.truth[name])
        return Linked(hits, self.sides, self.strata, self.chosen)

    def _per_entity(self, hit: np.ndarray) -> np.ndarray:
        return per_entity(hit, self.codes) > 0


def known_steps(judged: Judged, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Return the mask of known steps, shape (L,), for every number of weeks that fits in half of the series."""
    length, week = judged.values.shape[2], 7 * judged.steps_per_day
    known = {}
    for weeks in KNOWN_WEEKS:
        width = weeks * week
        if not judged.has_clock or length < 2 * width:
            continue
        begin = int(rng.integers(0, (length - width) // judged.steps_per_day + 1)) * judged.steps_per_day
        known[weeks] = np.zeros(length, bool)
        known[weeks][begin : begin + width] = True
    return known


def _risk_line(attack: str, name: str, stratum: str, explains: str, hits: np.ndarray, sides: np.ndarray, limit: float,
               parts: int) -> dict:  # fmt: skip
    """Judge members against controls in one of `parts` strata of the same kind, which share the error (Bonferroni)."""
    pair = [(int(hits[sides == side].sum()), int((sides == side).sum())) for side in (0, 1)]
    risk, _, high = residual_risk(*pair)
    low = residual_risk(*pair, confidence=1 - 2 * FAIL_ERROR / parts)[1]
    return line(
        attack, name, stratum,
        f"{explains} {pair[0][0]} of {pair[0][1]} members, {pair[1][0]} of {pair[1][1]} controls of the same groups; "
        "risk is the gain over the control.",
        value=risk, low=low, high=high, threshold=limit,
        needed=entities_to_bound(0.0, 2 * (high - risk), min(n for _, n in pair), limit),
    )  # fmt: skip


def linkage_checks(found: Linked, limits: Thresholds) -> list[dict]:
    """Judge A3 and A5: each attack on all matched targets, and on the worst group where groups are large enough."""
    checks = []
    for name, hits in found.hits.items():
        if name in ATTRIBUTES:
            attack, title = "inference", f"{name} from {INFERENCE_WEEKS} known weeks"
            explains = f"The synthetic series nearest by the known weeks tells {ATTRIBUTES[name]}:"
        else:
            attack, title = "linkage", f"risk from {name} known week{'s' if name != '1' else ''}"
            explains = "Known weeks and the rest of the year lead to the same synthetic series:"
        rows = found.chosen
        checks.append(_risk_line(attack, title, "all", explains, hits[rows], found.sides[rows], limits.linkage_risk, 1))
        num = int(found.strata.max()) + 1
        if num > 1:
            groups = []
            for group in range(num):
                rows = found.strata == group
                size = int((rows & (found.sides == 0)).sum())
                stratum = f"worst group of {num}: {group + 1} ({size} members)"
                groups.append(
                    _risk_line(
                        attack, title, stratum, explains, hits[rows], found.sides[rows], limits.linkage_risk, num
                    )
                )
            checks.append(max(groups, key=lambda check: (check["low"], check["high"])))
    return checks
