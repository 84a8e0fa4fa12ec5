"""The report's tables: places of bars and words, against values worked out by hand."""

import pytest

from ttsgan.evaluation import tables


def check(name="share", value=0.0, low=0.0, high=0.01, threshold=0.02, passed=True, attack="membership", **more):
    return {
        "attack": attack, "name": name, "stratum": "all", "value": value, "low": low, "high": high,
        "threshold": threshold, "passed": passed, "needed_entities": None, "explains": name, **more,
    }  # fmt: skip


def metric(ratio=1.0, low=0.5, high=2.0, family="size", **more):
    return {
        "family": family, "name": f"{family} {ratio}", "distance": 0.2 * ratio, "floor": 0.2, "ratio": ratio,
        "low": low, "high": high, "unit": "u", "in_headline": True, "sees": "s", "blind_to": "b", **more,
    }  # fmt: skip


def row(**values):
    return tables.check_groups([check(**values)])[0]["worst"]


@pytest.mark.parametrize(
    ("values", "places"),
    [
        # the limit lies in the middle, three times the limit at 3 / 4, a third of it at 1 / 4
        ({"value": 0.02, "low": 0.02 / 3, "high": 0.06}, {"from": 25.0, "value": 50.0, "to": 75.0}),
        ({"value": 0.0, "low": 0.0, "high": 0.02}, {"from": 0.0, "value": 0.0, "to": 50.0}),
        # a gain beyond all bounds stays on the bar
        ({"value": 1.0, "low": 1.0, "high": 1.0, "threshold": 1e-6}, {"from": 97.0, "value": 97.0, "to": 97.0}),
        # an AUC counts from the coin toss: 0.6 is twice as far from it as the limit
        (
            {"name": "AUC", "value": 0.5, "low": 0.45, "high": 0.6, "threshold": 0.55},
            {"from": 0.0, "value": 0.0, "to": 66.67},
        ),
        # where none is allowed a bound says nothing
        ({"value": 0.0, "high": 0.01, "threshold": 0.0}, {"from": 0.0, "value": 0.0, "to": 0.0}),
        ({"value": 0.1, "high": 0.2, "threshold": 0.0}, {"from": 97.0, "value": 97.0, "to": 97.0}),
        ({"value": 0.02, "low": None, "high": None}, {"from": 0.0, "value": 50.0, "to": 0.0}),
    ],
)
def test_checks_lie_on_their_bar_in_multiples_of_the_limit(values, places):
    assert row(**values)["bar"] == pytest.approx(places)


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ({"value": 0.0123, "high": 0.5, "threshold": 0.02}, ("1.23\u202f%", "50\u202f%", "2\u202f%")),
        ({"name": "AUC", "value": 0.5, "high": 0.51, "threshold": 0.55}, ("0.500", "0.510", "0.550")),
        ({"value": 0.0, "high": 0.01, "threshold": 0.0}, ("0\u202f%", "–", "none")),
        ({"name": "lower bound of epsilon", "value": 2.5, "high": 2.5, "threshold": 1.0}, ("2.5", "2.5", "1")),
        ({"name": "entities missing from the smallest condition", "value": 3.0, "threshold": 0.0}, ("3", "–", "none")),
        ({"value": 0.5, "high": None}, ("50\u202f%", "–", "2\u202f%")),
    ],
)
def test_values_are_written_in_their_own_unit(values, written):
    made = row(**values)
    assert (made["value"], made["bound"], made["limit"]) == written


def test_the_worst_come_first_and_what_informs_comes_last():
    checks = [
        check("near", high=0.019),
        check("nearer", high=0.0195),
        check("informs", passed=False, high=0.9, informs=True),
        check("open", passed=None, high=0.5),
        check("copied", attack="copying", value=0.1, threshold=0.0, passed=False),
        check("safe", attack="linkage"),
    ]
    groups = tables.check_groups(checks)
    assert [group["attack"] for group in groups] == ["Copying", "Membership", "Linkage"]
    assert [line["name"] for line in groups[1]["rows"]] == ["Open", "Nearer", "Near", "Informs"]
    assert groups[1]["counts"] == "4 checks: 1 not proven, 2 below limit, 1 for information"
    assert groups[2]["counts"] == "1 check: 1 below limit"
    assert tables.check_groups([]) == []


