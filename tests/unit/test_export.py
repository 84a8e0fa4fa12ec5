"""What a release says of the data that it was made from."""

from dataclasses import fields

import pytest

from ray_jobs.evaluate import _changes
from ray_jobs.export import loosened
from ttsgan import recipes
from ttsgan.evaluation.gate import Thresholds


def test_looser_limits_are_named_and_stricter_ones_are_not():
    config = recipes.quick()
    assert loosened(config) == ""
    assert loosened(recipes.override(config, ["audit.auc=0.53", "audit.max_targets=9000"])) == ""
    assert loosened(recipes.override(config, ["cluster.max_dominance=0.1", "cluster.min_group_size=20"])) == ""


@pytest.mark.parametrize("limit", [field.name for field in fields(Thresholds)])
def test_every_limit_that_can_be_set_is_named_when_it_is_looser(limit):
    config = recipes.quick()
    section = next((name for name in ("audit", "cluster") if hasattr(getattr(config, name), limit)), None)
    if section is None:
        return  # of the gate alone: nobody can set it
    usual = getattr(Thresholds(), limit)
    looser = 10 if limit == "min_group_size" else 0.9
    set_so = loosened(recipes.override(config, [f"{section}.{limit}={looser}"]))
    assert set_so == f"{section}.{limit} = {looser}, usually {usual:g}"


def test_no_name_of_a_file_or_column_is_given_away():
    config = recipes.override(recipes.quick(), ["data.source=Smith_12.csv", "data.entity=customer_name", "seed=7"])
    assert _changes(config, show_data=False) == ["seed = 7"]
    assert "data.entity = customer_name" in _changes(config, show_data=True)
