"""Attacks that need more than the three sets: the conditions (A4), the networks, and planted canaries (A6).

Only the owner of a run folder has these. The audit fails if a group is too small, an entity feeds two conditions, or
members are recognised through the networks. An entity that dominates its group leaves the audit unproven. Tracing of
members in conditions only informs, because conditions are never released; canaries only inform, too.

Axes: n series, D latent dimensions, K conditions, m members, e entities.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ttsgan.evaluation.gate import FAIL_ERROR, Thresholds, line
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.membership import Membership, Splitting, density_scores, membership_checks
from ttsgan.evaluation.neighbours import nearest
from ttsgan.evaluation.stats import auc_delong, clopper_pearson_lower, entities_to_bound, normal_quantile
from ttsgan.evaluation.views import per_entity

NETWORK_TARGETS = 2000


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What the owner of a run folder knows.

    Parameters
    ----------
    encode : callable (Judged) -> ndarray of shape (n, D)
        Latents of series.
    discriminate : callable (Judged, latents) -> ndarray of shape (n,), or None
        Discriminator score that a series is real, given the condition of its group.
    conditions : ndarray of shape (K, D)
        Conditions, means of latents.
    entities, condition_of : ndarray of shape (m,), str and int
        Averaged entities, and the condition each feeds; an entity that feeds two conditions is listed twice.
    dominance : ndarray of shape (K,)
        Largest share of one entity in the sum of levels of the condition's group.
    """

    encode: Callable[[Judged], np.ndarray]
    discriminate: Callable[[Judged, np.ndarray], np.ndarray] | None
    conditions: np.ndarray
    entities: np.ndarray
    condition_of: np.ndarray
    dominance: np.ndarray


def structure_checks(inside: Inside, limits: Thresholds) -> list[dict]:
    """Judge how the conditions were made; values are exact, not estimates, so there is no interval."""
    sizes = np.bincount(inside.condition_of, minlength=len(inside.conditions))
    used = np.unique(inside.entities, return_counts=True)[1]
    smallest, reuse, dominance = int(sizes.min()), int(used.max()), float(inside.dominance.max())
    rows = (
        ("entities missing from the smallest condition", max(0, limits.min_group_size - smallest), 0,
         f"The smallest of {len(sizes)} conditions is the mean of {smallest} entities; {limits.min_group_size} are the "
         "fewest allowed."),
        ("further conditions that one entity feeds", reuse - 1, 0,
         "Means that share members can be subtracted from each other."),
        ("largest share of one entity in its group", dominance, limits.max_dominance,
         "A group that one entity dominates describes that entity."),
    )  # fmt: skip
    checks = []
    for name, value, limit, explains in rows:
        check = line("conditions", name, "all", explains, value=float(value), low=float(value), high=float(value),
                     threshold=float(limit), needed=None)  # fmt: skip
        # few and very unequal entities cannot be grouped better: dominance neither proves a leak nor rules one out
        broken = None if limit else False
        checks.append(check | {"passed": True if value <= limit else broken})
    return checks