def test_an_unknown_attack_has_no_words_and_equal_explanations_stand_once():
    checks = [check(str(i), attack="new", high=0.01 - 0.001 * i, explains="the same") for i in range(3)]
    (group,) = tables.check_groups(checks)
    assert (group["attack"], group["about"]) == ("New", "")
    assert [line["explains"] for line in group["rows"]] == ["the same", "", ""]


def test_what_is_open_needs_the_most_of_each_kind():
    checks = [
        check(passed=None, needed_entities=700),
        check(passed=None, needed_entities=90),
        check(passed=None, needed_entities=9000, informs=True),
        check(passed=None, attack="copying", needed_entities=3102),
        check(passed=None, attack="linkage"),
    ]
    words = "About 3,102 synthetic series and 700 entities each in training and held out would settle what is open."
    assert tables.open_needs(checks) == words
    assert tables.open_needs([check(), check(passed=None)]) == ""


def test_ratios_lie_on_one_logarithmic_axis():
    # from 0.5 to 16 are five doublings
    assert tables.ratio_marks() == [(1, 20.0), (2, 40.0), (4, 60.0), (8, 80.0), (16, 100.0)]
    (family,) = tables.metric_families([metric(4.0, 1.0, 32.0), metric(64.0, None, None)])
    beyond, inside = (line["bar"] for line in family["rows"])
    assert inside == {"one": 20.0, "value": 60.0, "from": 20.0, "to": 60.0, "low": 20.0, "high": 100.0, "beyond": False}
    assert beyond == {
        "one": 20.0, "value": 100.0, "from": 20.0, "to": 100.0, "low": 100.0, "high": 100.0, "beyond": True,
    }  # fmt: skip


def test_families_keep_their_order_and_sort_inside():
    found = tables.metric_families([metric(1.0), metric(3.0, family="other"), metric(2.0)])
    assert [(part["name"], [line["ratio"] for line in part["rows"]]) for part in found] == [
        ("Size", ["2", "1"]), ("Other", ["3"]),
    ]  # fmt: skip
    assert (found[0]["about"], found[1]["about"]) == ("how large series are", "")


def test_learned_models_and_classifiers_make_rows():
    utility = metric(1.5, family="utility", naive=0.4, beats_naive=True, ratio_noise=0.1)
    old = metric(2.0, family="utility")
    rows = tables.utility_rows([utility, old, metric()])
    assert [(line["distance"], line["floor"], line["naive"], line["noise"], line["beats"][1]) for line in rows] == [
        ("0.4", "0.2", "–", "–", "–"),
        ("0.3", "0.2", "0.4", "± 11\u202f%", "✓ yes"),
    ]
    classifiers = [metric(2.0, family="classifier", auc=0.75, auc_floor=0.55), metric(3.0, family="classifier")]
    (line,) = tables.classifier_rows(classifiers)
    assert (line["auc"], line["floor"], line["bar"]) == ("0.750", "0.550", {"value": 50.0, "floor": 10.0})


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (1.1, 0.9, 1.4, "within the interval"),
        (1.5, 1.2, 1.8, "1.5 times as far"),
        (0.5, None, None, "look for copies"),
        (250.0, 200.0, 300.0, "250 times"),
    ],
)
def test_the_headline_is_put_into_a_sentence(value, low, high, words):
    made = tables.headline({"headline": {"value": value, "low": low, "high": high, "metrics": 3}})
    assert words in made["sentence"]
    assert all(0 <= place <= 100 for _, place in made["marks"])
    assert made["bar"]["beyond"] is False


def test_fingerprints_are_shortened_and_other_words_are_not():
    made = tables.attempts(
        {"attempts": [{"verdict": "PASS", "train": "0123456789abcdef" * 4, "x_y": None}, "in words that go on and on"]}
    )
    assert made == {
        "columns": ["Verdict", "Train", "X y", "Attempt"],
        "rows": [["PASS", "01234567…", "", ""], ["", "", "", "in words that go on and on"]],
    }
    assert tables.attempts({}) is None
