"""The verdict on sets whose verdict is known."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ttsgan.errors import ConfigError, DataError
from ttsgan.evaluation import gate
from ttsgan.evaluation.blocks import Blocks
from ttsgan.evaluation.copying import CopyFlags, copy_checks
from ttsgan.evaluation.gate import Thresholds, verdict
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.membership import OUTCOMES, Membership, membership_checks, splittings
from ttsgan.evaluation.privacy import audit, other_dates
from ttsgan.evaluation.stats import clopper_pearson_upper

STEPS = 6


def homes(num, seed, prefix, days=56):
    """Draw homes of lognormal days: own level, own shape, correlated noise."""
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(-1, 0.5, (num, 1, 1)))
    shape = np.exp(0.5 * rng.normal(size=(num, 1, STEPS)) + np.sin(np.arange(STEPS)))
    noise = np.exp(0.4 * rng.normal(size=(num, days, STEPS)) + 0.3 * rng.normal(size=(num, days, 1)))
    return Judged(
        values=(level * shape * noise).reshape(num, 1, -1).astype(np.float32),
        entities=np.array([f"{prefix}{i}" for i in range(num)]),
        starts=np.full(num, np.datetime64("2013-01-01", "s")),
        step_seconds=14_400,
        unit="kWh",
    )


@pytest.fixture(scope="module")
def real():
    return homes(300, 1, "t"), homes(300, 2, "h")


def line(result, name):
    return next(check for check in result["checks"] if check["name"].startswith(name))


def with_copies(synthetic, train, count):
    values = synthetic.values.copy()
    values[:count] = train.values[:count]
    return replace(synthetic, values=values)


def test_copied_training_set_fails_everywhere(real):
    copies = replace(homes(300, 3, "s"), values=real[0].values)
    result = audit(*real, copies)
    assert result["verdict"] == "FAIL"
    assert line(result, "AUC")["value"] > 0.99
    assert line(result, "literal copies")["value"] == 1
    assert line(result, "near-copies")["value"] == 1
    assert line(result, "true positive")["value"] > 0.95
    assert line(result, "risk from 1 known week")["value"] > 0.9
    assert result["self_test"] == {"planted": 20, "found": 20, "holdout_as_synthetic": "clean"}


def test_independent_draws_never_fail_and_small_ones_never_pass():
    for seed in range(8):
        sets = (homes(60, 100 * seed + i, prefix) for i, prefix in enumerate("ths"))
        assert audit(*sets, seed=seed)["verdict"] == "UNPROVEN", seed


def test_the_holdout_itself_is_no_leak_of_training(real):
    train, holdout = real
    result = audit(train, holdout, replace(holdout, entities=np.array([f"s{i}" for i in range(300)])))
    assert result["verdict"] == "UNPROVEN"
    assert result["self_test"]["found"] == result["self_test"]["planted"]


def test_unproven_says_how_many_entities_would_do(real):
    result = audit(*real, homes(300, 3, "s"))
    assert result["verdict"] == "UNPROVEN"
    open_checks = [check for check in result["checks"] if check["passed"] is None]
    assert any(check["needed_entities"] and check["needed_entities"] > 300 for check in open_checks)
    open_checks.sort(key=lambda check: check["value"] / max(check["threshold"], 1e-12), reverse=True)
    above = sum(check["value"] > check["threshold"] for check in open_checks)
    reasons = result["reasons"][above > 0 :]
    assert len(reasons) == len(open_checks)
    for check, reason in zip(open_checks, reasons, strict=True):
        assert f"limit is {check['threshold']:g}; about" in reason
        assert ("synthetic series would do" in reason) == (check["attack"] in ("copying", "fragments"))


def test_unproven_says_first_what_is_measured_above_its_limit():
    small = gate.line("copying", "near-copies", "all", "", value=0.0, low=0.0, high=0.01, threshold=0.001, needed=3102)
    large = gate.line("linkage", "4 weeks", "all", "", value=0.29, low=0.05, high=0.4, threshold=0.09, needed=900)
    word, reasons = verdict([small, large], [])
    assert word == "UNPROVEN"
    assert reasons[0] == "1 of 2 checks are measured above their limits, by chance or by a leak"
    assert reasons[1].startswith(
        "linkage: 4 weeks (all) is 0.29, but could be up to 0.4; the limit is 0.09; about 900 e"
    )
    assert reasons[2].endswith("about 3,102 synthetic series would do for a set without this leak")
    assert len(verdict([small], [])[1]) == 1


def test_a_single_literal_copy_fails_at_any_size():
    train, holdout, synthetic = (homes(40, seed, prefix) for seed, prefix in enumerate("ths"))
    assert audit(train, holdout, with_copies(synthetic, train, 1))["verdict"] == "FAIL"


def test_adding_copies_never_turns_fail_into_anything_better(real):
    synthetic = homes(300, 3, "s")
    few = [part.take(slice(0, 120)) for part in (*real, synthetic)]
    values = [audit(few[0], few[1], with_copies(few[2], few[0], count)) for count in (1, 12, 120)]
    assert [result["verdict"] for result in values] == ["FAIL"] * 3
    shares = [line(result, "near-copies")["value"] for result in values]
    assert shares == sorted(shares)


def test_holdout_in_the_place_of_training_finds_no_leak_for_the_copied_side(real):
    train, holdout = real
    copies = replace(homes(300, 3, "s"), values=train.values)
    result = audit(holdout, train, copies)
    assert line(result, "literal copies")["value"] == 0
    assert line(result, "AUC")["value"] < 0.5


def test_overlap_is_invalid(real):
    train, holdout = real
    shared = replace(holdout, entities=np.concatenate([train.entities[:2], holdout.entities[2:]]))
    result = audit(train, shared, homes(300, 3, "s"))
    assert result["verdict"] == "INVALID"
    assert "share 2 entities" in result["reasons"][0]
    twin = holdout.values.copy()
    twin[5] = train.values[7]
    result = audit(train, replace(holdout, values=twin), homes(300, 3, "s"))
    assert result["verdict"] == "INVALID"
    assert f"identical in train and holdout, for instance of {str(train.entities[7])!r} and of" in result["reasons"][0]
    assert repr(str(holdout.entities[5])) in result["reasons"][0]


def test_a_holdout_of_other_dates_is_no_control(real):
    """Honest series of the dates of training are nearer to training: that is no leak, and nothing else is known."""
    train, holdout = real
    later = replace(holdout, starts=holdout.starts + np.timedelta64(28, "D"))
    result = audit(train, later, homes(60, 2, "s"))
    assert result["verdict"] == "INVALID"
    assert "other dates" in result["reasons"][0]
    mixed = np.datetime64("2013-01-01", "s") + np.random.default_rng(0).integers(9, size=(2, 60)) * np.timedelta64(
        7, "D"
    )
    labels = np.arange(60).astype(str)
    assert other_dates((mixed[0], labels), (mixed[1], labels)) is None
    # Whose many series are of other dates counts once.
    many = np.concatenate([mixed[0], np.full(500, mixed[0, 0] + np.timedelta64(999, "D"))])
    assert other_dates((many, np.concatenate([labels, np.full(500, "0")])), (mixed[1], labels)) is None


def test_empty_and_constant_series_are_set_aside_and_counted(real):
    def spoil(judged):
        values = judged.values.copy()
        values[0], values[1], values[2, :, 50:80] = np.nan, 2.0, np.nan
        return replace(judged, values=values)

    result = audit(*(spoil(part) for part in (*real, homes(300, 3, "s"))))
    assert result["verdict"] == "UNPROVEN"
    for size in result["sizes"].values():
        assert (size["set_aside_empty"], size["set_aside_constant"], size["audited_entities"]) == (1, 1, 298)


def test_too_few_or_only_constant_series_are_invalid():
    train, holdout, synthetic = (homes(20, seed, prefix) for seed, prefix in enumerate("ths"))
    frozen = replace(synthetic, values=np.ones_like(synthetic.values))
    result = audit(train, holdout, frozen)
    assert result["verdict"] == "INVALID"
    assert "synthetic has 0 entities" in result["reasons"][0]
    assert audit(train, holdout.take(np.arange(5)), synthetic)["verdict"] == "INVALID"


def test_almost_empty_meters_are_no_copies():
    """Whoever is close to everybody's training series is close to the holdout as well."""

    def quiet(num, seed, prefix):
        judged = homes(num, seed, prefix)
        rng = np.random.default_rng(seed + 50)
        values = np.where(rng.random(judged.values.shape) < 0.98, 0, judged.values).astype(np.float32)
        return replace(judged, values=values)

    assert audit(quiet(100, 1, "t"), quiet(100, 2, "h"), quiet(100, 3, "s"))["verdict"] == "UNPROVEN"


