"""The audit on simulated households whose answer is known, over many seeds; run with ``pytest -m slow``."""

from dataclasses import replace

import numpy as np
import pytest

from ttsgan.data.simulate import simulate
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import audit
from ttsgan.evaluation.stats import clopper_pearson_lower, clopper_pearson_upper

pytestmark = pytest.mark.slow
SEEDS = 60


@pytest.fixture(scope="module")
def pool():
    """1,500 simulated households of 4-hour means, a whole year each."""
    made = simulate(1500, seed=77)
    return Judged(
        values=made.values, entities=made.ids, starts=made.starts, step_seconds=made.step_seconds, unit=made.unit
    )


def three(pool, num, seed):
    """Draw disjoint train, holdout and honest sets."""
    order = np.random.default_rng(seed).permutation(len(pool))
    train, holdout, other = (pool.take(np.sort(order[i * num : (i + 1) * num])) for i in range(3))
    return train, holdout, as_synthetic(other)


def as_synthetic(judged):
    return replace(judged, entities=np.array([f"s{i}" for i in range(len(judged))]))


def line(result, name):
    return next(check for check in result["checks"] if check["name"].startswith(name))


@pytest.mark.parametrize("what", ["the holdout itself", "other real households"])
def test_false_alarms_over_sixty_seeds(pool, what):
    """No FAIL and no INVALID: the upper 95 % bound of the rate of false alarms is then 4.9 %."""
    verdicts = []
    for seed in range(SEEDS):
        train, holdout, other = three(pool, 100, seed)
        synthetic = as_synthetic(holdout) if what.startswith("the holdout") else other
        verdicts.append(audit(train, holdout, synthetic, seed=seed)["verdict"])
    alarms = SEEDS - verdicts.count("UNPROVEN") - verdicts.count("PASS")
    assert clopper_pearson_upper(alarms, SEEDS) < 0.05, (alarms, verdicts)


def test_copied_training_set(pool):
    train, holdout, _ = three(pool, 500, 0)
    result = audit(train, holdout, as_synthetic(train))
    assert result["verdict"] == "FAIL"
    assert line(result, "AUC")["value"] > 0.99
    assert line(result, "literal copies")["value"] == 1
    assert line(result, "near-copies")["value"] == 1
    assert all(check["value"] > 0.9 for check in result["checks"] if check["attack"] == "linkage")


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_the_share_of_copies_is_inside_its_interval(pool, share):
    train, holdout, other = three(pool, 500, 1)
    values = other.values.copy()
    planted = round(share * 500)
    values[:planted] = train.values[:planted]
    found = line(audit(train, holdout, replace(other, values=values)), "literal copies")["value"]
    hits = round(found * 500)
    assert clopper_pearson_lower(hits, 500, 0.025) <= share <= clopper_pearson_upper(hits, 500, 0.025)


@pytest.mark.parametrize("kind", ["shifted", "scaled", "noisy"])
def test_disguised_copies_fail(pool, kind):
    train, holdout, other = three(pool, 300, 2)
    rng = np.random.default_rng(0)
    x = train.values
    made = {
        "shifted": np.stack([np.roll(row, 6 * int(rng.integers(-7, 8)), -1) for row in x]),
        "scaled": x * rng.uniform(0.8, 1.25, (len(x), 1, 1)).astype(np.float32),
        "noisy": x + 0.05 * np.nanstd(x, -1, keepdims=True) * rng.standard_normal(x.shape).astype(np.float32),
    }[kind]
    result = audit(train, holdout, replace(other, values=made.astype(np.float32)))
    assert result["verdict"] == "FAIL"
    assert line(result, "near-copies")["value"] > 0.99


def test_swapped_weeks_and_means_of_five_fail(pool):
    train, holdout, other = three(pool, 500, 3)
    rng = np.random.default_rng(0)
    filled = train.filled()
    pasted, week = np.empty_like(filled), 42
    for begin in range(0, filled.shape[2], week):
        pasted[:, :, begin : begin + week] = filled[rng.permutation(500), :, begin : begin + week]
    result = audit(train, holdout, replace(other, values=pasted))
    assert result["verdict"] == "FAIL"
    failed = [check for check in result["checks"] if check["attack"] == "fragments" and check["passed"] is False]
    assert len(failed) == 3
    means = np.stack([filled[rng.permutation(500)[:5]].mean(0) for _ in range(500)])
    assert audit(train, holdout, replace(other, values=means))["verdict"] == "FAIL"
