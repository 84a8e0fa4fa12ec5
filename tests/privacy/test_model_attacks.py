"""Attacks with the owner's knowledge: conditions against theory, and canaries against published values."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from ttsgan.evaluation.gate import Thresholds
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.model_attacks import (
    Inside,
    canary_check,
    effective_dimensions,
    epsilon_lower_bound,
    network_checks,
    structure_checks,
    tracing_check,
    tracing_scores,
)
from ttsgan.evaluation.stats import auc_delong


@pytest.mark.parametrize(("dimensions", "k"), [(64, 10), (64, 50), (256, 20), (16, 100)])
def test_tracing_a_mean_of_k_meets_theory(dimensions, k):
    rng = np.random.default_rng(0)
    members, others = [], []
    for _ in range(4000 // k + 10):
        inside, outside = rng.normal(size=(2, k, dimensions))
        for rows, out in ((inside, members), (outside, others)):
            out.append(tracing_scores(rows, inside.mean(0), np.zeros(dimensions), np.eye(dimensions)))
    auc = auc_delong(np.concatenate(members), np.concatenate(others))[0]
    assert auc == pytest.approx(norm.cdf(math.sqrt(dimensions / (2 * k))), abs=0.03)


def test_effective_dimensions_of_a_sphere_and_of_a_line():
    rng = np.random.default_rng(0)
    assert effective_dimensions(rng.normal(size=(20_000, 10))) == pytest.approx(10, rel=0.02)
    assert effective_dimensions(np.outer(rng.normal(size=500), np.ones(10))) == pytest.approx(1)


def latents_as_series(latents, prefix):
    num = len(latents)
    return Judged(
        values=latents[:, None].astype(np.float32), entities=np.array([f"{prefix}{i}" for i in range(num)]),
        starts=np.full(num, np.datetime64("2013-01-01", "s")), step_seconds=3600, unit="kWh",
    )  # fmt: skip


def inside_of(train, groups):
    conditions = np.stack([train.values[groups == g, 0].mean(0) for g in range(groups.max() + 1)])
    return Inside(
        encode=lambda judged: judged.values[:, 0], discriminate=None, conditions=conditions, entities=train.entities,
        condition_of=groups, dominance=np.full(len(conditions), 0.1),
    )  # fmt: skip


def test_members_are_traced_in_their_condition():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 20)
    centres = rng.normal(size=(20, 1, 64)) * 3
    train, holdout = ((centres + rng.normal(size=(20, n, 64))).reshape(-1, 64) for n in (20, 60))
    train, holdout = latents_as_series(train, "t"), latents_as_series(holdout, "h")
    inside = inside_of(train, groups)
    check = tracing_check(inside, train.entities, inside.encode(train), inside.encode(holdout), Thresholds())
    # the attacker's centre is a mean of 30 itself, which costs a little
    assert norm.cdf(math.sqrt(64 / 40)) - 0.08 < check["value"] < norm.cdf(math.sqrt(64 / 40)) + 0.03
    assert check["informs"]
    assert check["passed"] is False


def test_rules_of_conditions_are_counted():
    train = latents_as_series(np.random.default_rng(0).normal(size=(30, 4)), "t")
    good = inside_of(train, np.repeat([0, 1], 15))
    assert all(check["passed"] for check in structure_checks(good, Thresholds()))
    small = inside_of(train, np.repeat([0, 1], [16, 14]))
    by_name = {check["name"].split()[0]: check for check in structure_checks(small, Thresholds())}
    assert by_name["entities"]["value"] == 1
    assert by_name["entities"]["passed"] is False
    assert not by_name["entities"]["informs"]


@pytest.mark.parametrize(("right", "epsilon"), [(200, 4.19), (150, 0.82), (120, 0.16), (100, 0.0), (0, 0.0)])
def test_epsilon_from_guesses_on_canaries(right, epsilon):
    assert epsilon_lower_bound(right, 200) == pytest.approx(epsilon, abs=0.01)


def test_canaries_that_were_learnt_are_told_apart():
    rng = np.random.default_rng(0)
    assert canary_check(rng.normal(4, 1, 200), rng.normal(size=200))["value"] > 3
    assert canary_check(rng.normal(size=200), rng.normal(size=200))["value"] < 0.4


def test_a_discriminator_that_knows_its_members_fails():
    """Latents are noise; the discriminator likes the members."""
    rng = np.random.default_rng(3)
    members, nonmembers, reference = (
        latents_as_series(rng.normal(size=(num, 8)), prefix) for num, prefix in ((300, "t"), (300, "h"), (150, "r"))
    )
    synthetic = latents_as_series(rng.normal(size=(300, 8)), "s")
    plain = inside_of(members, np.repeat(np.arange(10), 30))
    knows = replace(
        plain, discriminate=lambda judged, latents: np.char.startswith(judged.entities, "t") + latents[:, 0]
    )
    sets = members, [(nonmembers, reference)], synthetic
    fair, leaky = (network_checks(inside, *sets, Thresholds(), rng)[0] for inside in (plain, knows))
    assert fair["passed"] is not False
    assert leaky["passed"] is False
    assert leaky["name"] == "AUC through the networks"