def test_same_seed_same_audit_and_plain_json(real):
    synthetic = homes(100, 3, "s")
    first, second = (json.dumps(audit(*real, synthetic, seed=4), allow_nan=False) for _ in range(2))
    assert first == second
    told = []
    audit(*real, synthetic, progress=lambda done, text: told.append((done, text)))
    assert told[-1] == (1.0, "UNPROVEN")
    assert all(0 <= done <= 1 for done, _ in told)


def test_the_size_of_blocks_does_not_change_the_audit(real):
    synthetic = homes(100, 3, "s")
    whole, cut = (audit(*real, Blocks.of(synthetic, size), seed=4) for size in (100, 17))
    assert cut["verdict"] == whole["verdict"]
    for one, other in zip(whole["checks"], cut["checks"], strict=True):
        assert other["value"] == pytest.approx(one["value"], abs=1e-6), one["name"]


def test_a_holdout_in_blocks_is_the_same_control(real):
    train, holdout = real
    synthetic, halved = homes(100, 3, "s"), replace(holdout, entities=np.repeat(holdout.entities[::2], 2))
    found = [audit(train, of, synthetic, seed=4, max_targets=30) for of in (halved, Blocks.of(halved, 17))]
    assert found[0] == found[1]
    assert found[0]["sizes"]["holdout"]["entities"] == len(halved) // 2