def tracing_scores(latents: np.ndarray, condition: np.ndarray, centre: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Score how far latents lie from the centre towards a condition, <x - mu, c - mu> in whitened axes.

    Parameters
    ----------
    latents : ndarray of shape (n, D)
    condition, centre : ndarray of shape (D,)
    turn : ndarray of shape (D, D)
        Whitening matrix.

    Returns
    -------
    ndarray of shape (n,)

    Notes
    -----
    For a mean of k of independent members in D effective dimensions the AUC of this score is Phi(sqrt(D / (2 k)))
    (Homer 2008, Dwork 2015): averaging few members hides none of them.
    """
    return (latents - centre) @ turn @ turn.T @ (condition - centre)


def effective_dimensions(latents: np.ndarray) -> float:
    """Return the effective number of dimensions, (tr S)^2 / tr S^2 of the covariance S."""
    covariance = np.cov(latents.T).reshape(latents.shape[1], -1)
    return float(np.trace(covariance) ** 2 / max(float((covariance**2).sum()), 1e-30))


def network_checks(
    inside: Inside, members: Judged, splittings: Sequence[Splitting], synthetic: Judged, limits: Thresholds,
    rng: np.random.Generator,
) -> list[dict]:  # fmt: skip
    """Infer membership through encoder and discriminator, and trace members in their conditions (A4).

    Parameters
    ----------
    inside : Inside
    members, synthetic : Judged
        As for `membership.MembershipSearch`; at most `NETWORK_TARGETS` series of each are used, because networks are
        slow.
    splittings : sequence of tuple of Judged
        Non-members and reference, with the same limit.
    limits : Thresholds
    rng : numpy.random.Generator
    """
    members, synthetic = (part.sample_entities(NETWORK_TARGETS, rng) for part in (members, synthetic))
    mine, made = inside.encode(members), inside.encode(synthetic)

    def opinion(part: Judged, latents: np.ndarray) -> dict[str, np.ndarray]:
        return {} if inside.discriminate is None else {"discriminator": inside.discriminate(part, latents)}

    of_members, found, theirs = opinion(members, mine), [], []
    for splitting in splittings:
        nonmembers, reference = (part.sample_entities(NETWORK_TARGETS, rng) for part in splitting)
        theirs.append(inside.encode(nonmembers))
        density = density_scores(np.concatenate([mine, theirs[-1]]), made, inside.encode(reference))
        sides = (
            (members.codes, {"latent": density[: len(mine)]} | of_members),
            (nonmembers.codes, {"latent": density[len(mine) :]} | opinion(nonmembers, theirs[-1])),
        )
        per_side = [{name: per_entity(score, codes) for name, score in scores.items()} for codes, scores in sides]
        alike = tuple(np.zeros(codes.max() + 1, int) for codes, _ in sides)
        found.append(Membership(*per_side, alike, alike))
    auc, tail, *_ = membership_checks(found, limits, rng)[0]
    return [
        auc | {"name": "AUC through the networks"},
        tail | {"name": f"{tail['name']}, through the networks", "informs": True},
        tracing_check(inside, members.entities, mine, theirs[0], limits),
    ]


def tracing_check(
    inside: Inside, entities: np.ndarray, mine: np.ndarray, theirs: np.ndarray, limits: Thresholds
) -> dict:
    """Attack A4: trace members in their condition, against holdout entities of the same group.

    Parameters
    ----------
    inside : Inside
    entities : ndarray of shape (n,), str
        Entity of each training latent.
    mine, theirs : ndarray of shape (n, D) and (h, D)
        Latents of training and of holdout series; a holdout series belongs to its nearest condition.
    limits : Thresholds

    Returns
    -------
    dict
        A line that informs: conditions are never released.
    """
    where = dict(zip(inside.entities.tolist(), inside.condition_of.tolist(), strict=True))
    own = np.array([where.get(entity, -1) for entity in entities])
    closest = nearest(*(x.astype(np.float32) for x in (theirs, inside.conditions)), 1)[1][:, 0]
    positive, negative, widths = [], [], []
    for group, condition in enumerate(inside.conditions):
        members, others = mine[own == group], theirs[closest == group]
        if len(members) < 2 or len(others) < 4:
            continue
        # the centre comes from one half of the holdout series, the attacker's own reference; the other half is scored
        half = len(others) // 2
        centre = others[:half].mean(0)
        spread = np.maximum(np.concatenate([members, others]).std(0), 1e-9)
        widths.append(effective_dimensions(members / spread))
        turn = np.diag(1 / spread)
        for rows, out in ((members, positive), (others[half:], negative)):
            scores = tracing_scores(rows, condition, centre, turn)
            out.append(scores / max(float(np.linalg.norm((condition - centre) @ turn)), 1e-12))
    explains = "Can members be told from holdout entities of the same group by the condition itself?"
    if not positive:
        return line("conditions", "tracing AUC", "all", explains + " Too few entities to try.", value=0.5, low=0.5,
                    high=1.0, threshold=limits.auc, needed=None, informs=True)  # fmt: skip
    members, others = np.concatenate(positive), np.concatenate(negative)
    auc, error = auc_delong(members, others)
    sizes = np.bincount(inside.condition_of)
    expected = math.sqrt(float(np.mean(widths)) / (2 * float(np.median(sizes[sizes > 0]))))
    width = normal_quantile(0.05) * error
    return line(
        "conditions", "tracing AUC", "all",
        f"{explains} Theory says Phi({expected:.2f}). Conditions are confidential and never released, so this informs.",
        value=auc, low=auc - normal_quantile(FAIL_ERROR) * error, high=min(1.0, auc + width), threshold=limits.auc,
        needed=entities_to_bound(0.5, 2 * width, min(len(members), len(others)), limits.auc), informs=True,
    )  # fmt: skip


def epsilon_lower_bound(right: int, guesses: int, alpha: float = 0.05) -> float:
    """Return a lower bound of epsilon of pure differential privacy, from the right guesses on canaries.

    Parameters
    ----------
    right, guesses : int
        Number of right guesses, and of confident guesses in total.
    alpha : float
        One-sided error.

    Returns
    -------
    float
        ``ln(p / (1 - p))`` with p the exact lower bound of right / guesses, never below 0.

    References
    ----------
    Steinke, Nasr, Jagielski 2023, "Privacy auditing with one training run", NeurIPS (the delta term is left out).
    """
    rate = clopper_pearson_lower(right, guesses, alpha)
    return max(0.0, math.log(rate / (1 - rate))) if 0 < rate < 1 else 0.0


def canary_check(included: np.ndarray, excluded: np.ndarray) -> dict:
    """Attack A6: distinguish canaries planted in training from those left out.

    Parameters
    ----------
    included, excluded : ndarray of shape (m,) and (h,), float
        Membership scores of canaries; a fair coin decided for each.

    Returns
    -------
    dict
        A line that informs; its value is the lower bound of epsilon. The quarter with the highest scores is guessed to
        be in training, the quarter with the lowest to be out.
    """
    scores = np.concatenate([included, excluded])
    truth = np.repeat([True, False], [len(included), len(excluded)])
    order = np.argsort(-scores, kind="stable")
    num = max(1, len(scores) // 4)
    right = int(truth[order[:num]].sum() + (~truth[order[-num:]]).sum())
    bound = epsilon_lower_bound(right, 2 * num)
    check = line(
        "canaries", "lower bound of epsilon", "all",
        f"{right} of {2 * num} confident guesses on {len(scores)} canaries were right. No claim of differential "
        "privacy below this value can hold; this informs.",
        value=bound, low=bound, high=bound, threshold=1.0, needed=None, informs=True,
    )  # fmt: skip
    return check
