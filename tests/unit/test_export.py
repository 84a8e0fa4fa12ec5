"""What a release says of the data that it was made from."""

from ray_jobs.evaluate import _changes
from ray_jobs.export import loosened
from ttsgan import recipes


def test_looser_limits_are_named_and_stricter_ones_are_not():
    config = recipes.quick()
    assert loosened(config) == ""
    assert loosened(recipes.override(config, ["audit.auc=0.53", "audit.max_targets=9000"])) == ""
    looser = loosened(recipes.override(config, ["audit.auc=0.9", "audit.tpr=0.5"]))
    assert looser == "audit.auc = 0.9, usually 0.55, audit.tpr = 0.5, usually 0.02"


def test_no_name_of_a_file_or_column_is_given_away():
    config = recipes.override(recipes.quick(), ["data.source=Smith_12.csv", "data.entity=customer_name", "seed=7"])
    assert _changes(config, show_data=False) == ["seed = 7"]
    assert "data.entity = customer_name" in _changes(config, show_data=True)