def test_several_series_of_one_entity_count_once():
    train, holdout, synthetic = (homes(80, seed, prefix) for seed, prefix in enumerate("ths"))
    paired = [replace(part, entities=np.repeat(part.entities[:40], 2)) for part in (train, holdout)]
    result = audit(*paired, synthetic)
    assert result["sizes"]["train"]["entities"] == 40
    hits = line(result, "true positive")["value"] * 40 * OUTCOMES
    assert hits == pytest.approx(round(hits))


def honest_scores(num, seed, num_groups=1):
    """Scores of exchangeable members and non-members under five attacks that agree in part."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(2, num))
    members, nonmembers = ({f"a{i}": side + rng.standard_t(4, num) for i in range(5)} for side in shared)
    nonmembers = {name: score[: 3 * num // 4] for name, score in nonmembers.items()}
    sizes = num, 3 * num // 4
    oddness, groups = tuple(rng.exponential(size=n) for n in sizes), tuple(np.arange(n) % num_groups for n in sizes)
    return Membership(members, nonmembers, oddness, groups)


def test_honest_scores_of_5000_entities_pass_and_of_60_do_not():
    """The gate on exchangeable scores; the full audit at this size takes a minute (benchmarks)."""

    def checks(num, seed):
        none = np.zeros(num, bool)
        found = honest_scores(num, seed, max(1, num // 700))
        return [*copy_checks(CopyFlags(none, none, none, none), 2.0, Thresholds()),
                *membership_checks([found], Thresholds(), np.random.default_rng(seed))[0]]  # fmt: skip

    assert {verdict(checks(5000, seed), [])[0] for seed in range(20)} == {"PASS"}
    assert {verdict(checks(60, seed), [])[0] for seed in range(20)} == {"UNPROVEN"}


def test_which_halves_an_attack_is_chosen_on_hardly_matters():
    """The same scores, halved anew: by one halving the share recognised has a spread of .0017, of a limit of .02."""
    found = honest_scores(5000, 0)
    shares = [membership_checks([found], Thresholds(), np.random.default_rng(i))[0][1]["value"] for i in range(12)]
    assert np.std(shares) < 0.001


def test_leaking_scores_fail():
    rng = np.random.default_rng(0)
    num = 1000
    nobody = np.zeros(num, int), np.zeros(num, int)
    odd = tuple(rng.exponential(size=(2, num)))
    found = Membership({"a": rng.normal(0.5, 1, num)}, {"a": rng.normal(size=num)}, odd, nobody)
    checks, curve = membership_checks([found], Thresholds(), rng)
    assert checks[0]["passed"] is False
    assert np.all(np.diff(curve["tpr"]) >= 0)
    assert curve["fpr"][-1] == 1


def test_splittings_are_averaged_and_count_as_one():
    """Eight times the same scores are no more evidence than once: as wide an interval, up to the luck of halves."""
    rng = np.random.default_rng(0)
    nobody, odd = (np.zeros(100, int), np.zeros(100, int)), tuple(rng.exponential(size=(2, 100)))
    found = Membership({"a": rng.normal(0.3, 1, 100)}, {"a": rng.normal(size=100)}, odd, nobody)
    once, often = (membership_checks([found] * times, Thresholds(), rng)[0] for times in (1, 8))
    assert often[0]["high"] - often[0]["low"] == pytest.approx(once[0]["high"] - once[0]["low"], rel=0.1)
    assert 800 * often[1]["value"] == pytest.approx(round(800 * often[1]["value"]))


def test_few_entities_are_split_several_times_and_many_once():
    rng = np.random.default_rng(0)
    for num, times in ((80, 8), (350, 4), (1400, 1)):
        made = splittings(homes(num, 1, "h"), rng)
        assert len(made) == times
        for nonmembers, reference in made:
            assert len(reference) == -(-num // 4)
            assert sorted([*nonmembers.entities, *reference.entities]) == sorted(homes(num, 1, "h").entities)


def test_the_luck_of_an_audit_of_few_entities_is_small():
    """The same three sets, audited with other seeds: one splitting alone has a spread of .08."""
    sets = [homes(60, seed, prefix) for seed, prefix in ((1, "t"), (2, "h"), (3, "s"))]
    areas = [line(audit(*sets, seed=seed), "AUC")["value"] for seed in range(6)]
    assert np.std(areas) < 0.03


def test_verdicts_the_worst_wins():
    def check(passed, informs=False):
        return {"attack": "a", "name": "n", "stratum": "all", "value": 0.1, "low": 0.1, "high": 0.2, "threshold": 0.15,
                "passed": passed, "needed_entities": 50, "informs": informs}  # fmt: skip

    assert verdict([check(True)], [])[0] == "PASS"
    assert verdict([check(True), check(None)], [])[0] == "UNPROVEN"
    assert verdict([check(True), check(False, informs=True)], [])[0] == "PASS"
    assert verdict([check(None)], ["broken"]) == ("INVALID", ["broken"])
    assert verdict([check(None), check(False)], ["broken"])[0] == "FAIL"


def test_a_share_above_its_limit_is_not_asked_to_be_0():
    """A group that one entity dominates: known exactly, and no number of entities is told that would do."""
    check = gate.line("conditions", "share", "all", "", value=0.3, low=0.3, high=0.3, threshold=0.15, needed=None)
    _, (_, sentence) = verdict([check | {"passed": None}], [])
    assert sentence == "conditions: share (all) is 0.3; the limit is 0.15"


def test_thresholds_are_checked():
    with pytest.raises(ConfigError, match=r"thresholds\.auc is 0\.4"):
        Thresholds(auc=0.4)
    with pytest.raises(ConfigError, match=r"thresholds\.tpr"):
        Thresholds(tpr=0.005)


def test_sets_that_do_not_match_are_refused(real):
    with pytest.raises(DataError, match="synthetic: unit is 'kW'"):
        audit(*real, replace(homes(20, 3, "s"), unit="kW"))


def test_judges_know_no_model():
    for path in (Path(__file__).parents[2] / "ttsgan" / "evaluation").glob("*.py"):
        text = path.read_text()
        assert not any(f"ttsgan.{part}" in text for part in ("models", "training", "data", "config")), path.name


def test_a_series_written_many_times_counts_once_in_copying(real):
    """A collapsed generator is a bad one, not a hundred copies."""
    few = [part.take(slice(0, 100)) for part in real]
    collapsed = replace(homes(100, 3, "s"), values=np.repeat(few[0].values.mean(0, keepdims=True), 100, 0))
    result = audit(*few, collapsed)
    assert result["sizes"]["synthetic"]["distinct"] == 1
    assert not [check for check in result["checks"] if check["attack"] == "copying" and check["passed"] is False]


@pytest.mark.parametrize("kind", ["two channels", "no day", "short", "hours", "gaps"])
def test_any_shape_is_audited(kind):
    def reshape(judged):
        x = judged.values
        if kind == "two channels":
            return replace(judged, values=np.concatenate([x, 2 * np.roll(x, 3, -1)], axis=1))
        if kind == "no day":
            return replace(judged, step_seconds=50_000)
        if kind == "short":
            return replace(judged, values=x[:, :, :30])
        if kind == "hours":
            return replace(judged, values=np.repeat(x, 4, axis=2), step_seconds=3600)
        values = np.where(np.random.default_rng(len(x)).random(x.shape) < 0.2, np.nan, x)
        return replace(judged, values=values.astype(np.float32))

    train, holdout, other = (reshape(homes(60, seed, prefix)) for seed, prefix in enumerate("ths"))
    assert audit(train, holdout, other)["verdict"] == "UNPROVEN"
    copies = replace(other, values=train.filled())
    assert audit(train, holdout, copies)["verdict"] == "FAIL"


def test_how_many_non_members_are_recognised_stands_beside_the_members(real):
    """Of few controls none may be recognised at 1 %: the least share that can be is what members are read with."""
    few = [part.take(slice(0, 60)) for part in (*real, homes(60, 3, "s"))]
    result = audit(*few)
    of_tail = [check for check in result["checks"] if "false positives" in check["name"]]
    assert [check["stratum"] for check in of_tail if not check["stratum"].startswith("group")] == ["all"]
    beside = r"of other non-members 0(\.\d+)? are recognised(: they are too few to measure 1 %)?"
    assert re.fullmatch(beside, of_tail[0]["beside"])
    if of_tail[0]["passed"] is None:
        assert any(f"({of_tail[0]['beside']})" in reason for reason in result["reasons"])


def test_least_for_pass_is_where_the_bounds_meet_their_limits():
    limits = Thresholds()
    series, members = gate.least_for_pass(limits)
    none_found = [clopper_pearson_upper(0, num, gate.COPIES_ERROR) for num in (series, 0.98 * series)]
    assert none_found[0] <= limits.soft_copies < none_found[1]
    by_chance = [clopper_pearson_upper(limits.fpr * num, num) for num in (members, 0.9 * members)]
    assert by_chance[0] <= 1.01 * limits.tpr < by_chance[1]
    assert gate.least_for_pass(Thresholds(tpr=0.0101))[1] > members
